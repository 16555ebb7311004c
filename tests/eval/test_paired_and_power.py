"""Sign-flip p-values, Holm's correction and the power calculator: against enumeration, scipy and simulation; and the
command `reasonrl compare`."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import numpy
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.cli import main
from reasonrl.errors import RunError
from reasonrl.eval.compare import compare_evaluations, read_comparison
from reasonrl.eval.paired import fold_groups, holm, sign_flip_test
from reasonrl.eval.power import (
    assumed_spread,
    observed_spread,
    questions_needed,
    smallest_difference,
    spread_of_one,
)

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, evaluate, problems


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-8, 8).map(lambda eighths: eighths / 8), min_size=1, max_size=11))
def test_sign_flips_equal_enumeration(differences: list[float]) -> None:
    observed = abs(sum(differences))
    patterns = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    expected = sum(found >= observed - 1e-9 for found in patterns) / len(patterns)
    assert sign_flip_test(differences) == pytest.approx(expected, abs=1e-12)


def test_sign_flips_of_right_and_wrong_are_mcnemars_exact_test() -> None:
    from scipy.stats import binomtest

    differences = [1.0] * 25 + [-1.0] * 11 + [0.0] * 200
    assert sign_flip_test(differences) == pytest.approx(binomtest(25, 36).pvalue, rel=1e-9)


def test_drawn_patterns_agree_with_the_exact_test() -> None:
    """Values without a common fraction."""
    generator = numpy.random.default_rng(4)
    values = generator.normal(0.06, 0.25, 60)
    signs = numpy.random.default_rng(9).choice([-1, 1], size=(60_000, 60))
    expected = (numpy.abs(signs @ values) >= abs(values.sum())).mean()
    assert sign_flip_test(values.tolist()) == pytest.approx(expected, abs=0.006)
    assert sign_flip_test(values.tolist()) == sign_flip_test(values.tolist())
    assert sign_flip_test([0.5 + value / 1000 for value in values], draws=999) == 1 / 1000  # never zero


def test_under_no_difference_p_values_are_no_smaller_than_uniform() -> None:
    generator = numpy.random.default_rng(0)
    small = 0
    for _ in range(400):
        hard = generator.beta(0.8, 0.8, 40)
        ours, theirs = (generator.binomial(4, hard) / 4 for _ in range(2))
        small += sign_flip_test(ours - theirs) <= 0.05
    assert 0.02 <= small / 400 <= 0.08


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.4, 0.7]) == pytest.approx([0.8, 0.8]) and holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]


def test_variants_are_folded_into_their_question() -> None:
    values = {"a1": 1.0, "a2": 0.5, "b1": 0.0, "c": 1.0}
    folded = fold_groups(values, {"a1": "a", "a2": "a", "b1": "b"})
    assert sum(folded.values()) / 3 == pytest.approx(sum(values.values()) / 4) and set(folded) == {"a", "b", "c"}


def _counts(generator: numpy.random.Generator, rates: numpy.ndarray, n: int) -> dict[str, tuple[int, int]]:
    return {f"q{place}": (int(right), n) for place, right in enumerate(generator.binomial(n, rates))}


def test_spread_is_recovered_from_samples() -> None:
    generator = numpy.random.default_rng(2)
    ours = generator.beta(2, 2, 8000)
    theirs = numpy.clip(ours + generator.normal(0, 0.1, 8000), 0, 1)
    truth = numpy.var(ours - theirs), (ours * (1 - ours) + theirs * (1 - theirs)).mean()
    found = observed_spread(_counts(generator, ours, 4), _counts(generator, theirs, 8))
    assert found.between == pytest.approx(truth[0], abs=0.004) and found.within == pytest.approx(truth[1], rel=0.03)
    one = spread_of_one(_counts(generator, ours, 4), correlation=0.9)
    assert one.between == pytest.approx(2 * 0.05 * 0.1, rel=0.1)  # Beta(2, 2): variance 1/20
    assert one.within == pytest.approx(0.4, rel=0.03)
    assumed = assumed_spread(0.5, 4.0, 0.9)
    assert (assumed.between, assumed.within) == (pytest.approx(0.01), pytest.approx(0.4))
    single = observed_spread(_counts(generator, ours, 1), _counts(generator, theirs, 1))
    assert not single.separable and single.variance(1) == pytest.approx(sum(truth), rel=0.05)


@pytest.mark.parametrize("samples", [1, 8])
def test_planned_questions_find_the_difference_as_often_as_promised(samples: int) -> None:
    """Rates of a and of a + 5 points - noise; at the planned number of questions 80 % of tests find it."""
    generator = numpy.random.default_rng(samples)
    hard = generator.beta(3, 3, 400_000) * 0.8 + 0.05
    lift = 0.05 + generator.normal(0, 0.05, hard.size)
    better = numpy.clip(hard + lift, 0, 1)
    spread = observed_spread(_counts(generator, hard[:20_000], 8), _counts(generator, better[:20_000], 8))
    questions = questions_needed(spread, 0.05, samples)
    assert smallest_difference(spread, questions, samples) == pytest.approx(0.05, rel=0.01)
    found, runs = 0, 300
    for _ in range(runs):
        chosen = generator.integers(0, hard.size, questions)
        apart = (generator.binomial(samples, better[chosen]) - generator.binomial(samples, hard[chosen])) / samples
        found += sign_flip_test(apart) <= 0.05
    assert 0.73 <= found / runs <= 0.87


def test_numbers_that_make_no_plan_are_refused() -> None:
    with pytest.raises(RunError, match="0 and 100 points"):
        questions_needed(assumed_spread(), 2.0, 1)
    with pytest.raises(RunError, match="accuracy 1,"):
        assumed_spread(1.0)
    with pytest.raises(RunError, match="at least 2 samples each"):
        spread_of_one({"a": (1, 1), "b": (0, 1)})


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on two suites, the second of questions in pairs."""
    base = tmp_path_factory.mktemp("compared")
    paired = [row | {"group": f"g{place // 2}"} for place, row in enumerate(problems(30))]
    for name, skill in (("weak", 400), ("strong", 560)):
        evaluate(base / name, engine=SeededEngine(skill), greedy=False, metrics=("maj@3",))
        evaluate(
            base / name, engine=SeededEngine(skill), greedy=False, rows=paired, suite_name="pairs", metrics=("pairs",)
        )
    return base


def test_compare_command_says_intervals_and_corrected_p_values(folders: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        main, ["compare", str(folders / "weak"), f"ours={folders / 'strong'}", "--out", str(tmp_path), "--detect", "2"]
    )
    assert ran.exit_code == 0, ran.output
    table = compare_evaluations({"weak": folders / "weak", "ours": folders / "strong"}, "weak")
    raw = {(cell.suite, cell.metric): cell for cell in table.cells if cell.label == "ours"}
    assert set(raw) == {("sums", "accuracy"), ("sums", "pass@2"), ("sums", "maj@3")} | {
        ("pairs", "accuracy"),
        ("pairs", "pass@2"),
        ("pairs", "pairs"),
    }
    both = [raw[suite, "accuracy"] for suite in ("sums", "pairs")]
    assert [cell.p_corrected for cell in both] == pytest.approx(holm([cell.p_value for cell in both]))
    assert raw["sums", "maj@3"].p_corrected == raw["sums", "maj@3"].p_value  # on one suite only
    assert raw["pairs", "accuracy"].estimate.n == 15 and raw["pairs", "accuracy"].difference.n == 15
    assert raw["sums", "accuracy"].estimate.n == 40
    assert f"{100 * raw['sums', 'accuracy'].difference.value:+.1f}" in ran.output
    assert "corrected for 2 comparisons a metric by Holm's rule" in " ".join(ran.output.split())
    assert "To find a true difference of 2 points" in ran.output and "alpha 0.025" in ran.output
    assert read_comparison(tmp_path / "table.json") == table
    assert "| p |" not in (tmp_path / "table.md").read_text() and "accuracy: p" in (tmp_path / "table.md").read_text()


def test_a_plan_alone_and_as_json(folders: Path) -> None:
    ran = CliRunner().invoke(
        main, ["compare", "--detect", "2", "--assume", "accuracy=50,concentration=1,correlation=0.9", "--json"]
    )
    assert ran.exit_code == 0, ran.output
    lines = json.loads(ran.output)["plan"]["suites"]["assumed"]
    # 2 x Beta(1/2, 1/2): variance 1/8 each, 1/8 of luck; (1.96 + 0.8416)² (0.025 + 0.25 / n) / 0.02².
    expected = [7.848880 * (0.025 + 0.25 / line["samples"]) / 0.0004 for line in lines]
    assert [line["questions"] for line in lines] == [int(numpy.ceil(value)) for value in expected]
    one = CliRunner().invoke(main, ["compare", str(folders / "weak"), "--suite", "sums", "--detect", "5"])
    assert one.exit_code == 0 and "sums, 40 questions there" in one.output and "64 samples" in one.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a comparison needs two"),
        (["{}/weak"], "a comparison needs two"),
        (["{}/weak", "{}/nowhere"], "holds no results.json"),
        (["{}/weak", "{}/weak"], "two evaluations are called 'weak'"),
        (["{}/weak", "{}/strong", "--suite", "aime"], "has no suite 'aime'; it has sums, pairs"),
        (["--detect", "2", "--assume", "accuracy:50"], "'accuracy:50' is not understood"),
        (["--detect", "200"], "0 and 100 points"),
    ],
)
def test_what_cannot_be_compared_is_said(folders: Path, words: list[str], message: str) -> None:
    ran = CliRunner().invoke(main, ["compare", *(word.format(folders) for word in words)])
    assert ran.exit_code == 2 and message in ran.output and "Traceback" not in ran.output


def test_evaluations_without_a_common_suite_are_refused(folders: Path, tmp_path: Path) -> None:
    evaluate(tmp_path / "other", count=5, suite_name="elsewhere", greedy=False)
    ran = CliRunner().invoke(main, ["compare", str(folders / "weak"), str(tmp_path / "other")])
    assert ran.exit_code == 2 and "share no suite (weak: sums, pairs; other: elsewhere)" in ran.output


def test_answers_that_never_vary_plan_nothing(tmp_path: Path) -> None:
    evaluate(tmp_path / "none", count=10, engine=SeededEngine(0), greedy=False)
    ran = CliRunner().invoke(main, ["compare", str(tmp_path / "none"), "--detect", "2"])
    assert ran.exit_code == 0 and "nothing to plan from" in ran.output and "samples a question" not in ran.output
