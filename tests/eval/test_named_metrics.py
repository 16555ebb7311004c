"""The figures that `metrics` names, from sample rows: against loops by hand; names and keys that are refused."""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy
import pytest

from reasonrl.errors import DataError, RecipeError
from reasonrl.eval.metrics import proportion_interval
from reasonrl.eval.named_metrics import metric_values
from reasonrl.eval.results import read_results, summarise
from reasonrl.eval.samples import read_problems, read_samples
from reasonrl.eval.summary import results_table
from reasonrl.recipe import SuiteConfig
from reasonrl.recipe.metric_names import metric_faults, parse_metric

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, evaluate, problems


def _row(key: str, index: int, right: bool | None, **fields: Any) -> dict[str, Any]:
    given = {
        "id": key,
        "metric": "sample",
        "index": index,
        "correct": right,
        "right": right,
        "verdict": "correct" if right else "wrong",
        "extracted": "4" if right else "5",
        "class": "right" if right else "= 5",
        "score": float(bool(right)),
        "finish_reason": "stop",
        "length": 10,
        "text": "so 4",
    }
    return given | fields


def _rows() -> list[dict[str, Any]]:
    marks = {"a": "1101", "b": "0001", "c": "1111", "d": "10"}
    return [_row(key, index, mark == "1") for key, text in marks.items() for index, mark in enumerate(text)]


def test_values_by_name() -> None:
    rows = _rows()
    assert metric_values(rows, "accuracy") == {"a": 0.75, "b": 0.25, "c": 1.0, "d": 0.5}
    # d has two samples: it is left out of figures over more, not filled up.
    assert metric_values(rows, "avg@4") == {"a": 0.75, "b": 0.25, "c": 1.0}
    assert metric_values(rows, "pass@2") == {"a": 1.0, "b": 0.5, "c": 1.0, "d": 1.0}
    assert metric_values(rows, "pass^2") == {"a": 0.5, "b": 0.0, "c": 1.0, "d": 0.0}
    assert metric_values(rows, "g_pass@4:0.5") == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert metric_values(rows, "mg_pass@4") == {"a": 0.5, "b": 0.0, "c": 1.0}
    assert metric_values(rows, "maj@n") == {"a": 1.0, "b": 0.0, "c": 1.0, "d": 0.5}
    assert metric_values(rows, "maj_first@n")["d"] == 1.0
    assert metric_values(rows, "self_consistency@3:32")["c"] == 1.0
    scored = [row | {"prm": row["index"]} for row in rows]
    assert metric_values(scored, "best@n:prm") == {"a": 1.0, "b": 1.0, "c": 1.0, "d": 0.0}
    assert metric_values(scored, "weighted_maj@n:prm") == {"a": 1.0, "b": 0.5, "c": 1.0, "d": 0.0}
    with pytest.raises(DataError, match="best@2:prm: sample 0 of problem 'a' has no 'prm'"):
        metric_values(rows, "best@2:prm")


def _problems(groups: dict[str, tuple[str, str]]) -> dict[str, dict[str, Any]]:
    return {key: {"id": key, "group": group, "columns": {"key": role}} for key, (group, role) in groups.items()}


def test_groups_of_variants() -> None:
    problems = _problems({"a": ("g", ""), "c": ("g", ""), "b": ("h", ""), "d": ("h", "")})
    assert metric_values(_rows(), "worst_case", problems) == {"g": 0.75, "h": 0.125}
    # The expectation over one sample of each variant, by enumeration.
    marks = {"b": [0, 0, 0, 1], "d": [1, 0]}
    assert fmean(min(pair) for pair in product(*marks.values())) == 0.125
    unscored = [row | {"correct": None} if row["id"] == "a" else row for row in _rows()]
    assert metric_values(unscored, "pairs", problems) == {"h": 0.125}
    with pytest.raises(DataError, match="no problem has a group"):
        metric_values(_rows(), "worst_case", {"a": {"id": "a"}})


def test_we_math_scores_by_enumeration() -> None:
    """Mastered 1 (strict: all steps right; loose: one), inadequate generalisation 1/2, all else 0."""
    roles = {"a": ("g", "2steps_1"), "b": ("g", "2steps_2"), "d": ("g", "2steps_multi"), "c": ("h", "1step")}
    marks = {"a": [1, 1, 0, 1], "b": [0, 0, 0, 1], "d": [1, 0]}
    strict, loose = [], []
    for first, second, whole in product(*marks.values()):
        general = 0.5 * (first and second and not whole)
        strict.append((first and second and whole) + general)
        loose.append(((first or second) and whole) + general)
    found = metric_values(_rows(), "we_math_strict", _problems(roles))
    assert found == {"g": pytest.approx(fmean(strict))}
    assert metric_values(_rows(), "we_math_loose", _problems(roles)) == {"g": pytest.approx(fmean(loose))}
    with pytest.raises(DataError, match="`_multi`"):
        metric_values(_rows(), "we_math_strict", _problems(dict.fromkeys("abcd", ("g", ""))))


def test_a_suite_is_summarised_with_what_it_names() -> None:
    rows = _rows()
    rows[0] |= {"finish_reason": "length", "correct": False}  # a right answer that was cut
    rows[5] |= {"text": " \n", "verdict": "no_answer", "extracted": None, "class": None}
    rows[6] |= {"verdict": "timeout", "extracted": None, "class": None}
    result = summarise(
        "quiz",
        rows,
        k=(1, 2),
        decoding={"n": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 64},
        prompt_hash="0",
        seed=0,
        metrics=("pass^2", "maj@3", "pass@4"),
    )
    assert result.counts == {"truncated": 1, "empty": 1, "no_answer": 1, "timeout": 1}
    assert result.tokens_per_answer == pytest.approx(140 / 13)
    assert result.tokens_per_correct == pytest.approx(140 / 8)
    assert result.accuracy is not None and result.within is not None
    assert result.within.value == result.accuracy.value == fmean([0.5, 0.25, 1.0, 0.5])
    assert (result.accuracy.method, result.within.method) == ("mid-p, clustered by problem", "mid-p, within problems")
    record, flat = result.as_dict(), result.metrics()
    assert set(record["metrics"]) == {"pass^2", "maj@3", "pass@4"} and record["metrics"]["pass@4"]["n"] == 3
    assert flat["quiz/pass^2"] == record["metrics"]["pass^2"]["value"] and flat["quiz/timeout"] == 1


def test_interval_of_variants_is_over_questions() -> None:
    """Ten variants of a question that go alike are one answer, not ten."""
    right = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    plain = proportion_interval(right)
    values, groups = [value for value in right for _ in range(10)], [name for name in range(12) for _ in range(10)]
    grouped = proportion_interval(values, groups=groups)
    assert (grouped.low, grouped.high, grouped.n) == (pytest.approx(plain.low), pytest.approx(plain.high), 12)
    assert grouped.se == pytest.approx(plain.se)
    # Unequal groups: the linearised error of a ratio of sums.
    uneven = proportion_interval([1.0, 0.0, 0.5, 0.5, 1.0], groups=["a", "a", "b", "c", "c"])
    sums, sizes = numpy.array([1.0, 0.5, 1.5]), numpy.array([2, 1, 2])
    residuals = sums - 0.6 * sizes
    assert uneven.se == pytest.approx(math.sqrt(3 / 2 * (residuals**2).sum()) / 5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maj@", "there is no metric 'maj@'"),
        ("recall", "worst_case"),
        ("maj^4", "there is no metric"),
        ("pass@0", "there is no metric"),
        ("g_pass@4", "a share in"),
        ("g_pass@4:1.5", "a share in"),
        ("maj@4:x", "takes nothing behind a colon -> write maj@4"),
        ("self_consistency@4:none", "number of resamplings"),
        ("mg_pass@1", "at least 2"),
    ],
)
def test_names_that_mean_nothing(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_metric(name)


def test_what_a_suite_cannot_tell_is_said_before_it_starts() -> None:
    assert metric_faults(("maj@8", "pass^2", "best@4:prm", "greedy"), 8, "math", True) == []
    faults = metric_faults(("maj@16", "best@4", "greedy", "nothing"), 8, "math", False)
    assert [fix for _, fix in faults] == ["raise n to 16", "set another reward", "set greedy: true", "name one of them"]


def test_a_run_tells_what_it_was_asked_and_refuses_what_it_cannot(tmp_path: Path) -> None:
    rows = [row | {"group": f"g{index // 2}"} for index, row in enumerate(problems(12))]
    asked = ("maj@3", "pass^2", "worst_case")
    result = evaluate(tmp_path, rows=rows, metrics=asked)
    stored = read_samples(tmp_path / "sums")
    grouped = metric_values(stored, "worst_case", read_problems(tmp_path / "sums"))
    assert set(grouped) == {f"g{index}" for index in range(6)}
    told = read_results(tmp_path)["suites"]["sums"]["metrics"]
    assert told["worst_case"]["value"] == pytest.approx(fmean(grouped.values())) and told["worst_case"]["n"] == 6
    assert told["maj@3"]["value"] == pytest.approx(fmean(metric_values(stored, "maj@3").values()))
    assert result.accuracy.n == 6  # variants of one question are one unit
    engine = SeededEngine()
    for metrics, message in (
        (("maj@8",), r"suites.sums.metrics: maj@8 needs 8 samples a problem, and n = 4 -> raise n to 8"),
        (("worst_case",), "no row has a `group`"),
        (("best@2",), "that of reward math is the verdict"),
    ):
        with pytest.raises(RecipeError, match=message):
            evaluate(tmp_path / "no", metrics=metrics, engine=engine)
    assert engine.served == []


def test_a_recipe_names_them_for_its_suites() -> None:
    suite = SuiteConfig.model_validate({"data": {"world": "arithmetic", "n": 8}, "max_tokens": 8, "n": 4})
    assert suite.metrics == ()
    with pytest.raises(ValueError, match="maj@8 needs 8 samples a problem, and n = 4"):
        SuiteConfig.model_validate(
            {"data": {"world": "arithmetic", "n": 8}, "max_tokens": 8, "n": 4, "metrics": ["maj@8"]}
        )


def test_the_terminal_summary_tells_named_figures_and_both_intervals(tmp_path: Path) -> None:
    evaluate(tmp_path, metrics=("maj@3", "pass^2"))
    entry = read_results(tmp_path)["suites"]["sums"]
    text = results_table({"sums": entry})
    within, majority = entry["accuracy_within"], entry["metrics"]["maj@3"]
    assert f"maj@3 {100 * majority['value']:.1f} [{100 * majority['low']:.1f}," in text and "pass^2" in text
    assert f"[{100 * within['low']:.1f}, {100 * within['high']:.1f}] within problems" in text
    assert f"{entry['tokens_per_correct']:,.0f} tokens a right answer" in text
