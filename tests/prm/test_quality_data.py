"""Near-duplicates and splits by problem: against all pairs compared one by one, and on files of any order."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from datetime import date
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.data_tools.near import Bands, jaccard, shingles
from reasonrl.data_tools.overlap import find_overlaps, words_of
from reasonrl.errors import DataError
from reasonrl.prm.quality.near_duplicates import drop_near_duplicates
from reasonrl.prm.quality.partitions import Partitions
from reasonrl.prm.quality.splitting import split_by_problem

VOCABULARY = [f"word{number}" for number in range(400)]


def text_of(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(VOCABULARY) for _ in range(words))


def changed(draw: random.Random, text: str, times: int) -> str:
    words = text.split()
    for _ in range(times):
        words[draw.randrange(len(words))] = draw.choice(VOCABULARY)
    return " ".join(words)


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def plain_share(first: str, second: str) -> float:
    """Of runs of five words, with sets of tuples."""
    one, other = plain_runs(first), plain_runs(second)
    return len(one & other) / len(one | other)


@lru_cache(maxsize=4096)
def plain_runs(text: str) -> frozenset[tuple[str, ...]]:
    words = words_of(text)
    return frozenset(tuple(words[place : place + 5]) for place in range(max(1, len(words) - 4)))


def test_shares_are_those_of_sets_of_tuples() -> None:
    draw = random.Random(0)
    for _ in range(100):
        first = text_of(draw, draw.randrange(1, 60))
        second = changed(draw, first, draw.randrange(4)) + " " + text_of(draw, draw.randrange(3))
        assert jaccard(shingles(first), shingles(second)) == pytest.approx(plain_share(first, second))
    assert jaccard(shingles(""), shingles("a")) == 0 and len(shingles("...")) == 0
    assert jaccard(shingles("The ANSWER is $x$."), shingles("the answer is x")) == 1
    assert jaccard(shingles("a b c d e f"), shingles("f e d c b a")) == 0


def test_hashes_are_those_of_every_process() -> None:
    program = (
        "from reasonrl.data_tools.near import *; r = shingles('a b c d e f'); print(r.sum(), sorted(Bands(.8).keys(r)))"
    )
    here = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60).stdout
    runs = shingles("a b c d e f")
    assert here.strip() == f"{runs.sum()} {sorted(Bands(0.8).keys(runs))}"


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_minhash_misses_few_and_spares_most_comparisons(share: float) -> None:
    draw, bands = random.Random(1), Bands(share)
    assert bands.missed <= 0.001
    alike = missed = 0
    for _ in range(80):
        first = text_of(draw, 150)
        second = f"{first} {text_of(draw, draw.randrange(1, 10 + int(150 * (1 / share - 1))))}"
        if jaccard(shingles(first), shingles(second)) >= share:
            alike += 1
            missed += not bands.keys(shingles(first)) & bands.keys(shingles(second))
    assert alike > 20 and missed <= 1
    strangers = [bands.keys(shingles(text_of(draw, 150))) for _ in range(25)]
    assert sum(bool(one & other) for one, other in combinations(strangers, 2)) < 3


def number_in(problem: str) -> str:
    return "".join(filter(str.isdigit, problem))


def solutions(count: int, problems: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    base = {problem: [text_of(draw, 60) for _ in range(4)] for problem in range(problems)}
    rows = []
    for number in range(count):
        problem = draw.randrange(problems)
        text = changed(draw, draw.choice(base[problem]), draw.choice([0, 1, 2, 8, 30]))
        asked = f"Problem {problem}: what is it?" if draw.random() < 0.5 else f"problem  {problem}, What is it"
        rows.append({"id": f"s{number}", "problem": asked, "text": text, "correct": draw.random() < 0.8})
    return rows


@pytest.mark.parametrize(("count", "problems"), [(120, 8), (160, 1)])  # the second has more than MinHash's 64
def test_what_is_dropped_is_what_a_plain_loop_drops(tmp_path: Path, count: int, problems: int) -> None:
    rows = solutions(count, problems)
    source = lines(tmp_path / "in.jsonl", ["{torn", {"id": "x"}, {"problem": "p"}, *rows])
    found = drop_near_duplicates(source, tmp_path / "out.jsonl", dropped=tmp_path / "gone.jsonl")
    kept: list[dict[str, Any]] = []
    for row in rows:
        near = [
            other
            for other in kept
            if number_in(other["problem"]) == number_in(row["problem"])
            and other["correct"] == row["correct"]
            and plain_share(other["text"], row["text"]) >= 0.8
        ]
        if not near:
            kept.append(row)
    assert read(tmp_path / "out.jsonl") == kept and 0 < len(kept) < count
    gone = read(tmp_path / "gone.jsonl")
    assert len(gone) == found.dropped == count - len(kept) and found.problems == problems
    by_id = {row["id"]: row for row in rows}
    for line in gone:
        assert line["share"] == pytest.approx(plain_share(by_id[line["of"]]["text"], line["row"]["text"]), abs=1e-4)
        assert line["of"] in {row["id"] for row in kept}
    assert sum(found.aside.reasons.values()) == 3


def test_a_filter_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", solutions(5, 1))
    with pytest.raises(DataError, match="is the input"):
        drop_near_duplicates(source, source)
    with pytest.raises(DataError, match="no usable row"):
        drop_near_duplicates(lines(tmp_path / "bad.jsonl", [{"id": "x"}]), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    row = {"id": "nan", "q": "p", "s": "text", "score": float("nan")}
    found = drop_near_duplicates(
        lines(tmp_path / "nan.jsonl", [row]), tmp_path / "out.jsonl", columns={"problem": "q", "solution": "s"}
    )
    assert found.kept == 1 and read(tmp_path / "out.jsonl") == [{**row, "score": None}]
    rows = [
        {"problem": "p", "text": f"t{n}", "picture": b"x" if n else None, "on": date(2026, 1, n + 1)} for n in (0, 1)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    found = drop_near_duplicates(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    assert read(tmp_path / "out.jsonl") == [{**rows[0], "on": "2026-01-01"}] and sum(found.aside.reasons.values()) == 1
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[1:]), tmp_path / "in.parquet")
    with pytest.raises(DataError, match="JSON cannot hold"):
        drop_near_duplicates(tmp_path / "in.parquet", tmp_path / "out.jsonl")


def test_partitions_keep_what_belongs_together() -> None:
    with Partitions(8) as spread:
        for number in range(1000):
            spread.add(f"k{number % 50}\ud800", [number, "\u2028"])
        met: dict[str, list[int]] = {}
        for part in spread.parts():
            keys = {key for key, _ in part}
            assert not keys & met.keys()
            for key, (number, _) in part:
                met.setdefault(key, []).append(number)
    assert len(met) == 50 and all(numbers == sorted(numbers) and len(numbers) == 20 for numbers in met.values())


def problems_of(seed: int = 0) -> list[dict[str, Any]]:
    """350 problems, of which some are nearly others and some hold half of another, with several rows each."""
    draw = random.Random(seed)
    texts = [text_of(draw, draw.randrange(12, 50)) for _ in range(250)]
    texts += [changed(draw, text, 1) for text in texts[:60] if len(text.split()) > 20]
    texts += [f"{text_of(draw, 60)} {text}" for text in texts[60:100]]
    rows = [
        {"id": f"{number}/{copy}", "problem": text.upper() if copy else text, "text": "x", "source": number % 200}
        for number, text in enumerate(texts)
        for copy in range(draw.randrange(1, 4))
    ]
    draw.shuffle(rows)
    return rows


def test_no_problem_stands_on_two_sides(tmp_path: Path) -> None:
    rows = problems_of()
    source = lines(tmp_path / "in.jsonl", [*rows, {"id": "none"}, "{"])
    shares = {"test": 0.1, "validation": 0.05}
    found = split_by_problem(source, tmp_path / "out", shares, seed=3)
    sides = {name: read(tmp_path / "out" / f"{name}.jsonl") for name in (*shares, "train")}
    assert sorted(row["id"] for side in sides.values() for row in side) == sorted(row["id"] for row in rows)
    order = {row["id"]: place for place, row in enumerate(rows)}
    for side in sides.values():
        places = [order[row["id"]] for row in side]
        assert places == sorted(places)
    for one, other in combinations(sides.values(), 2):
        assert not find_overlaps(one, other).pairs and not find_overlaps(other, one).pairs
        texts = [[shingles(row["problem"]) for row in side] for side in sorted((one, other), key=len)]
        assert max(jaccard(a, b) for a in texts[0][:30] for b in texts[1]) < 0.5
    assert found.joined > 60 and found.moved > 5 and 0.05 < found.problems["test"] / sum(found.problems.values()) < 0.15
    assert sum(found.aside.reasons.values()) == 2
    about = json.loads((tmp_path / "out" / "split.json").read_text())
    assert about["rows"] == {name: len(side) for name, side in sides.items()} and about["check"]["overlapping"] == 0
    # Rows that are added, in whatever order, leave the others where they were, unless they tie them to others.
    before = {row["id"]: name for name, side in sides.items() for row in side}
    more = [{"id": f"new{n}", "problem": text_of(random.Random(100 + n), 30), "text": "y"} for n in range(60)]
    grown = [*more, *reversed(rows)]
    split_by_problem(lines(tmp_path / "grown.jsonl", grown), tmp_path / "grown", shares, seed=3)
    after = {row["id"]: name for name in sides for row in read(tmp_path / "grown" / f"{name}.jsonl")}
    assert all(after[identity] == name for identity, name in before.items())


def test_rows_of_a_column_stay_together_and_faults_are_said(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", problems_of())
    split_by_problem(source, tmp_path / "out", {"test": 0.2}, together=["source"])
    sides = [{row["source"] for row in read(tmp_path / "out" / f"{name}.jsonl")} for name in ("train", "test")]
    assert not sides[0] & sides[1] and sides[1]
    for shares in ({}, {"test": 0.0}, {"test": 0.6, "other": 0.5}, {"train": 0.1}, {"../x": 0.1}):
        with pytest.raises(DataError):
            split_by_problem(source, tmp_path / "no", shares)
    with pytest.raises(DataError, match="no column"):
        split_by_problem(source, tmp_path / "no", {"test": 0.2}, together=["document"])
    with pytest.raises(DataError, match="leave test empty"):
        split_by_problem(lines(tmp_path / "one.jsonl", [{"problem": "1 + 1"}]), tmp_path / "no", {"test": 0.01})
    assert not (tmp_path / "no").exists()


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    source = lines(tmp_path / "in.jsonl", [*solutions(200, 40), "{"])
    run = CliRunner().invoke(main, ["labels", "dedup", str(source), "--out", str(tmp_path / "kept.jsonl")])
    assert run.exit_code == 0 and "1 row set aside: torn or invalid JSON" in run.output
    run = CliRunner().invoke(
        main, ["labels", "split", str(tmp_path / "kept.jsonl"), "--out", str(tmp_path / "s"), "--test", "0.3"]
    )
    assert run.exit_code == 0 and "checked: no problem on two sides" in run.output


MEMORY = """
import resource, sys
from pathlib import Path
from reasonrl.prm.quality.near_duplicates import drop_near_duplicates
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
drop_near_duplicates(sys.argv[1], Path(sys.argv[1] + ".out"))
before = peak()
found = drop_near_duplicates(sys.argv[2], Path(sys.argv[2] + ".out"))
print(peak() - before, found.kept, found.dropped)
"""


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_thousand_solutions(tmp_path: Path) -> None:
    draw = random.Random(0)
    base = [text_of(draw, 150) for _ in range(5000)]
    paths = [tmp_path / "small.jsonl", tmp_path / "large.jsonl"]
    for path, count in zip(paths, (1000, 100_000), strict=True):
        with path.open("w") as file:
            for number in range(count):
                text = changed(draw, base[number % 5000], draw.choice([1, 50]))
                file.write(json.dumps({"id": str(number), "problem": f"problem {number % 5000}", "text": text}) + "\n")
    words = [sys.executable, "-c", MEMORY, *map(str, paths)]
    run = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    grown, kept, dropped = run.stdout.split()
    print(f"{grown} MB, {kept} kept, {dropped} dropped, {paths[1].stat().st_size / 1e6:.0f} MB read")
    assert float(grown) < 60 and int(kept) + int(dropped) == 100_000
