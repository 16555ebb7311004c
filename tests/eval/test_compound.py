"""Suites that ask several problems at once: equal to the plain suite at k = 1, figures against plain loops."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from reasonrl.data_tools.compound import compound_rows
from reasonrl.data_tools.prompts import as_messages
from reasonrl.errors import DataError, RecipeError
from reasonrl.eval.compound import CompoundSuite, compound_figures, item_values
from reasonrl.eval.metrics import Interval
from reasonrl.eval.scoring import Answer, Judgement, build_scorer
from reasonrl.eval.suites import resolve
from reasonrl.eval.tables import percent

sys.path.insert(0, str(Path(__file__).parent))
from suite_files import written

needs_data = pytest.mark.skipif("REASONRL_DATA" not in os.environ, reason="REASONRL_DATA names no folder of data sets")
TABLE = [{"id": f"p{n}", "problem": f"{n}?", "answer": str(n), "level": n % 2} for n in range(7)]


def judged(suite: Any, rows: Sequence[Any], texts: Sequence[str]) -> list[Judgement]:
    answers = [Answer(row, [], text, (1,)) for row, text in zip(rows, texts, strict=True)]
    return build_scorer(suite.reward, rows=rows)(answers)


@needs_data
@pytest.mark.parametrize("name", ["aime24", "math500"])
def test_one_plain_problem_is_the_plain_suite_on_the_real_files(name: str) -> None:
    suites = resolve(f"{name},{name}-cb1")
    plain, compound = suites[name], suites[f"{name}-cb1"]
    rows, one = plain.load()[0], compound.load()[0]
    assert [(row["id"], row["problem"]) for row in rows] == [(row["id"], row["problem"]) for row in one]
    assert plain.data.template == compound.data.template
    golds = [row["answer"] for row in rows]
    shuffled = random.Random(0).sample(golds, len(golds))
    for given in (golds, shuffled, [""] * len(golds)):
        texts = [f"<think>Not \\boxed{{7}}.</think> I found it: \\boxed{{{gold}}}." for gold in given]
        before, after = judged(plain, rows, texts), judged(compound, one, texts)
        assert [found.right for found in before] == [found.right for found in after]
        assert [found.verdict for found in before] == [found.verdict for found in after]
        assert [found.extracted for found in before] == [(found.items or [{}])[0]["extracted"] for found in after]
    assert all(found.right for found in judged(compound, one, [f"\\boxed{{{gold}}}" for gold in golds]))


@needs_data
@pytest.mark.parametrize(("name", "k", "prompts"), [("aime24", 3, 30), ("math500", 5, 500), ("gpqa_diamond", 9, 198)])
def test_golds_fed_back_in_lines_are_all_right(name: str, k: int, prompts: int) -> None:
    if name == "gpqa_diamond" and not list(Path(os.environ["REASONRL_DATA"]).glob("gpqa*")):
        pytest.skip("GPQA is not among the data sets")
    suite = resolve(f"{name}-cb{k}")[f"{name}-cb{k}"]
    rows, check = suite.load()
    assert len(rows) == prompts and check is not None and check.state == "verified"
    assert suite.max_tokens == min(32768, 8192 * k) and suite.n == 16 and suite.temperature == 1.0
    lines = [json.loads(row["answer"]) for row in rows]
    texts = ["\n".join(f"{at}. \\boxed{{{gold}}}" for at, gold in enumerate(golds, 1)) for golds in lines]
    assert all(found.right for found in judged(suite, rows, texts))
    turned = ["\n".join(f"{at}. \\boxed{{{gold}}}" for at, gold in enumerate(g[1:] + g[:1], 1)) for g in lines]
    assert sum(bool(found.right) for found in judged(suite, rows, turned)) < 0.05 * len(rows)


def test_names_and_entries_of_compound_suites(tmp_path: Path) -> None:
    path = written(tmp_path, TABLE)
    found = resolve(f"{path}:mine-cb3,{path}:mine-cb1-framed,{path}:mine-cb1")
    assert list(found) == ["mine-cb3", "mine-cb1-framed", "mine-cb1"]
    assert [len(suite.load()[0]) for suite in found.values()] == [9, 7, 7]
    assert found["mine-cb3"].metrics == ("acc_item", "answered") and found["mine-cb3"].data.template is None
    assert len({suite.identity for suite in found.values()}) == 3
    assert resolve(f"{path}:mine-cb3", overrides={"n": 2, "max_tokens": 8})["mine-cb3"].max_tokens == 8
    own = resolve(written(tmp_path, TABLE, compound={"k": 2, "rotations": 1}))["mine"]
    assert len(own.load()[0]) == 4
    with pytest.raises(RecipeError, match="short answers"):
        resolve("livecodebench_v6-cb3")
    with pytest.raises(RecipeError, match="rotations"):
        resolve(written(tmp_path, TABLE, compound={"k": 2, "rotations": 3}))


def drawn(rows: Sequence[Any], seed: int, cut: float = 0.1) -> list[dict[str, Any]]:
    """Two samples a prompt with random verdicts."""
    draw, made = random.Random(seed), []
    for row, index in product(rows, range(2)):
        items = [
            {
                **item,
                "scored": item.get("scored", True),
                "verdict": draw.choice(["correct", "wrong", "no_answer"]),
                "extracted": "1",
            }
            for item in json.loads(row["items"])
        ]
        ended = draw.random() > cut
        made.append(
            {"id": row["id"], "metric": "sample", "index": index, "items": items, "length": 10, "correct": False,
             "finish_reason": "stop" if ended else "length"}
        )  # fmt: skip
    return made


@pytest.mark.parametrize("k", [2, 3, 7])
def test_figures_against_plain_loops(k: int) -> None:
    rows = compound_rows(TABLE, k)
    samples = drawn(rows, k)
    suite = CompoundSuite(samples, {row["id"]: row for row in rows})
    alone = {row["id"]: 0.5 + 0.05 * number for number, row in enumerate(TABLE)}
    figures = compound_figures(suite, alone)

    by_item: dict[str, list[float]] = {}
    answered: dict[str, list[float]] = {}
    for sample in samples:
        for item in sample["items"]:
            if item["scored"]:
                right = item["verdict"] == "correct" and sample["finish_reason"] == "stop"
                by_item.setdefault(item["id"], []).append(right)
                answered.setdefault(item["id"], []).append(item["verdict"] != "no_answer")
    assert len(by_item) == 7 and all(len(values) == 2 * k for values in by_item.values())
    acc_item = fmean(fmean(values) for values in by_item.values())
    assert figures["acc_item"]["value"] == pytest.approx(acc_item)
    assert figures["answered"]["value"] == pytest.approx(fmean(fmean(values) for values in answered.values()))
    assert figures["retention"]["value"] == pytest.approx(acc_item / fmean(alone.values()))
    assert fmean(found["value"] for found in figures["by_position"]) == pytest.approx(acc_item)
    assert figures["tokens_per_problem"] == pytest.approx(10 / k)

    group = {row["id"]: row["group"] for row in rows}
    whole: dict[str, list[bool]] = {}
    members: dict[str, set[str]] = {}
    for sample in samples:
        counted = [item for item in sample["items"] if item["scored"]]
        right = all(item["verdict"] == "correct" and sample["finish_reason"] == "stop" for item in counted)
        whole.setdefault(group[sample["id"]], []).append(right)
        members.setdefault(group[sample["id"]], set()).update(item["id"] for item in counted)
    # (k/N) sum over groups, where the last group may be shorter.
    acc_all = sum(len(members[block]) * fmean(values) for block, values in whole.items()) / 7
    assert figures["acc_all"]["value"] == pytest.approx(acc_all)
    gaps = []
    for block, values in whole.items():
        expected = 1.0
        for item in members[block]:
            expected *= alone[item]
        gaps.append(fmean(values) - expected)
    assert figures["independence_gap"]["value"] == pytest.approx(fmean(gaps))


def test_what_is_no_share_is_shown_with_its_own_interval() -> None:
    def shown(metric: str, value: float, half: float) -> str:
        return percent(Interval(value, value - half, value + half, half / 2, 0.95, "t", 3), metric)

    assert shown("independence_gap", -0.30, 0.08) == "-30.0 [-38.0, -22.0]"
    assert shown("independence_gap", 0.01, 0.04) == "1.0 [-3.0, 5.0]"
    assert shown("retention", 0.99, 0.03) == "99.0 [96.0, 102.0]"
    assert shown("acc_item", 0.99, 0.03) == "99.0 [96.0, 100.0]" and shown("answered", 0.01, 0.03) == "1.0 [0.0, 4.0]"


def test_truncated_samples_count_as_wrong_and_answered() -> None:
    rows = compound_rows(TABLE[:2], 2)
    samples = [
        {**sample, "finish_reason": "length", "items": [{**item, "verdict": "correct"} for item in sample["items"]]}
        for sample in drawn(rows, 0)
    ]
    assert set(item_values(samples, "acc_item").values()) == {0.0}
    assert set(item_values(samples, "answered").values()) == {1.0}
    with pytest.raises(DataError, match="reward: compound"):
        item_values([{"id": "a", "metric": "sample", "correct": True}], "acc_item")


def asked_of(rows: Sequence[Any]) -> set[str]:
    return {item["id"] for row in rows for item in json.loads(row["items"])}


def test_a_limit_counts_problems_and_is_that_of_the_plain_suite(tmp_path: Path) -> None:
    path = written(tmp_path, [{"id": f"q{n}", "problem": f"{n}?", "answer": str(n)} for n in range(30)])
    found = resolve(f"{path}:mine,{path}:mine-cb5,{path}:mine-cb4,{path}:mine-cb1", overrides={"limit": 10})
    rows = {name: suite.load()[0] for name, suite in found.items()}
    plain = {row["id"] for row in rows["mine"]}
    assert plain == {f"q{n}" for n in range(10)} == asked_of(rows["mine-cb5"]) == asked_of(rows["mine-cb4"])
    # Two blocks in five orders; three blocks in four, the last one filled up.
    assert [len(rows[name]) for name in found] == [10, 10, 12, 10]
    for made in rows.values():
        assert (made.report.kept, made.report.beyond_limit) == (10, 20)
    own = written(tmp_path, [{"id": f"q{n}", "problem": f"{n}?", "answer": str(n)} for n in range(30)],
                  compound={"k": 5, "rotations": 1})  # fmt: skip
    made = resolve(own, overrides={"limit": 10})["mine"].load()[0]
    assert len(made) == 2 and (made.report.kept, made.report.beyond_limit) == (10, 20)
    with pytest.raises(DataError, match=r"'mine-cb5': k = 5 .* limit leaves 4 of 30 -> raise limit to 5 or more"):
        resolve(f"{path}:mine-cb5", overrides={"limit": 4})["mine-cb5"].load()
    with pytest.raises(DataError, match=r"k = 31 .* but there are 30 -> ask fewer"):
        resolve(f"{path}:mine-cb31")["mine-cb31"].load()


@pytest.mark.parametrize(
    ("reward", "named"),
    [
        ("math", "math"),
        ({"name": "exact", "args": {"pattern": "#(.)"}}, "exact"),
        (["format", {"name": "choice", "weight": 2.0}], "choice"),
        ({"name": "gate", "args": {"parts": ["stop", {"name": "points", "args": {"gold": "answer"}}]}}, "points"),
        ({"name": "cosine", "args": {"max_tokens": 9}}, "math"),
        ({"name": "route", "args": {"rewards": {"a": "compound", "b": "boxes"}}}, "boxes"),
    ],
)
@pytest.mark.parametrize("name", ["mine-cb2", "mine-cb1"])
def test_a_reward_of_one_answer_cannot_judge_several(tmp_path: Path, reward: Any, named: str, name: str) -> None:
    path = written(tmp_path, TABLE)
    with pytest.raises(RecipeError, match=rf"suites\.{name}\.reward.* is '{named}', .*allowed: compound"):
        resolve(f"{path}:{name}", overrides={"reward": reward})
    with pytest.raises(RecipeError, match=rf"suites\.mine\.reward.* is '{named}'"):
        resolve(written(tmp_path, TABLE, compound={"k": 2}, reward=reward))
    assert "mine" in resolve(written(tmp_path, TABLE, reward=reward))  # one problem a prompt


@pytest.mark.parametrize(
    "reward",
    [
        {"name": "compound", "args": {"score": "all"}},
        {"name": "gate", "args": {"parts": ["stop", "play", "compound"]}},
        "mine.py:reads_items",
        {"name": "llm_verifier", "args": {"endpoint": {"url": "http://here/v1", "model": "judge"}}},
        {"name": "math", "args": {"gold": "other"}},
        {"name": "cosine", "args": {"max_tokens": 9, "reward": "compound"}},
    ],
)
def test_rewards_that_may_read_the_items_are_taken(tmp_path: Path, reward: Any) -> None:
    path = written(tmp_path, TABLE)
    assert resolve(f"{path}:mine-cb2", overrides={"reward": reward})["mine-cb2"].reward is not None


QUESTIONS = [
    {"id": "a", "problem": "6 * 7?\n(A) 41 (B) 42 (C) 43", "answer": "B"},
    {"id": "b", "problem": "Largest?\n\nA. one half\nB. one third\nC. nothing\n", "answer": "A"},
    {"id": "c", "problem": "1 + 1? $\\textbf{(A)}\\ 2 \\qquad \\textbf{(B)}\\ 3$", "answer": "2"},
]
SAID = ["\\boxed{42}", "\\boxed{B}", "\\boxed{A}", "\\boxed{one half}", "\\boxed{(A) 2}", "\\boxed{3}", "It is 2.", ""]


@pytest.mark.parametrize("columns", [{"options_listed": True}, {"options": "choices"}])
def test_one_plain_question_with_options_is_the_plain_suite(tmp_path: Path, columns: dict[str, Any]) -> None:
    table = QUESTIONS
    if "options" in columns:
        table = [{"id": "a", "problem": "6 * 7?", "choices": ["41", "42", "43"], "answer": "B"},
                 {"id": "b", "problem": "Largest?", "choices": ["one half", "one third"], "answer": "A"}]  # fmt: skip
    path = written(tmp_path, table, answer="choice", **columns)
    suites = resolve(f"{path}:mine,{path}:mine-cb1,{path}:mine-cb2")
    plain, compound, two = suites["mine"], suites["mine-cb1"], suites["mine-cb2"]
    rows, one = plain.load()[0], compound.load()[0]
    assert [row["problem"] for row in rows] == [row["problem"] for row in one]
    assert plain.data.template == compound.data.template
    asked = [(before, after, text) for before, after in zip(rows, one, strict=True) for text in SAID]
    messages = [as_messages(row, None, plain.data.template) for row, _, _ in asked]
    first = build_scorer(plain.reward)(
        [Answer(row, said, text, (1,)) for (row, _, text), said in zip(asked, messages, strict=True)]
    )
    second = build_scorer(compound.reward)(
        [Answer(row, said, text, (1,)) for (_, row, text), said in zip(asked, messages, strict=True)]
    )
    assert [found.verdict for found in first] == [found.verdict for found in second]
    right = {"\\boxed{42}", "\\boxed{B}"}, {"\\boxed{A}", "\\boxed{one half}"}
    for place, texts in enumerate(right):
        of_one = second[place * len(SAID) : (place + 1) * len(SAID)]
        assert {text for text, found in zip(SAID, of_one, strict=True) if found.right} >= texts
    # Values stand for letters in a prompt of two, too.
    values = {"a": "42", "b": "one half", "c": "2"}
    texts = ["\n".join(f"{at}. \\boxed{{{values[item['id']]}}}" for at, item in enumerate(json.loads(row["items"]), 1))
             for row in two.load()[0]]  # fmt: skip
    assert all(found.verdict == "correct" and found.right for found in judged(two, two.load()[0], texts))


def test_what_only_fills_a_block_is_in_no_score(tmp_path: Path) -> None:
    suite = resolve(f"{written(tmp_path, TABLE)}:mine-cb4")["mine-cb4"]
    rows = [row for row in suite.load()[0] if any(not item.get("scored", True) for item in json.loads(row["items"]))]
    assert len(rows) == 4
    for off, right in ((False, True), (True, False)):
        texts = []
        for row in rows:
            items = enumerate(json.loads(row["items"]), start=1)
            texts.append("\n".join(
                f"{at}. \\boxed{{{item['answer'] if item.get('scored', True) != off else '77'}}}" for at, item in items
            ))  # fmt: skip
        found = judged(suite, rows, texts)
        assert {(one.score, one.right, one.verdict) for one in found} == {
            (float(right), right, "correct" if right else "wrong")
        }
