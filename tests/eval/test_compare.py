"""Tables of evaluations: figures, paired differences, files, picture; studies over arms and seeds."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import numpy
import pandas
import pytest

from reasonrl.errors import RunError
from reasonrl.eval.compare import compare_evaluations, read_comparison, write_comparison
from reasonrl.eval.metrics import paired_difference, proportion_interval
from reasonrl.eval.study import compare_study, study_markdown, study_table, write_study
from reasonrl.eval.tables import comparison_csv, comparison_markdown, format_table

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, evaluate
from eval_world import table as read_table


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of different skill on the same 60 problems."""
    folder = tmp_path_factory.mktemp("evaluations")
    for label, skill in (("before", 350), ("after", 700), ("control", 450)):
        evaluate(folder / label, engine=SeededEngine(skill), n=4, count=60, stage=label)
    return {label: folder / label for label in ("before", "after", "control")}


def accuracy(path: Path, metric: str = "sample") -> pandas.Series:
    table = read_table(path).query("metric == @metric")
    return table.groupby("id", sort=False)["correct"].mean()


def test_cells_are_the_intervals_of_the_stored_samples(evaluations: dict[str, Path]) -> None:
    table = compare_evaluations(evaluations, "before")
    assert table.suites == ("sums",) and table.metrics("sums") == ("accuracy", "greedy", "pass@2")
    before, after = accuracy(evaluations["before"]), accuracy(evaluations["after"])
    cell = table.cell("sums", "accuracy", "after")
    assert cell.estimate == proportion_interval(list(after))
    assert cell.difference == paired_difference(after.to_dict(), before.to_dict())
    assert cell.difference.low > 0.2 and table.cell("sums", "accuracy", "before").difference is None
    greedy = table.cell("sums", "greedy", "control").difference
    assert greedy.value == pytest.approx(
        accuracy(evaluations["control"], "greedy").mean() - accuracy(evaluations["before"], "greedy").mean()
    )
    flat = table.metrics_flat()
    assert flat["sums/after/accuracy_difference_low"] == cell.difference.low and flat["sums/before/greedy"] > 0
    assert table.notes == ()


def test_table_files_agree_with_each_other(evaluations: dict[str, Path], tmp_path: Path) -> None:
    table = compare_evaluations(evaluations, "before")
    paths = write_comparison(table, tmp_path)
    assert [path.name for path in paths] == ["table.md", "table.csv", "table.json", "table.png"]
    assert read_comparison(tmp_path / "table.json").as_dict() == json.loads(json.dumps(table.as_dict()))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(lines) == 9
    after = next(line for line in lines if (line["metric"], line["row"]) == ("accuracy", "after"))
    cell = table.cell("sums", "accuracy", "after")
    assert float(after["value"]) == cell.estimate.value and float(after["difference_high"]) == cell.difference.high
    text = (tmp_path / "table.md").read_text()
    interval = cell.difference
    assert f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]" in text
    assert "60 problems, 4 samples each, temperature 1, top_p 1, at most 50 tokens" in text
    assert text.count("baseline") == 3 and "95 % intervals over problems" in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1
    assert (tmp_path / "table.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_terminal_table_fits_and_says_the_same(evaluations: dict[str, Path]) -> None:
    table = compare_evaluations(evaluations, "before")
    text = format_table(table)
    assert max(map(len, text.splitlines())) <= 100
    assert f"{100 * table.cell('sums', 'accuracy', 'after').estimate.value:.1f} [" in text and "\x1b" not in text


def test_other_settings_and_missing_suites_are_noted_and_other_problems_refused(
    evaluations: dict[str, Path], tmp_path: Path
) -> None:
    evaluate(tmp_path / "more", n=2, count=60, greedy=False)
    evaluate(tmp_path / "both", n=4, count=60)
    evaluate(tmp_path / "both", n=4, count=60, suite_name="other")
    rows = {"both": tmp_path / "both", "more": tmp_path / "more"}
    table = compare_evaluations(rows, "both")
    assert (
        "sums: n is 2 in 'more' and 4 in 'both'" in table.notes and "other: row 'more' has no such suite" in table.notes
    )
    assert table.cell("sums", "greedy", "more") is None and table.cell("other", "accuracy", "more") is None
    assert "* Note: sums: n is 2" in comparison_markdown(table) and len(comparison_csv(table).splitlines()) == 1 + 5 + 3
    evaluate(tmp_path / "few", n=4, count=7)
    with pytest.raises(RunError, match=r"only 7 problems are on both sides \(of 7 and 60\)"):
        compare_evaluations({"before": evaluations["before"], "few": tmp_path / "few"}, "before")


def test_what_is_not_there_is_named(evaluations: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the baseline 'befor' is no row; rows: before, after, control"):
        compare_evaluations(evaluations, "befor")
    with pytest.raises(RunError, match=r"row 'gone': .* holds no results\.json"):
        compare_evaluations({**evaluations, "gone": tmp_path}, "before")


def test_a_study_pairs_by_seed_within_arms_and_between_them(tmp_path: Path) -> None:
    runs: dict[str, dict[int, dict[str, Path]]] = {}
    for arm, lift in (("default", 300), ("short", 100)):
        for seed in (0, 1, 2):
            rows = {"before": tmp_path / arm / str(seed) / "before", "after": tmp_path / arm / str(seed) / "after"}
            evaluate(rows["before"], engine=SeededEngine(350), count=30, seed=seed, greedy=False, k=(1,))
            evaluate(
                rows["after"], engine=SeededEngine(350 + lift), count=30, seed=seed, greedy=False, k=(1,), stage="after"
            )
            runs.setdefault(arm, {})[seed] = rows
    study = compare_study(runs, baseline="before")
    places = [(line.arm, line.label, line.versus) for line in study.lines]
    assert places == [
        ("default", "before", ""),
        ("default", "after", "row before"),
        ("short", "before", ""),
        ("short", "before", "arm default"),
        ("short", "after", "row before"),
        ("short", "after", "arm default"),
    ]
    lift = study.lines[1]
    singles = [accuracy(rows["after"]).mean() - accuracy(rows["before"]).mean() for rows in runs["default"].values()]
    assert lift.difference.value == pytest.approx(numpy.mean(singles)) and lift.difference.n == 3
    half = 4.302653 * numpy.std(singles, ddof=1) / numpy.sqrt(3)
    assert lift.difference.high == pytest.approx(numpy.mean(singles) + half, rel=1e-5)
    assert [interval.value for interval in lift.by_seed.values()] == pytest.approx(singles)
    # Equal models, equal seeds: not even the samples differ between the arms' starts.
    assert study.lines[3].difference.value == 0.0 and study.lines[5].difference.value < -0.1
    assert [path.name for path in write_study(study, tmp_path)] == ["study.md", "study.json", "study.png"]
    text = study_markdown(study)
    assert "Seeds: default: 0, 1, 2; short: 0, 1, 2." in text and f"{100 * lift.difference.value:+.1f} [" in text
    table = study_table(study)
    assert max(map(len, table.splitlines())) <= 110
    row = next(line for line in table.splitlines() if line.strip().startswith("default: after"))
    for figure in (lift.difference.value, *singles):
        assert f"{100 * figure:+.1f}" in row
    assert "row before" in row, "with two kinds of difference the table says which is which"


def test_a_study_with_missing_seeds_says_so_and_one_seed_has_no_interval(evaluations: dict[str, Path]) -> None:
    runs = {"default": {0: evaluations, 1: evaluations}, "short": {1: evaluations}}
    study = compare_study(runs, baseline="before", baseline_arm="default")
    assert "arm 'short' has no run of seed 0" in study.notes
    between = [line for line in study.lines if line.versus == "arm default"]
    assert between and all(line.difference.low is None and list(line.by_seed) == [1] for line in between)
    assert study.as_dict()["lines"][0]["by_seed"]["0"]["method"] == "mid-p, clustered by problem"
    with pytest.raises(RunError, match="'shrt' is no arm; arms: default, short"):
        compare_study(runs, baseline="before", baseline_arm="shrt")
    with pytest.raises(RunError, match="at least one finished run"):
        compare_study({"default": {}}, baseline="before")
