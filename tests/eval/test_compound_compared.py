"""Retention and independence gap where not all problems are asked alone: in `results.json`, and compared by block."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest

from reasonrl.data_tools.compound import compound_rows
from reasonrl.errors import RunError
from reasonrl.eval.compare import compare_evaluations
from reasonrl.eval.compound import compound_figures, flat_figures, read_compound, write_compound
from reasonrl.eval.compound_against import Against, Block, independence_gap, retention
from reasonrl.eval.results import read_results
from reasonrl.eval.summary import results_table
from reasonrl.rollout.engine import Request, Sample, SamplingParams

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import evaluate, problems

TABLE = problems(20)
ROWS = compound_rows(TABLE, 4)
MEMBERS: dict[str, list[str]] = {}
for one in ROWS:
    MEMBERS.setdefault(one["group"], [part["id"] for part in json.loads(one["items"])])


class Answers:
    """Answers each sum of a prompt in its line; `right(problem, together)` says which rightly."""

    def __init__(self, right: Callable[[str, bool], bool]) -> None:
        self.right = right

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        for request in requests:
            text = "".join(map(chr, request.prompt_ids))
            sums = [line for line in text.split("\n") if line.endswith("= ?")]
            lines = []
            for number, asked in enumerate(sums, start=1):
                first, second = (int(word) for word in asked.removesuffix("= ?").split("+"))
                off = not self.right(f"p{first}", len(sums) > 1)
                lines.append(f"{number}. \\boxed{{{first + second + off}}}")
            answer = "\n".join(lines)
            yield Sample(request, tuple(map(ord, answer)), answer, (0.0,) * len(answer), "stop", 0)


def evaluated(
    folder: Path, right: Callable[[str, bool], bool], alone: Collection[str], rows: Sequence[Any] = ROWS
) -> Path:
    """An evaluation of the compound rows, and of these problems alone."""
    reward = {"name": "compound", "args": {"workers": 0}}
    asked = {"n": 1, "k": (1,), "greedy": False, "params": SamplingParams(max_tokens=200, temperature=1.0)}
    engine = Answers(right)
    single = {**reward, "args": {"workers": 0, "framed": False}}
    plain = [row for row in TABLE if row["id"] in alone]
    evaluate(folder, suite_name="sums-cb4", rows=rows, reward=reward, engine=engine, metrics=["acc_item"], **asked)
    evaluate(folder, suite_name="sums", rows=plain, reward=single, engine=engine, **asked)
    write_compound(folder)
    return folder


def test_problems_that_are_not_asked_alone_are_in_no_figure(tmp_path: Path) -> None:
    alone = [*MEMBERS["block 0"], MEMBERS["block 3"][1]]
    for label in ("one", "other"):
        evaluated(tmp_path / label, lambda problem, together: True, alone)
    entry = read_results(tmp_path / "one")["suites"]["sums-cb4"]
    assert entry["compound"]["retention"]["value"] == 1.0 and entry["compound"]["retention"]["n"] == 2
    assert entry["compound"]["independence_gap"]["value"] == 0.0 and entry["compound"]["independence_gap"]["n"] == 1
    said = "retention is over 5 of 20 problems, independence_gap over 1 of 5 blocks"
    assert [line[: len(said)] for line in entry["warnings"]] == [said]
    assert said in results_table({"sums-cb4": entry})
    write_compound(tmp_path / "one")
    assert read_results(tmp_path / "one")["suites"]["sums-cb4"]["warnings"] == entry["warnings"]  # told once
    table = compare_evaluations({label: tmp_path / label for label in ("one", "other")}, "one")
    for metric, value in (("retention", 1.0), ("independence_gap", 0.0)):
        cell = table.cell("sums-cb4", metric, "other")
        assert (cell.estimate.value, cell.difference.value, cell.p_value) == (value, 0.0, 1.0)
        assert cell.estimate.as_dict() == entry["compound"][metric]
    assert [note for note in table.notes if said in note and "'other'" in note]
    assert "sums-cb4/problems_alone" not in flat_figures("sums-cb4", entry["compound"])


def test_whole_coverage_needs_no_word(tmp_path: Path) -> None:
    folder = evaluated(tmp_path, lambda problem, together: problem != "p3" or together, {row["id"] for row in TABLE})
    entry = read_results(folder)["suites"]["sums-cb4"]
    assert entry["warnings"] == [] and entry["compound"]["retention"]["value"] == pytest.approx(20 / 19)
    # Of five blocks one was expected at 0 and came out at 1.
    assert entry["compound"]["independence_gap"]["value"] == pytest.approx(1 / 5)


def test_differences_are_over_the_blocks_and_problems_of_both_sides(tmp_path: Path) -> None:
    names = [f"block {number}" for number in range(5)]
    first = {item for name in names[:4] for item in MEMBERS[name]}  # alone: blocks 0 to 3
    second = {item for name in names[1:] for item in MEMBERS[name][1:]} | set(MEMBERS["block 1"])  # 1, most of 2 to 4
    ours = evaluated(tmp_path / "ours", lambda problem, together: not together or int(problem[1:]) % 3 > 0, first)
    theirs = evaluated(tmp_path / "theirs", lambda problem, together: int(problem[1:]) % 4 > 0, second)

    shared = first & second
    assert len(shared) == 4 + 3 + 3
    right = {item: int(item[1:]) % 3 > 0 for item in shared}
    its = {item: int(item[1:]) % 4 > 0 for item in shared}
    assert 0 < sum(right.values()) < 10 and 0 < sum(its.values()) < 10
    table = compare_evaluations({"theirs": theirs, "ours": ours}, "theirs")
    found = table.cell("sums-cb4", "retention", "ours")
    assert found.difference is not None and found.difference.n == 3  # blocks 1, 2 and 3
    assert found.difference.value == pytest.approx(sum(right.values()) / 10 - 1.0)  # theirs: as alone
    assert found.estimate.value == pytest.approx(sum(int(item[1:]) % 3 > 0 for item in first) / 16)
    gap = table.cell("sums-cb4", "independence_gap", "ours")
    whole = all(int(item[1:]) % 3 > 0 for item in MEMBERS["block 1"])
    assert gap.difference is not None and (gap.difference.n, gap.difference.value) == (1, float(whole) - 1.0)


def test_other_blocks_are_refused(tmp_path: Path) -> None:
    everything = {row["id"] for row in TABLE}
    ours = evaluated(tmp_path / "ours", lambda problem, together: True, everything)
    theirs = evaluated(tmp_path / "theirs", lambda problem, together: True, everything, compound_rows(TABLE, 4, seed=1))
    with pytest.raises(RunError, match=r"'block 0' holds other problems on each side \('p.*the same data, limit, k"):
        compare_evaluations({"theirs": theirs, "ours": ours}, "theirs")


def test_sides_with_nothing_in_common_are_refused() -> None:
    def side(*names: str, below: float = 1.0) -> Against:
        return Against({name: Block(frozenset({name}), {name: (0.5, below)}) for name in names})

    assert side("a", "b", "c").difference(side("c", "d", "e", below=2.0), "here").value == 0.5 - 0.25
    with pytest.raises(RunError, match="here: none of 2 and 1 blocks has a value on both sides"):
        side("a", "c").p_value(side("b"), "here")
    with pytest.raises(RunError, match="none of the problems of both is right alone"):
        side("a", "b").difference(side("a", "b", below=0.0), "here")


def test_nothing_to_compare_with_is_no_figure(tmp_path: Path) -> None:
    assert retention({"a": 1.0}, {"a": 0.0}, {"block 0": ["a"]}) is None
    assert retention({"a": 1.0}, {"b": 1.0}, {"block 0": ["a"]}) is None
    assert independence_gap({"block 0": 1.0}, {"block 0": ["a", "b"]}, {"a": 1.0}) is None
    folder = evaluated(tmp_path, lambda problem, together: together, ["p0", "p1"])
    figures = read_results(folder)["suites"]["sums-cb4"]["compound"]
    assert "retention" not in figures and "independence_gap" not in figures
    assert (figures["problems_alone"], figures["blocks_alone"]) == (2, 0)
    suites = read_compound(folder)
    assert "problems_alone" not in compound_figures(suites["sums-cb4"])


def test_a_difference_is_told_from_noise() -> None:
    draw = numpy.random.default_rng(0)
    alone = draw.uniform(3, 5, size=200)

    def side(share: float) -> Against:
        together = alone * share + draw.normal(0, 0.1, 200)
        pairs = zip(together, alone, strict=True)
        return Against({f"block {n}": Block(frozenset({f"p{n}"}), {f"p{n}": pair}) for n, pair in enumerate(pairs)})

    ours, theirs = side(0.9), side(0.8)
    apart = ours.difference(theirs, "here")
    assert apart.value == pytest.approx(0.1, abs=0.01) and apart.low is not None and apart.low > 0.08
    assert ours.p_value(theirs, "here") < 0.01
    assert ours.difference(ours, "here").value == 0 and ours.p_value(ours, "here") == 1.0


def test_a_limited_evaluation_tells_how_many_problems_there_were(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from reasonrl.eval.suites import resolve
    from reasonrl.pipeline.stages.eval import _source

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    (tmp_path / "my.yaml").write_text("mine: {about: sums, source: rows.jsonl, compound: {k: 5, rotations: 1}}\n")
    suite = resolve(str(tmp_path / "my.yaml"), overrides={"limit": 10})["mine"]
    source, about = _source(suite, SimpleNamespace(seed=0, base_directory=None))  # type: ignore[arg-type]
    assert len(source.rows) == 2 and about["limited"] == {"problems": 10, "of": 20}
