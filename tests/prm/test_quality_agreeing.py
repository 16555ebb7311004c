"""Label sets compared: counts against plain loops, intervals against their coverage, odd files, flat memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest

from reasonrl.errors import DataError
from reasonrl.prm.labels import agreement
from reasonrl.prm.quality.agreeing import compare_sets, length_bands, rounded
from reasonrl.prm.quality.commands import named_sources
from reasonrl.prm.quality.intervals import change_of, share_of
from reasonrl.prm.quality.sources import Aside, read_labels


def record_of(identity: str, labels: list[int | None], **more: Any) -> dict[str, Any]:
    """A label record whose steps are of two characters each."""
    steps = [[2 * place, 2 * place + 2] for place in range(len(labels))]
    return {"id": identity, "problem": "p", "text": "ab" * len(labels), "steps": steps, "labels": labels, **more}


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def drawn_sets(count: int, seed: int = 0) -> list[dict[str, dict[str, Any]]]:
    draw = random.Random(seed)
    sets: list[dict[str, dict[str, Any]]] = [{}, {}]
    for number in range(count):
        size = draw.randrange(1, 30)
        for one in sets:
            labels = [draw.choice([0, 1, 1, None]) for _ in range(size)]
            if draw.random() > 0.1:
                one[f"s{number}"] = record_of(f"s{number}", labels, length=draw.randrange(10_000))
    return sets


def test_figures_are_those_of_plain_loops_whatever_the_order(tmp_path: Path) -> None:
    first, second = drawn_sets(300)
    rows = [*second.values()]
    random.Random(1).shuffle(rows)
    found = compare_sets(
        {"a": write(tmp_path / "a.jsonl", [*first.values()]), "b": write(tmp_path / "b.jsonl", rows)}, resamples=200
    )
    (pair,) = found.pairs
    both = [name for name in first if name in second]
    assert pair.missing == len(first.keys() ^ second.keys())
    lists = [[one[name]["labels"] for name in both] for one in (first, second)]
    assert pair.whole.agreement == agreement(lists[0], lists[1], resamples=200)
    for figures, cut in [
        (pair.positions[2], slice(2, 3)),
        (pair.positions[5], slice(5, 8)),
        (pair.positions[8], slice(20, None)),
        (pair.parts[0], slice(-1, None)),
        (pair.parts[1], slice(0, -1)),
    ]:
        # Figures of a position count one solution for each step, so that only the sums are compared.
        wanted = agreement([one[cut] for one in lists[0]], [one[cut] for one in lists[1]], resamples=50)
        assert (figures.agreement.n, figures.agreement.both_right) == (wanted.n, wanted.both_right)
        assert figures.agreement.observed == wanted.observed
    assert sum(one.agreement.n for one in pair.positions) == pair.whole.agreement.n
    assert sum(one.agreement.n for one in pair.lengths) == pair.whole.agreement.n and len(pair.lengths) == 5
    short = [name for name in both if len(first[name]["labels"]) <= int(pair.lengths[0].name.split()[-1])]
    assert pair.lengths[0].agreement.n == sum(
        None not in cell for name in short for cell in zip(first[name]["labels"], second[name]["labels"], strict=True)
    )


def test_each_judge_gets_its_figures_against_a_gold_set(tmp_path: Path) -> None:
    votes = [
        {"judge": "0.x", "vote": 0, "labels": [1, 1, 0]},
        {"judge": "1.y", "vote": 0, "labels": [0, 1, 0]},
        {"judge": "1.y", "vote": 1, "labels": [0, 0, 0]},
        {"judge": "1.y", "vote": 2, "labels": [0, 1, 1]},
    ]
    source = write(tmp_path / "a.jsonl", [record_of("s", [None, 1, 0], votes=votes)])
    gold = write(tmp_path / "g.jsonl", [record_of("s", [1, 1, 0])])
    found = compare_sets({"a": source, "gold": gold}, gold="gold")
    shares = {pair.first: (pair.whole.share.value, pair.whole.agreement.n) for pair in found.pairs}
    assert shares == {
        "a": (1, 2),
        "a:0.x": (1, 3),
        "a:1.y#0": (pytest.approx(2 / 3), 3),
        "a:1.y#1": (pytest.approx(1 / 3), 3),
        "a:1.y#2": (pytest.approx(1 / 3), 3),
        "a:1.y": (pytest.approx(2 / 3), 3),
    }
    alone = compare_sets({"a": source})
    assert {(pair.first, pair.second) for pair in alone.pairs} >= {("a:1.y#0", "a:1.y#1"), ("a:0.x", "a:1.y")}
    assert all(pair.first != pair.second for pair in alone.pairs)


def test_odd_rows_are_set_aside_and_counted(tmp_path: Path) -> None:
    good = record_of("good", [1, 0])
    odd = [
        "{torn",
        "[1]",
        {**good, "id": None},
        {**good, "id": "unlabelled", "labels": None},
        {**good, "id": "short", "labels": [1]},
        {**good, "id": "word", "labels": ["1", 0]},
        {**good, "id": "true", "labels": [True, 0]},
        {**good, "id": "gap", "steps": [[0, 2], [3, 4]]},
        {**good, "id": "steps", "steps": None},
        {**good, "id": "text", "text": None},
        {"id": "review", "steps": [{"text": "a"}], "human": [None]},
    ]
    aside = Aside()
    assert [one.id for one in read_labels(write(tmp_path / "a.jsonl", [*odd, good]), aside)] == ["good"]
    assert aside.rows == 12 and sum(aside.reasons.values()) == 11
    assert aside.reasons["no labels"] == 1 and aside.reasons["not reviewed yet"] == 1
    other = write(tmp_path / "b.jsonl", [good, good, {**good, "id": "gap", "text": "abcx"}])
    found = compare_sets({"a": tmp_path / "a.jsonl", "b": other})
    assert found.repeated == {"b": 1} and found.pairs[0].missing == 1
    assert compare_sets({"a": other, "b": write(tmp_path / "c.jsonl", [record_of("gap", [1, 1])])}).pairs[0].other_steps
    for path in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="->"):
            next(read_labels(path))


def test_sources_are_named_by_what_tells_them_apart() -> None:
    assert named_sources(["x/labels", "y/labels", "c=z.jsonl"]) == {
        "x/labels": "x/labels",
        "y/labels": "y/labels",
        "c": "z.jsonl",
    }
    assert list(named_sources(["one/audit.jsonl"])) == ["audit"]
    for words in (["a=x", "a=y"], ["a:b=x"], ["a="]):
        with pytest.raises(DataError, match="NAME=PATH"):
            named_sources(words)


def test_lengths_are_rounded_and_banded() -> None:
    assert [rounded(length) for length in (3, 64, 65, 66, 1000, 5000)] == [3, 64, 64, 66, 992, 4992]
    assert all(0.96 * length <= rounded(length) <= length for length in range(1, 20_000, 7))
    bands = length_bands({float(n): Counter({(1, 0, 0, 0): n}) for n in range(1, 11)}, 3)
    assert [(low, high, own.total()) for low, high, own in bands] == [(1, 6, 21), (7, 9, 24), (10, 10, 10)]


def covered(shares: numpy.ndarray, sizes: numpy.ndarray, truth: float, draw: numpy.random.Generator) -> bool:
    hits = draw.binomial(sizes, shares)
    share = share_of(Counter(zip(hits.tolist(), sizes.tolist(), strict=True)))
    assert share.low is not None and share.high is not None and share.low <= share.value <= share.high  # type: ignore[operator]
    return share.low <= truth <= share.high


@pytest.mark.parametrize(
    ("a", "b", "solutions"), [(9, 1, 20), (9, 1, 100), (1.8, 0.2, 50), (60, 1.2, 25), (0.98, 0.02, 40)]
)
def test_intervals_of_shares_cover_although_steps_of_a_solution_are_alike(a: float, b: float, solutions: int) -> None:
    draw = numpy.random.default_rng(0)
    times = 400
    hits = 0
    for _ in range(times):
        sizes = draw.integers(3, 20, size=solutions)
        hits += covered(draw.beta(a, b, size=solutions), sizes, a / (a + b), draw)
    assert hits / times > 0.92  # nominal .95, with 1.1 points of noise; drawing steps alone gives .6 to .85


def test_changes_cover_and_edges_are_said() -> None:
    draw, hits = numpy.random.default_rng(1), 0
    for _ in range(400):
        sizes = draw.integers(3, 20, size=40)
        fallen = draw.binomial(sizes, draw.beta(1, 9, size=40))
        change = change_of(Counter(zip((-fallen).tolist(), sizes.tolist(), strict=True)))
        hits += change.low <= -0.1 <= change.high  # type: ignore[operator]
    assert hits / 400 > 0.92
    assert share_of({}).value is None and change_of({(0, 0): 3}).value is None
    perfect = share_of({(10, 10): 20})
    assert perfect.value == 1 == perfect.high and 0.8 < (perfect.low or 0) < 0.9
    assert share_of({(3, 4): 1}).low is None


MEMORY = """
import resource, sys
from reasonrl.prm.quality.agreeing import compare_sets
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
compare_sets({"a": sys.argv[1], "b": sys.argv[1]}, resamples=100)
before = peak()
found = compare_sets({"a": sys.argv[2], "b": sys.argv[3]}, resamples=100)
print(peak() - before, found.pairs[0].whole.agreement.n)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_a_million_steps(tmp_path: Path) -> None:
    draw = random.Random(0)
    text = "".join(f"Step {place}: we compute the next value and go on.\n" for place in range(20))
    steps = [[place * len(text) // 20, (place + 1) * len(text) // 20] for place in range(20)]
    paths = [tmp_path / name for name in ("small.jsonl", "a.jsonl", "b.jsonl")]
    for path, count in zip(paths, (100, 50_000, 50_000), strict=True):
        with path.open("w") as file:
            for number in range(count):
                labels = [draw.randrange(2) for _ in steps]
                record = {"id": f"s{number}", "problem": "p", "text": text, "steps": steps, "labels": labels}
                file.write(json.dumps(record) + "\n")
    words = [sys.executable, "-c", MEMORY, *map(str, paths)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    grown, steps_met = run.stdout.split()
    print(f"{grown} MB over {steps_met} steps")
    assert int(steps_met) == 1_000_000 and float(grown) < 50
