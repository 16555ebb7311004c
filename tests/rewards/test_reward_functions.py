"""Reward functions and their registry: called the TRL way, by name, from files and plugins, pickled, checked."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import available_rewards, get_reward, get_rewards

STANDARD = [
    r"so \boxed{5}",
    r"so \boxed{6}",
    "no idea at all, really, this is far too hard for me to solve",
    r"\boxed{5}",
]
GOLDS = ["5", "5", "5", ""]
CONVERSATIONAL = [[{"role": "assistant", "content": text}] for text in STANDARD]


@pytest.mark.parametrize("completions", [STANDARD, CONVERSATIONAL], ids=["standard", "conversational"])
def test_math_scores_and_logged_columns(completions: list[Any]) -> None:
    extra: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    reward = get_reward("math")
    scores = reward(
        prompts=["p"] * 4,
        completions=completions,
        completion_ids=[[1]] * 4,
        answer=GOLDS,
        id=list("abcd"),
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
        trainer_state=None,
    )
    assert scores == [1.0, 0.0, 0.0, None]
    seconds = extra.pop("verify_seconds")
    assert len(seconds) == 4 and min(seconds) > 0
    assert extra == {"verdict": ["correct", "wrong", "no_answer", "bad_gold"], "extracted": ["5", "6", "", ""]}
    shares = [value for name, value in metrics.items() if name.startswith("verdict/")]
    assert metrics["verdict/correct"] == 0.25 and len(shares) == 7 and sum(shares) == 1.0


def test_math_takes_trls_solution_column_and_says_what_is_missing() -> None:
    assert get_reward("math")(completions=[r"\boxed{\frac{1}{2}}"], solution=["$0.5$"]) == [1.0]
    with pytest.raises(RewardError, match=r"no column 'answer' or 'solution'.*columns: gold, id"):
        get_reward("math")(completions=["x"], gold=["1"], id=["a"])
    assert get_reward({"name": "math", "args": {"gold": "key"}})(completions=[r"\boxed{1}"], key=["1"]) == [1.0]
    with pytest.raises(RewardError, match="2 completions, but 1 golds"):
        get_reward("math")(completions=["1", "2"], answer=["1"])


THINK = "<think>\nhm\n</think>\n"


@pytest.mark.parametrize(
    ("args", "text", "score"),
    [
        ({}, THINK + "<answer>5</answer>", 1.0),
        ({}, THINK + "<answer> </answer>", 0.0),
        ({}, THINK + "5", 0.0),
        ({}, "<answer>5</answer>", 0.0),
        ({}, THINK + "<answer>5</answer> and more", 0.0),
        ({}, THINK + "<answer>5</answer><answer>6</answer>", 0.0),
        ({}, THINK + THINK + "<answer>5</answer>", 0.0),
        ({"think_in_prompt": True}, "hm</think><answer>5</answer>", 1.0),
        ({"style": "think"}, THINK + "5", 1.0),
        ({"style": "think"}, THINK, 0.0),
        ({"style": "think"}, "<think></think>5", 0.0),
        ({"style": "boxed"}, r"so \boxed{\frac{1}{2}}", 1.0),
        ({"style": "boxed"}, r"<think>\boxed{5}</think> five", 0.0),
        ({"style": "boxed"}, r"\boxed{}", 0.0),
        ({"style": "boxed"}, r"\boxed{5", 0.0),
    ],
)
def test_format(args: dict[str, Any], text: str, score: float) -> None:
    assert get_reward({"name": "format", "args": args})(completions=[text]) == [score]


def test_length_is_dapos_equation() -> None:
    reward = get_reward({"name": "length", "args": {"max_tokens": 10, "buffer_tokens": 4}})
    lengths = [1, 6, 7, 8, 10, 30]
    assert reward(completions=["x"] * 6, completion_ids=[[0] * n for n in lengths]) == [
        0.0,
        0.0,
        -0.25,
        -0.5,
        -1.0,
        -1.0,
    ]
    with pytest.raises(RewardError, match="no completion_ids"):
        reward(completions=["x"])


def test_weighted_sum_masks_as_soon_as_one_part_does() -> None:
    extra: dict[str, Any] = {}
    reward = get_reward(["math", {"name": "format", "weight": 0.5, "args": {"style": "boxed"}}])
    assert reward(completions=STANDARD, answer=GOLDS, log_extra=extra.__setitem__) == [1.5, 0.5, 0.0, None]
    assert extra["reward_format"] == [1.0, 1.0, 0.0, 1.0] and extra["reward_math"] == [1.0, 0.0, 0.0, None]
    assert reward.__name__ == "1*math+0.5*format"
    assert get_reward({"name": "math", "weight": 2})(completions=STANDARD, answer=GOLDS) == [2.0, 0.0, 0.0, None]


USER_FILE = """
class Fixed:
    def __init__(self, value=1.0):
        self.value = value
    def __call__(self, completions, **columns):
        return [self.value] * len(completions)

def count(completions, answer, letter="a"):
    return [text.count(letter) + len(gold) for text, gold in zip(completions, answer)]

def short(completions):
    return [1.0]

def infinite(completions):
    return [float("inf")] * len(completions)

def words(completions):
    return ["good"] * len(completions)

async def later(completions):
    return [1.0]

def thirds(completion_ids, **columns):
    return [[place / 4 for place in range(len(ids))] if ids else None for ids in completion_ids]
thirds.token_level = True

class Flat:
    token_level = True
    def __init__(self, value):
        self.value = value
    def __call__(self, completion_ids, **columns):
        return [[self.value] * 3 for _ in completion_ids]

def untold(completions):
    return [1.0, 2.0]
untold.token_level = True
"""


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "broken.py").write_text("raise ValueError('on purpose')")
    return tmp_path


def test_a_function_from_the_users_own_file(user_folder: Path) -> None:
    reward = get_reward("mine.py:count", base_dir=user_folder)
    assert reward(prompts=["p", "q"], completions=["aa", "b"], answer=["x", "yz"], id=["1", "2"]) == [3.0, 2.0]
    tuned = get_reward({"name": "mine.py:count", "args": {"letter": "b"}}, base_dir=user_folder)
    assert tuned(completions=["aa", "b"], answer=["", ""]) == [0.0, 1.0]
    fixed = get_reward({"name": f"{user_folder}/mine.py:Fixed", "args": {"value": 3}})
    assert fixed(completions=["a"], answer=["b"]) == [3.0]


@pytest.mark.parametrize(
    "spec",
    [
        "math",
        "mine.py:count",
        {"name": "mine.py:Fixed", "args": {"value": 3}},
        [{"name": "format", "weight": 2}, "mine.py:Fixed"],
    ],
)
def test_rewards_cross_into_another_process(spec: Any, user_folder: Path) -> None:
    reward = get_reward(spec, base_dir=user_folder)
    columns = {"completions": ["aa", r"\boxed{5}"], "answer": ["5", "5"]}
    program = (
        "import pickle, sys\nreward, columns = pickle.load(sys.stdin.buffer)\nprint(reward(**columns), reward.__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((reward, columns)), capture_output=True, timeout=60
    )
    assert run.stdout.decode().strip() == f"{reward(**columns)} {reward.__name__}", run.stderr.decode()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("maths", "did you mean 'math'"),
        ([], "empty list"),
        (7, "a int"),
        ({"name": "math", "wieght": 2}, "did you mean 'weight'"),
        ({"name": "math", "weight": "2"}, "no finite number"),
        ({"name": "math", "args": {"polcy": "strict"}}, "its arguments: policy, gold"),
        ({"name": "math", "args": {"policy": "strct"}}, "did you mean 'strict'"),
        ({"name": "format", "args": {"style": "box"}}, "did you mean 'boxed'"),
        ({"name": "length", "args": {"max_tokens": 5, "buffer_tokens": 9}}, "must lie in"),
        ("nowhere.py:f", "there is no file"),
        ("mine.py:cuont", "did you mean 'count'"),
        ("broken.py:f", "raised ValueError while it was imported: on purpose"),
        ("mine.py:later", "async"),
        ({"name": "mine.py:count", "args": {"leter": "b"}}, "did you mean 'letter'"),
    ],
)
def test_specs_that_do_not_fit(spec: Any, message: str, user_folder: Path) -> None:
    with pytest.raises(RewardError, match=message):
        get_reward(spec, base_dir=user_folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("short", "1 scores for 2"), ("infinite", "inf for completion 0"), ("words", "'good' for completion 0")],
)
def test_what_a_users_function_returns_is_checked(name: str, message: str, user_folder: Path) -> None:
    with pytest.raises(RewardError, match=message):
        get_reward(f"mine.py:{name}", base_dir=user_folder)(completions=["a", "b"])


def test_rewards_of_tokens_stay_lists_of_tokens(user_folder: Path) -> None:
    batch = {"completions": ["a", "b"], "completion_ids": [[1, 2, 3], []]}
    quarters = get_reward("mine.py:thirds", base_dir=user_folder)
    assert quarters.token_level and quarters(**batch) == [[0.0, 0.25, 0.5], None]
    again = pickle.loads(pickle.dumps(quarters))
    assert again.token_level and again(**batch) == quarters(**batch)
    flat = {"name": "mine.py:Flat", "weight": 2, "args": {"value": 1.5}}
    both = get_reward([flat, {"name": "mine.py:thirds", "weight": -4}], base_dir=user_folder)
    batch["completion_ids"] = [[1, 2, 3], [4, 5, 6]]
    assert both.token_level and both(**batch) == [[3.0, 2.0, 1.0]] * 2


def test_rewards_of_responses_and_of_tokens_come_apart(user_folder: Path) -> None:
    mixed = ["math", {"name": "mine.py:thirds", "weight": 4}, {"name": "format", "weight": 0.5}]
    whole, tokens = get_rewards(mixed, base_dir=user_folder)
    assert (whole.token_level, whole.__name__) == (False, "1*math+0.5*format")
    assert tokens.token_level and tokens(completions=["x"], completion_ids=[[7, 7]]) == [[0.0, 1.0]]
    assert [reward.__name__ for reward in get_rewards("math")] == ["math"]
    with pytest.raises(RewardError, match="of whole responses and of tokens"):
        get_reward(mixed, base_dir=user_folder)


@pytest.mark.parametrize(
    ("name", "ids", "message"),
    [
        ({"name": "mine.py:Flat", "args": {"value": 1}}, [[1, 2, 3], [1, 2]], "3 numbers for completion 1 of 2 tokens"),
        ({"name": "mine.py:Flat", "args": {"value": "x"}}, [[1, 2, 3]] * 2, "'x' for token 0 of completion 0"),
        ("mine.py:untold", [[1], [2]], "1.0 for completion 0 -> it is token_level"),
    ],
)
def test_what_a_token_level_function_returns_is_checked(
    name: Any, ids: list[list[int]], message: str, user_folder: Path
) -> None:
    with pytest.raises(RewardError, match=message):
        get_reward(name, base_dir=user_folder)(completions=["a", "b"], completion_ids=ids)


def test_an_installed_plugin_is_found_by_name(user_folder: Path) -> None:
    info = user_folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reasonrl.rewards]\nletters = mine:count\nfixed = mine:Fixed\n")
    program = (
        "from reasonrl.rewards import available_rewards, get_reward\n"
        "known = {'fixed', 'letters', 'math'} <= set(available_rewards())\n"
        "print(known, get_reward('letters')(completions=['aa'], answer=['']), "
        "get_reward({'name': 'fixed', 'args': {'value': 2.0}})(completions=['a']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(user_folder)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "True [2.0] [2.0]", run.stderr
    assert set(available_rewards()) >= {"math", "format", "length"}


def test_trls_own_trainer_takes_our_rewards_unchanged() -> None:
    """TRL's `_calculate_rewards` itself, on a bare object that has only what the method reads."""
    from accelerate import Accelerator
    from transformers import TrainerState
    from trl import GRPOTrainer

    reward: Callable[..., Any] = get_reward("math")
    extra: dict[str, Any] = {}
    metrics: dict[str, Any] = {}

    class Bare:
        accelerator = Accelerator(cpu=True)
        state = TrainerState()
        environments = None
        reward_funcs = (reward,)
        reward_processing_classes = (None,)
        reward_func_names = (reward.__name__,)
        _log_completion_extra = staticmethod(extra.__setitem__)
        _log_metric = staticmethod(metrics.__setitem__)
        args = type("Args", (), {"report_to": []})()

    rows = [{"prompt": "p", "answer": gold} for gold in GOLDS]
    for completions in (STANDARD, CONVERSATIONAL):
        scores = GRPOTrainer._calculate_rewards(Bare(), rows, ["p"] * 4, completions, [[1]] * 4)
        assert scores[:, 0].nan_to_num(-1.0).tolist() == [1.0, 0.0, 0.0, -1.0]
    assert extra["verdict"] == ["correct", "wrong", "no_answer", "bad_gold"]
