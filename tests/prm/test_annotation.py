"""Annotation against a real HTTP judge: every record once and in order, faults, kills, shards, budgets, retries."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from judge_world import Act, ScriptedServer, Seen, honest, row_of

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.endpoints import BudgetSpent
from reasonrl.errors import RunError, StageFailed
from reasonrl.observe.records import read_records
from reasonrl.prm.annotation import Folder, JudgeSpec, Reading, Shards, Summary, annotate
from reasonrl.prm.labels import validate
from reasonrl.prm.segment import Rules, segment

KINDS = [["right", "right"], ["right", "error", "propagation"], ["error", "cessation", "right"], ["error", "error"]]


def rows_of(count: int) -> list[Any]:
    return [(f"r:{number}", row_of(number, KINDS[number % 4])) for number in range(count)]


def judge_at(server: ScriptedServer, concurrency: int = 8, **more: Any) -> JudgeSpec:
    endpoint = {"base_url": server.url, "model": "judge", "max_concurrency": concurrency, "backoff": 0.01}
    args = {name: more.pop(name) for name in ("votes", "re_asks") if name in more}
    return JudgeSpec("endpoint", {"endpoint": {**endpoint, **more}, **args})


def run(path: Path, rows: list[Any], *judges: JudgeSpec, policy: str | None = None, **more: Any) -> Summary:
    def reading() -> Reading:
        return Reading(lambda text: segment(text, Rules(0, 100)), policy=policy)

    return annotate(path, lambda: rows, reading, judges, **{"shard_size": 10, "date": "2026-01-02", **more})


def digest(path: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted((path / "labels").iterdir()))).hexdigest()


def test_every_solution_is_labelled_once_and_in_order(tmp_path: Path) -> None:
    rows = rows_of(25)
    with ScriptedServer(lambda seen, number: Act(honest(seen, number).text, seconds=0.01 * (number % 3))) as server:
        summary = run(tmp_path, rows, judge_at(server))
        assert summary.complete and summary.shards == 3 and server.most <= 8
        before = len(server.seen)
        again = run(tmp_path, rows, judge_at(server))
        assert len(server.seen) == before == 25 and again == summary
    records = list(Folder(tmp_path).labelled())
    assert [record["id"] for record in records] == [row["id"] for _, row in rows]
    assert [record["labels"] for record in records[:4]] == [[1, 1], [1, 0, 0], [0, 1, 1], [0, 0]]
    for record in records:
        assert validate(record) == []
        assert record["source"]["judge"] == "judge" and record["source"]["date"] == "2026-01-02"
        assert len(record["source"]["prompt_hash"]) == 16
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["solutions"] == 25 and index["steps"] == sum(len(record["steps"]) for record in records)
    assert index["usage"]["prompt_tokens"] == 250 and len(index["shards"]) == 3


def test_failures_stand_in_their_own_file_and_are_asked_about_again(tmp_path: Path) -> None:
    ill = True

    def script(seen: Seen, number: int) -> Act:
        return Act("no") if ill and "Line 3.0" in seen.prompt else honest(seen, number)

    rows = [*rows_of(12), ("r:12", BadRow("torn")), ("r:13", row_of(5, ["right"])), ("r:14", {"problem": "p"})]
    with ScriptedServer(script) as server:
        summary = run(tmp_path, rows, judge_at(server, re_asks=0))
        assert summary.complete and summary.totals["solutions"] == 11 and summary.totals["failed"] == 4
        failed = read_records(tmp_path / "failed.jsonl")
        assert [line["id"] for line in failed][:3] == ["s3", "r:12", "s5"]
        assert [line["retry"] for line in failed] == [True, False, False, False]
        assert "no JSON object" in failed[0]["reason"] and "stands twice" in failed[2]["reason"]
        ill, before = False, len(server.seen)
        run(tmp_path, rows, judge_at(server, re_asks=0))
        assert len(server.seen) == before  # without being told to, it asks about nothing twice
        summary = run(tmp_path, rows, judge_at(server, re_asks=0), retry_failed=True)
        assert len(server.seen) == before + 1 and summary.totals["failed"] == 3
        run(tmp_path / "unbroken", rows, judge_at(server, re_asks=0))
    assert digest(tmp_path) == digest(tmp_path / "unbroken")


def test_a_judge_that_is_broken_is_not_asked_for_ever(tmp_path: Path) -> None:
    with ScriptedServer(lambda seen, number: Act("no")) as server:
        with pytest.raises(StageFailed, match="20 answers in a row had no labels"):
            run(tmp_path, rows_of(200), judge_at(server, 4, re_asks=0))
        assert len(server.seen) < 20 + 8 * 4 + 4  # those that were taken meanwhile


def test_a_budget_holds_over_several_runs(tmp_path: Path) -> None:
    rows = rows_of(40)
    with ScriptedServer(honest) as server:
        with pytest.raises(BudgetSpent):
            run(tmp_path, rows, judge_at(server, 2, budget={"max_requests": 15}))
        assert len(server.seen) == 15
        with pytest.raises(RunError, match="budget is used up"):
            run(tmp_path, rows, judge_at(server, 2, budget={"max_requests": 15}))
        assert run(tmp_path, rows, judge_at(server, 2, budget={"max_requests": 40})).complete
        assert len(server.seen) == 40


def test_shards_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    rows = [*rows_of(35), ("r:35", row_of(2, ["right"]))]  # its id stands in a shard of another process
    with ScriptedServer(honest) as server:
        run(tmp_path / "one", rows, judge_at(server))
        for number in (2, 3, 1):
            summary = run(tmp_path / "three", rows, judge_at(server), shards=Shards(number, 3))
            assert summary.complete == (number == 1)
    assert digest(tmp_path / "one") == digest(tmp_path / "three")
    assert (tmp_path / "one" / "index.json").read_text() == (tmp_path / "three" / "index.json").read_text()
    for word in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(RunError, match="--shard"):
            Shards.parse(word)


def test_several_judges_and_votes_agree_or_leave_open(tmp_path: Path) -> None:
    rows = [(place, {**row, "labels": [1] * len(KINDS[number % 4])}) for number, (place, row) in enumerate(rows_of(12))]

    def unsure(seen: Seen, number: int) -> Act:
        return honest(seen, number) if seen.body["seed"] != 1 else Act("hm")  # one of three votes fails

    with ScriptedServer(unsure) as server:
        judges = (JudgeSpec("oracle"), judge_at(server, votes=3, re_asks=0))
        summary = run(tmp_path, rows, *judges)
    records = list(Folder(tmp_path).labelled())
    assert summary.totals["failed"] == 0 and len(server.seen) == 36
    # The oracle says right throughout; where the other differs the label is open, the last follows the answer.
    assert [record["labels"] for record in records[:4]] == [[1, 1], [1, None, 0], [None, 1, 1], [None, 0]]
    assert [vote["judge"] for vote in records[0]["votes"]] == ["0.oracle", "1.endpoint", "1.endpoint"]
    assert records[0]["source"]["judge"] == ["oracle", "judge"]
    agreement = summary.totals["agreement"]
    assert agreement["1.endpoint#0 1.endpoint#2"]["kappa"] == 1
    assert agreement["0.oracle#0 1.endpoint#0"]["n"] == 30 and agreement["0.oracle#0 1.endpoint#0"]["kappa"] == 0


def test_other_settings_and_other_rows_are_refused(tmp_path: Path) -> None:
    rows = rows_of(15)
    with ScriptedServer(honest) as server:
        run(tmp_path, rows, judge_at(server))
        with pytest.raises(RunError, match=r"made otherwise.*rule"):
            run(tmp_path, rows, judge_at(server), rule="majority")
        with pytest.raises(RunError, match="votes"):
            run(tmp_path, rows, judge_at(server, votes=2))
        changed = [*rows[:4], ("r", {**rows[4][1], "text": "Line 4.0 is error.\n\n"}), *rows[5:]]
        with pytest.raises(RunError, match="rows 1 to 10 are not those"):
            run(tmp_path, changed, judge_at(server))
        before = len(server.seen)
        assert run(tmp_path, rows_of(22), judge_at(server)).totals["solutions"] == 22
        assert len(server.seen) == before + 7  # an input that grew: only what is new is asked about
        with pytest.raises(RunError, match="is not the one that was labelled"):
            run(tmp_path, [*rows_of(20), *changed[4:5], *rows_of(24)[21:]], judge_at(server))


def test_final_answers_are_checked_where_nobody_has(tmp_path: Path) -> None:
    text = "Two and five.\n\nThe answer is \\boxed{%s}."
    rows = [(f"r:{n}", {"id": str(n), "problem": "p", "answer": "7", "text": text % n}) for n in (7, 8)]

    def script(seen: Seen, number: int) -> Act:
        words = ("right", "right") if "is right: the last" in seen.prompt else ("right", "error")
        entries = [{"step": place + 1, "reason": "", "kind": kind} for place, kind in enumerate(words)]
        return Act(json.dumps({"steps": entries}))

    with ScriptedServer(script) as server:
        run(tmp_path, rows, judge_at(server), policy="default")
    assert [(record["correct"], record["labels"]) for record in Folder(tmp_path).labelled()] == [
        (True, [1, 1]),
        (False, [1, 0]),
    ]


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from test_annotation import from_file
from_file(*sys.argv[1:])
"""


def from_file(path: str, source: str, url: str, concurrency: str, more: str = "{}") -> None:
    """What the killed processes run."""
    endpoint = {"base_url": url, "model": "judge", "max_concurrency": int(concurrency), **json.loads(more)}
    annotate(
        Path(path),
        lambda: read_paths(source, None, None, None),
        lambda: Reading(lambda text: segment(text, Rules(0, 100)), policy=None),
        [JudgeSpec("endpoint", {"endpoint": endpoint})],
        shard_size=50,
        date="2026-01-02",
    )


def faulty(seconds: float, outage: tuple[float, float] | None = None) -> Callable[[Seen, int], Act]:
    """A judge with 5 % errors and 2 % malformed replies, and perhaps an outage (begin, end) in seconds from now."""
    draw, began = random.Random(0), time.monotonic()

    def script(seen: Seen, number: int) -> Act:
        if outage is not None and outage[0] < time.monotonic() - began < outage[1]:
            return Act(status=503)
        chance = draw.random()
        if chance < 0.05:
            return Act(status=random.choice([429, 500, 503]), seconds=seconds)
        return Act("{not json", seconds=seconds) if chance < 0.07 else Act(honest(seen, number).text, seconds=seconds)

    return script


def asked_about(server: ScriptedServer) -> Iterator[str]:
    """The solution of each question that was answered well; the judge's own log."""
    for seen in server.seen:
        yield seen.body["messages"][0]["content"].partition("Line ")[2].partition(".")[0]


@pytest.mark.parametrize(("count", "kills"), [(160, 1), pytest.param(1500, 10, marks=pytest.mark.slow)])
def test_kills_lose_nothing_and_cost_what_was_under_way(count: int, kills: int, tmp_path: Path) -> None:
    source, concurrency = tmp_path / "in.jsonl", 16
    source.write_text("".join(json.dumps(row) + "\n" for _, row in rows_of(count)))
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    draw, made = random.Random(), 0

    def start(server: ScriptedServer, folder: str) -> subprocess.Popen[bytes]:
        words = [str(tmp_path / folder), str(source), server.url, str(concurrency)]
        return subprocess.Popen([sys.executable, "-c", program, *words])

    with ScriptedServer(lambda seen, number: Act(honest(seen, number).text, seconds=0.05)) as server:
        while made < kills:
            process = start(server, "killed")
            there = len(server.seen)
            while len(server.seen) == there and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, count * 0.05 / concurrency / (kills + 2)))
            assert process.poll() is None, "it ended before enough kills"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            made += 1
        assert start(server, "killed").wait(200) == 0
        times = Counter(asked_about(server))
    assert len(times) == count
    assert sum(times.values()) - count <= kills * concurrency
    with ScriptedServer(faulty(0.01)) as server:
        assert start(server, "whole").wait(200) == 0
    records = list(Folder(tmp_path / "killed").labelled())
    assert [record["id"] for record in records] == [f"s{number}" for number in range(count)]
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


@pytest.mark.slow
def test_an_outage_of_half_a_minute_costs_no_record(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for _, row in rows_of(1200)))
    with ScriptedServer(faulty(0.05, (2, 32))) as server:
        from_file(str(tmp_path / "out"), str(source), server.url, "16")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["solutions"] == 1200 and index["failed"] == 0
