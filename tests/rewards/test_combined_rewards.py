"""Gates, routes, stops and sums: values, who is asked about what, what is logged, and TRL's own trainer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.errors import RewardError
from reasonrl.rewards import available_rewards, check_rows, get_reward
from reasonrl.rewards.registry import BUILT_IN, built_in_class


class Column:
    """A reward that is a column of the data, and remembers which rows it was asked about."""

    token_level = False

    def __init__(self, name: str) -> None:
        self.__name__ = name
        self.asked: list[list[str]] = []

    def __call__(self, completions: Any, **columns: Any) -> list[float | None]:
        assert all(len(value) == len(completions) for value in columns.values() if isinstance(value, list))
        self.asked.append(list(columns["id"]))
        if columns.get("log_extra"):
            columns["log_extra"]("verdict", [f"{self.__name__}:{one}" for one in columns["id"]])
            columns["log_metric"]("share", float(len(completions)))
        scores: list[float | None] = columns[self.__name__]
        return scores


def gate(*parts: Any) -> Any:
    return get_reward({"name": "gate", "args": {"parts": list(parts)}})


def test_a_gate_asks_about_the_living_only() -> None:
    first, second, third = Column("first"), Column("second"), Column("third")
    reward = gate(first, second, third)
    extra: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    scores = reward(
        completions=["x"] * 5,
        id=list("abcde"),
        first=[1.0, 0.0, None, 2.0, None],
        second=[0.5, 9.0, 0.0, 1.0, 1.0],
        third=[3.0, 9.0, 9.0, -1.0, 1.0],
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert scores == [1.5, 0.0, 0.0, -2.0, None] and reward.__name__ == "first*second*third"
    assert (first.asked, second.asked, third.asked) == ([list("abcde")], [list("acde")], [list("ade")])
    assert extra["reward_second"] == [0.5, None, 0.0, 1.0, 1.0] and extra["reward_third"] == [
        3.0,
        None,
        None,
        -1.0,
        1.0,
    ]
    assert extra["verdict"] == [f"first:{one}" for one in "abcde"]
    assert extra["verdict_third"] == ["third:a", None, None, "third:d", "third:e"]
    assert metrics["reward/third"] == 1.0 and metrics["reward/first"] == 1.0


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5, None]), min_size=3, max_size=3), min_size=1, max_size=6),
    st.permutations(range(3)),
)
def test_a_gate_is_the_product_in_any_order(rows: list[list[float | None]], order: list[int]) -> None:
    def product(row: list[float | None]) -> float | None:
        if 0.0 in row:
            return 0.0
        return None if None in row else row[0] * row[1] * row[2]  # type: ignore[operator]

    columns = {"c" + str(part): [row[part] for row in rows] for part in range(3)}
    reward = gate(*(Column(f"c{part}") for part in order))
    assert reward(completions=["x"] * len(rows), id=["r"] * len(rows), **columns) == [product(row) for row in rows]


def test_when_nothing_is_left_later_parts_are_not_called_and_columns_stay() -> None:
    reward = gate(Column("first"), Column("second"))
    logged: list[dict[str, Any]] = []
    for firsts in ([1.0, 0.0], [0.0, 0.0]):
        logged.append({})
        reward(
            completions=["x"] * 2,
            id=["a", "b"],
            first=firsts,
            second=[1.0, 1.0],
            log_extra=logged[-1].__setitem__,
            log_metric=lambda name, value: None,
        )
    assert len(reward.parts[1].function.asked) == 1
    assert logged[0].keys() == logged[1].keys() and logged[1]["reward_second"] == [None, None]


def test_stop_format_and_accuracy() -> None:
    reward = gate("stop", {"name": "format", "args": {"style": "boxed"}}, "math")
    columns = {"finish_reason": ["stop", "length", "stop", "stop", "stop"], "answer": ["5", "5", "5", "5", ""]}
    completions = [r"\boxed{5}", r"\boxed{5}", "5", r"\boxed{6}", r"\boxed{5}"]
    assert reward(completions=completions, **columns) == [1.0, 0.0, 0.0, 0.0, None]
    assert reward.__name__ == "stop*format*math" and pickle.loads(pickle.dumps(reward)).__name__ == reward.__name__
    nested = gate("stop", [{"name": "math"}, {"name": "format", "weight": 0.5, "args": {"style": "boxed"}}])
    assert nested(completions=completions, **columns) == [1.5, 0.0, 1.0, 0.5, None]
    assert nested.__name__ == "stop*(1*math+0.5*format)"


def test_who_says_that_a_response_stopped() -> None:
    by_ids = get_reward({"name": "stop", "args": {"eos_token_ids": [7, 9]}})
    ids = [[1, 7], [9], [1, 7, 1], []]
    assert by_ids(completions=["x"] * 4, completion_ids=ids) == [1.0, 1.0, 0.0, 0.0]
    assert by_ids(completions=["x"] * 4, completion_ids=ids, finish_reason=["length", None, "stop", "abort"]) == [
        0,
        1,
        1,
        0,
    ]
    assert get_reward({"name": "stop", "args": {"max_tokens": 2}})(completions=["x"] * 4, completion_ids=ids) == [
        0,
        1,
        0,
        1,
    ]
    with pytest.raises(RewardError, match="nothing says how a completion ended"):
        get_reward("stop")(completions=["x"], completion_ids=[[1]])


ROUTED = {"name": "route", "args": {"rewards": {"math": "math", "box": {"name": "format", "args": {"style": "boxed"}}}}}


def test_a_route_sends_each_row_to_its_reward() -> None:
    math, other = Column("math"), Column("other")
    reward = get_reward(
        {"name": "route", "args": {"rewards": {"m": math, "o": other}, "column": "kind", "default": "o"}}
    )
    extra: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    scores = reward(
        completions=["x"] * 4,
        id=list("abcd"),
        kind=["m", None, "m", "o"],
        math=[1.0, 5.0, None, 5.0],
        other=[5.0, 2.0, 5.0, 3.0],
        log_extra=extra.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert scores == [1.0, 2.0, None, 3.0]
    assert (math.asked, other.asked) == ([["a", "c"]], [["b", "d"]])
    assert extra["verdict"] == ["math:a", "other:b", "math:c", "other:d"]
    assert extra["reward_m"] == [1.0, None, None, None] and metrics["reward/o"] == 2.5 and metrics["share"] == 2.0
    assert get_reward(ROUTED)(completions=["5", r"\boxed{3}"], reward=["math", "box"], answer=["5", "5"]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("mth", r"row 1 \(id 'b'\) names the reward 'mth' -> did you mean 'math'\? allowed: box, math"),
        (None, "nothing in its column 'reward'"),
    ],
)
def test_a_row_without_a_known_reward_is_named(value: Any, message: str) -> None:
    reward = get_reward(ROUTED)
    rows = [{"id": "a", "reward": "math"}, {"id": "b", "reward": value}]
    with pytest.raises(RewardError, match=message):
        check_rows(reward, rows)
    with pytest.raises(RewardError, match=message):
        reward(completions=["x"] * 2, id=["a", "b"], reward=["math", value], answer=["1", "1"])
    check_rows(gate("stop", ROUTED), rows[:1])
    with pytest.raises(RewardError, match=message):
        check_rows(get_reward([{"name": "gate", "args": {"parts": ["stop", ROUTED]}}, "math"]), rows)


def test_a_route_without_its_column() -> None:
    with pytest.raises(RewardError, match=r"no column 'reward'.*columns: answer"):
        get_reward(ROUTED)(completions=["x"], answer=["1"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gate", "missing a required argument: 'parts'.*its arguments: parts, begin_all$"),
        ({"name": "gate", "args": {"parts": []}}, "give a list of rewards"),
        ({"name": "gate", "args": {"parts": ["mth"]}}, "did you mean 'math'"),
        ({"name": "gate", "args": {"parts": ["math"], "base_dir": "."}}, "no argument 'base_dir'"),
        (
            {
                "name": "gate",
                "args": {"parts": [{"name": "repetition", "args": {"unit": "tokens", "per_token": True}}]},
            },
            "rewards tokens",
        ),
        ({"name": "route", "args": {"rewards": {"a": "math"}, "default": "b"}}, "'b' is none of rewards"),
        ({"name": "route", "args": {"rewards": ["math"]}}, "give a mapping"),
        ({"name": "stop", "args": {"eos_token_ids": "x"}}, "give token ids"),
    ],
)
def test_combinations_that_do_not_fit(spec: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        get_reward(spec)


def test_the_users_own_file_inside_a_combination(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def half(completions, answer):\n    return [0.5 for _ in answer]\n")
    spec = {
        "name": "gate",
        "args": {"parts": [{"name": "route", "args": {"rewards": {"h": "mine.py:half"}}}, "mine.py:half"]},
    }
    reward = pickle.loads(pickle.dumps(get_reward(spec, base_dir=tmp_path)))
    assert reward(completions=["a", "b"], answer=["1", "2"], reward=["h", "h"]) == [0.25, 0.25]


def test_a_sum_of_two_rewards_of_one_name_logs_both() -> None:
    extra: dict[str, list[Any]] = {}
    reward = get_reward([{"name": "math"}, {"name": "math", "args": {"policy": "strict"}, "weight": 0.5}])
    log: Callable[..., None] = lambda name, values: extra.setdefault(name, []).extend(values)  # noqa: E731
    assert reward(completions=[r"\boxed{10}"], answer=["10%"], log_extra=log) == [1.0]
    assert extra["verdict"] == ["correct"] and extra["verdict_math_2"] == ["wrong"]
    assert extra["reward_math"] == [1.0] and extra["reward_math_2"] == [0.0]


ENDPOINT = {"base_url": "http://127.0.0.1:9/v1", "model": "none"}
LEAST: dict[str, dict[str, Any]] = {
    "exact": {"pattern": "."},
    "length": {"max_tokens": 4, "buffer_tokens": 2},
    "overlong": {"max_tokens": 4, "buffer_tokens": 2},
    "length_band": {"max_tokens": 4},
    "cosine": {"max_tokens": 4},
    "gate": {"parts": ["math"]},
    "route": {"rewards": {"math": "math"}},
    "llm_verifier": {"endpoint": ENDPOINT},
    "pairwise": {"endpoint": ENDPOINT},
    "checklist": {"endpoint": ENDPOINT},
}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_name_builds_and_crosses_processes(name: str) -> None:
    reward = get_reward({"name": name, "args": LEAST.get(name, {})})
    assert name in available_rewards() and built_in_class(name) is type(reward)
    again = pickle.loads(pickle.dumps(reward))
    assert again.__name__ == reward.__name__ and again.token_level is False


def test_trls_own_trainer_takes_combinations(tmp_path: Path) -> None:
    """A real step of GRPOTrainer on a tiny model: several rewards at once, unscored samples, columns, metrics."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from reasonrl.models import load_policy

    policy, tokenizer = load_policy("tiny:qwen2")
    eos = tokenizer.eos_token_id
    specs = [
        {"name": "gate", "args": {"parts": [{"name": "stop", "args": {"eos_token_ids": eos}}, "math"]}},
        {"name": "route", "args": {"rewards": {"math": "math", "code": {"name": "code", "args": {"time_limit": 0.5}}}}},
        {"name": "overlong", "args": {"max_tokens": 8, "buffer_tokens": 8}},
        [
            {"name": "repetition", "args": {"unit": "tokens", "ngram_size": 1}},
            {"name": "length_band", "args": {"max_tokens": 8}},
        ],
        {"name": "cosine", "args": {"max_tokens": 9, "reward": "choice"}},
        {"name": "points", "args": {"frame": "unit", "gold": "answer"}},
    ]
    rows = [
        {"prompt": "1+1=", "answer": "2", "reward": "math", "tests": "", "options": ["1", "2"], "id": "a"},
        {
            "prompt": "1+2=",
            "answer": "",
            "reward": "code",
            "tests": '{"inputs": ["1"], "outputs": ["2"]}',
            "options": ["1", "2"],
            "id": "b",
        },
    ]
    settings_of_run = {
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "max_steps": 2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
    }
    trainer = GRPOTrainer(
        policy,
        [get_reward(spec) for spec in specs],
        args=GRPOConfig(str(tmp_path), **settings_of_run),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    first = trainer.state.log_history[0]
    for name in ("stop*math", "route", "length", "1*repetition+1*length_band", "cosine", "points"):
        assert f"rewards/{name}/mean" in first
    assert first["rewards/length/mean"] < 0 and -1 <= first["rewards/1*repetition+1*length_band/mean"] <= 1
    assert first["reward/stop"] in (0.0, 0.25, 0.5, 0.75, 1.0) and "verdict/wrong" in first
    logged = trainer._logs["extra"]
    assert len(logged["reward_code"]) == 4 and [one is None for one in logged["reward_code"]].count(True) == 2


def test_sums_add_up_over_parts_calls_and_processes_where_means_are_averaged():
    from reasonrl.rewards.combining import Journal, joined

    def part(completions, log_metric=None, **columns):
        log_metric("judge/tokens", 10.0 * len(completions))
        log_metric("judge/cost", 0.5)
        log_metric("judge/asked", float(len(completions) == 1))
        log_metric("time/verdict_kills", 1.0)
        return [1.0] * len(completions)

    logged = {}
    journal = Journal(None, ["a", "b", "c"], None, {"log_metric": logged.__setitem__})
    journal.call(part, "judge", [0])
    journal.call(part, "judge", [1, 2])
    journal.hand_on()
    assert logged == {
        "judge/tokens": 30.0,
        "judge/cost": 1.0,
        "judge/asked": pytest.approx(1 / 3),
        "time/verdict_kills": 2.0,
    }
    assert joined("judge/cost", [1.0, 2.0]) == 3.0 and joined("judge/asked", [1.0, 2.0]) == 1.5
