"""The report's numbers, against plain loops over the record; what it does with half-done, odd and hostile folders."""

from __future__ import annotations

import json
import re
import sys
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from recorded import lines_of, lively_suite, problem, sample, write_suite

from reasonrl.cli import main
from reasonrl.errors import DataError, RunError
from reasonrl.eval.regrade import Grading, regrade_suite
from reasonrl.eval.report import write_eval_report
from reasonrl.eval.report_browser import embed, unpack
from reasonrl.eval.report_data import flags_of, natural, powers, read_suite, stands_at_the_end
from reasonrl.eval.results import read_results, summarise, write_result
from reasonrl.eval.samples import read_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluation")
    lively_suite(directory / "sums", count=30, n=4)
    lively_suite(directory / "shapes", count=12, n=4, seed=3)
    write_eval_report(directory)
    return directory


def scored(folder: Path, suite: str) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in lines_of(folder / suite / "samples.jsonl"):
        if row["correct"] is not None:
            rows.setdefault(row["id"], []).append(row)
    return rows


def test_figures_breakdowns_and_curves_are_those_of_plain_loops(folder: Path) -> None:
    data = json.loads((folder / "report.json").read_text())
    for suite, found in data["suites"].items():
        problems = {row["id"]: row for row in lines_of(folder / suite / "problems.jsonl")}
        by_id = scored(folder, suite)
        accuracy = {key: fmean(row["correct"] for row in rows) for key, rows in by_id.items()}
        assert found["figures"]["accuracy"]["value"] == pytest.approx(fmean(accuracy.values()))
        assert set(found["accuracy_by"]) == {"level"} | ({"subject", "year"} if suite == "sums" else set())
        for column, lines in found["accuracy_by"].items():
            for line in lines:
                of = [
                    value
                    for key, value in accuracy.items()
                    if str(problems[key].get(column, problems[key]["columns"].get(column))) == line["value"]
                ]
                assert line["problems"] == len(of) and line["accuracy"]["value"] == pytest.approx(fmean(of))
            assert sum(line["problems"] for line in lines) == len(accuracy)
        smallest = min(map(len, by_id.values()))
        assert list(found["pass@k"]) == [str(k) for k in powers(smallest)]
        for k, interval in found["pass@k"].items():
            each = [
                fmean(any(row["correct"] for row in subset) for subset in combinations(rows, int(k)))
                for rows in by_id.values()
            ]
            assert interval["value"] == pytest.approx(fmean(each)) and interval["low"] <= interval["value"]


def test_lengths_flags_and_solve_rates(folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text())["suites"]["sums"]
    rows = lines_of(folder / "sums" / "samples.jsonl")
    edges = found["lengths"]["edges"]
    for place, (low, high) in enumerate(pairwise(edges)):
        here = [row for row in rows if low <= row["length"] < high]
        assert found["lengths"]["correct"][place] == sum(row["correct"] is True for row in here)
        cut = [row for row in here if row["finish_reason"] != "stop" and row["correct"] is not None]
        assert found["lengths"]["truncated"][place] == len(cut)
        assert sum(found["lengths"][name][place] for name in ("correct", "wrong", "truncated", "unscored")) == len(here)
    assert found["flags"]["truncated"] == sum(row["finish_reason"] != "stop" for row in rows) > 0
    assert found["flags"]["empty"] == sum(not row["text"] for row in rows) == 1
    assert found["flags"]["no answer"] == sum(row["verdict"] == "no_answer" for row in rows)
    assert found["flags"]["right but truncated"] == sum(bool(row["right"]) and not row["correct"] for row in rows) > 0
    rates = {line["id"]: (line["correct"], line["scored"]) for line in found["problems"]}
    assert rates == {
        key: (sum(row["correct"] for row in group), len(group)) for key, group in scored(folder, "sums").items()
    }
    shares = [line["correct"] / line["scored"] for line in found["problems"]]
    assert shares == sorted(shares)


def test_the_page_carries_every_sample_and_equal_folders_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    views = [read_suite(name, folder / name) for name in ("sums", "shapes")]
    embedded = embed(views)
    index, parts = unpack(embedded.index), [unpack(part) for part in embedded.parts]
    carried = {}
    for line in index["samples"]:
        suite, place, _, number, outcome, verdict, ending, length, _, _, _, where = line
        said, extracted, _ = parts[where[0]][where[1]]
        identity = index["suites"][suite]["problems"][place][0]
        key = (index["suites"][suite]["name"], identity, number)
        carried[key] = (said, extracted or None, index["verdicts"][verdict], index["endings"][ending], length, outcome)
    expected = {
        (view.name, row["id"], row["index"]): (
            row["text"],
            row["extracted"],
            row["verdict"],
            row["finish_reason"],
            row["length"],
            {False: 0, True: 1, None: 2}[row["correct"]],
        )
        for view in views
        for row in read_samples(view.directory)
    }
    assert carried == expected and embedded.left_out == 0
    paths = write_eval_report(folder, out=tmp_path)
    assert [path.name for path in paths] == ["report.md", "report.json", "report.html"]
    for path in paths:
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_stored_figures_are_shown_and_a_regrade_has_its_own(tmp_path: Path) -> None:
    folder = lively_suite(tmp_path / "sums", count=12, n=4)
    rows = read_samples(folder)
    decoding = {"n": 4, "temperature": 0.6, "top_p": 0.95, "max_tokens": 64}
    stored = summarise("sums", rows, k=[2], decoding=decoding, prompt_hash="x", seed=5, metrics=["pass^2"])
    write_result(tmp_path, stored)
    write_eval_report(tmp_path)
    figures = json.loads((tmp_path / "report.json").read_text())["suites"]["sums"]["figures"]
    assert figures == read_results(tmp_path)["suites"]["sums"]
    regrade_suite(folder, Grading(workers=0), "ours")
    write_eval_report(tmp_path, verdicts="ours")
    data = json.loads((tmp_path / "report.ours.json").read_text())["suites"]["sums"]
    again: dict[str, list[bool]] = {}
    for row in read_samples(folder, "ours"):
        if row["correct"] is not None:
            again.setdefault(row["id"], []).append(row["correct"])
    assert data["verdicts"] == "ours" and set(data["figures"]["metrics"]) == {"pass^2"}
    assert data["figures"]["accuracy"]["value"] == pytest.approx(fmean(map(fmean, again.values())))
    assert "verdicts of the re-grade 'ours'" in (tmp_path / "report.ours.md").read_text()
    with (folder / "samples.jsonl").open("a") as file:
        file.write(json.dumps(sample("p0", 4, "more")) + "\n")
    with pytest.raises(RunError, match="lacks 1 of 49 samples"):
        write_eval_report(tmp_path, verdicts="ours")
    with pytest.raises(RunError, match=r"theirs\.jsonl does not exist"):
        write_eval_report(tmp_path, verdicts="theirs")


def test_a_half_done_evaluation_and_a_torn_line(tmp_path: Path) -> None:
    folder = write_suite(tmp_path / "sums", [problem("a"), problem("b")], [sample("a", 0, "42", "correct")])
    with (folder / "samples.jsonl").open("a") as file:
        file.write('{"id": "b", "metr')
    write_eval_report(tmp_path)
    figures = json.loads((tmp_path / "report.json").read_text())["suites"]["sums"]["figures"]
    assert (figures["n_samples"], figures["accuracy"]["value"]) == (1, 1.0)
    begun = write_suite(tmp_path / "next", [problem("a")], [])
    write_eval_report(tmp_path)
    assert "- next: begun, and no sample is finished yet" in (tmp_path / "report.md").read_text()
    with pytest.raises(DataError, match="holds no finished sample yet"):
        write_eval_report(begun)
    assert write_eval_report(folder, out=tmp_path / "alone")[0].read_text().startswith("# sums")


def test_texts_that_no_encoding_likes_and_samples_without_figures(tmp_path: Path) -> None:
    odd = ["half \ud83d of a pair", "\u2028\x00\x1b[31m and more", "</script><!--"]
    rows = [sample("a", place, text, "unscored", length=None) for place, text in enumerate(odd)]
    folder = write_suite(tmp_path / "odd", [problem("a", None)], rows, {})
    write_eval_report(tmp_path)
    found = json.loads((tmp_path / "report.json").read_text())["suites"]["odd"]
    assert (found["figures"]["accuracy"], found["figures"]["mean_length"], found["pass@k"]) == (None, None, {})
    assert found["lengths"]["unknown"] == found["figures"]["unscored"] == 3
    embedded = embed([read_suite("odd", folder)])
    assert [text for text, _, _ in unpack(embedded.parts[-1])] == odd


def test_names_and_values_of_the_folder_are_escaped(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)> | `$x$`"
    folder = tmp_path / "ev&<b>al"
    columns = [problem(f"p{place}<i>", level=[nasty, "B"][place % 2]) for place in range(8)]
    settings = {"model": nasty, "temperature": 1, "top_p": 1, "max_tokens": 9, "seed": 0}
    write_suite(folder / "sums", columns, [sample(f"p{place}<i>", 0, "42", "correct") for place in range(8)], settings)
    write_eval_report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in html and "<b>al" not in html and "&lt;img src=x onerror=alert(1)&gt;" in html
    assert html.count("<script") == 2 + len(re.findall('id="part-', html))
    table = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("| <img")]
    assert table and all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in table)


def test_the_gold_that_was_not_extracted() -> None:
    missed = [("42", "so it is 42, as I said", "41"), ("x+1", r"thus x+1.", None)]
    assert all(stands_at_the_end(gold, text, found) for gold, text, found in missed)
    none = [
        ("42", "so it is 142", None),
        ("42", "it is 42.5", None),
        ("42", "it is -42", None),
        ("1/2", "it is 1/2/3", None),
        ("4", "of the 4", None),
        ("42", "42", "42"),
        ("42", "42" + " no" * 300, None),
        ("", "anything", None),
    ]
    assert [case for case in none if stands_at_the_end(*case)] == []
    assert "gold not extracted" in flags_of(sample("a", 0, "surely 42", "no_answer"), "42")
    assert "gold not extracted" not in flags_of(sample("a", 0, "surely 42", "correct"), "42")


def test_order_and_sizes() -> None:
    assert sorted(["Level 10", "Level 2", "", "Level"], key=natural) == ["Level", "Level 2", "Level 10", ""]
    assert sorted(["10", "9", "1.5", "a"], key=natural)[-2:] == ["10", "a"]
    assert (powers(1), powers(8), powers(6)) == ([1], [1, 2, 4, 8], [1, 2, 4, 6])


def test_the_command(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["report", str(folder), "--suite", "shapes", "--out", str(tmp_path)])
    assert done.exit_code == 0 and done.output.count("wrote ") == 3, done.output
    assert list(json.loads((tmp_path / "report.json").read_text())["suites"]) == ["shapes"]
    refused = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert refused.exit_code == 2 and "holds no samples" in refused.output
