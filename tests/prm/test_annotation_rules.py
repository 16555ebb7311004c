"""Wrong answers alone: what passes through, rules of consensus, the table of what is mined, invalid answers."""

from __future__ import annotations

import json
import sys
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from judge_world import Act, ScriptedServer, Seen, honest, row_of

from reasonrl.errors import DataError
from reasonrl.observe.mined import mined_tables
from reasonrl.observe.records import read_records
from reasonrl.prm.annotation import Folder, JudgeSpec, Measure, Reading, annotate
from reasonrl.prm.annotation.labelling import source_named
from reasonrl.prm.judges import OracleJudge
from reasonrl.prm.labels import consensus
from reasonrl.prm.segment import Rules, segment

KINDS = [["right", "right"], ["right", "error", "propagation"], ["error", "cessation", "error"], ["error", "error"]]


def read_of(**more: Any) -> Any:
    return lambda: Reading(lambda text: segment(text, Rules(0, 100)), policy=None, **more)


def labels_of(path: Path) -> list[dict[str, Any]]:
    return [record for file in sorted((path / "labels").iterdir()) for record in read_records(file)]


def test_rules_of_consensus_against_their_words() -> None:
    for votes in product((1, 0, None), repeat=3):
        sources = [[vote] for vote in votes]
        (of_all,), (of_any,) = consensus(sources, "all"), consensus(sources, "any")
        assert of_all == (votes[0] if len(set(votes)) == 1 else None)
        assert of_any == (1 if 1 in votes else 0 if set(votes) == {0} else None)
        count = Counter(votes)
        assert consensus(sources, "majority") == [next((label for label in (1, 0) if count[label] >= 2), None)]
        assert consensus(sources, "weighted", [1, 1, 1]) == consensus(sources, "majority")
        assert consensus(sources, "weighted", [5, 1, 1]) == [votes[0]]
        half = consensus(sources, "weighted", [2, 1, 1])  # the first alone is no more than half
        assert half == [votes[0] if votes[0] is not None and votes[0] in votes[1:] else None]
    with pytest.raises(DataError, match="weights"):
        consensus([[1]], "all", [1.0])
    with pytest.raises(DataError, match="allowed are all, any, majority, weighted"):
        consensus([[1]], "most")
    names = ["0.endpoint", "1.prm", "2.prm"]
    assert [source_named(names, word) for word in ("endpoint", "1", "2.prm")] == [0, 1, 2]
    with pytest.raises(DataError, match="name one of them"):
        source_named(names, "prm")


def test_only_wrong_answers_are_asked_about_and_the_others_pass_through(tmp_path: Path) -> None:
    rows = [(f"r:{n}", {**row_of(n, KINDS[n % 4]), "seed": n}) for n in range(20)]
    rows[4][1]["correct"] = None
    rows[5][1]["finish_reason"] = rows[0][1]["finish_reason"] = "length"
    rows[9][1].update(labels=[1, 1, 1], steps=None, reasons=["old"] * 3)
    with ScriptedServer(honest) as server:
        endpoint = {"base_url": server.url, "model": "judge", "max_concurrency": 4}
        spec = JudgeSpec("endpoint", {"endpoint": endpoint})
        made = {"only": "wrong", "truncated": "leave"}
        summary = annotate(tmp_path, lambda: rows, read_of(**made), [spec], shard_size=6)
        asked = len(server.seen)
        assert annotate(tmp_path, lambda: rows, read_of(**made), [spec], shard_size=6) == summary
        assert len(server.seen) == asked == 14
    assert summary.totals["passed"] == {"right": 4, "truncated": 1, "unchecked": 1}
    assert (summary.totals["solutions"], summary.totals["failed"]) == (14, 0)
    records = labels_of(tmp_path)
    assert [record["id"] for record in records] == [f"s{n}" for n in range(20)]
    for n, record in enumerate(records):
        assert record["seed"] == n  # what is not ours stays
        passed = n in (0, 4, 5, 8, 12, 16)
        assert (record["steps"] is None) == (record["labels"] is None) == (record["source"] is None) == passed
    assert records[9]["labels"] == [1, 0, 0] and records[9]["reasons"][1] == "because error"
    assert len(list(Folder(tmp_path).labelled())) == 14


def test_what_a_judge_gives_no_labels_to_may_stand_without_and_be_asked_about_again(tmp_path: Path) -> None:
    rows = [(f"r:{n}", row_of(n, KINDS[1])) for n in range(6)]
    ill = True

    def script(seen: Seen, number: int) -> Act:
        return Act("no") if ill and "Line 3.0" in seen.prompt else honest(seen, number)

    with ScriptedServer(script) as server:
        endpoint = {"base_url": server.url, "model": "judge", "max_concurrency": 4}
        spec = JudgeSpec("endpoint", {"endpoint": endpoint, "re_asks": 0})

        def again(**more: Any) -> dict[str, Any]:
            made = annotate(tmp_path, lambda: rows, read_of(), [spec], invalid="leave", shard_size=3, **more)
            return dict(made.totals)

        totals = again()
        assert (totals["solutions"], totals["failed"], totals["passed"]) == (5, 1, {"invalid": 1})
        left = labels_of(tmp_path)[3]
        assert left["labels"] == [None] * 3 and len(left["steps"]) == 3 and left["source"] is None
        assert [line["retry"] for line in read_records(tmp_path / "failed.jsonl")] == [True]
        ill = False
        totals = again(retry_failed=True)
        assert (totals["solutions"], totals["failed"], totals["passed"]) == (6, 0, {})
    assert labels_of(tmp_path)[3]["labels"] == [1, 0, 0]


def test_what_is_mined_against_a_plain_count(tmp_path: Path) -> None:
    """Two judges with columns of their own, the truth in a third; steps of unlike sizes."""
    (tmp_path / "judge.py").write_text("def column(row, name):\n    return row[name]\n")
    rows, plain = [], Counter[Any]()
    for n in range(40):
        kinds = KINDS[1 + n % 3] if n % 5 else KINDS[0]
        row = row_of(n, kinds)
        size = len(kinds)
        row["a"] = [(n + k) % 2 for k in range(size)]
        row["b"] = [int((n * 7 + k * 3) % 4 < 2) for k in range(size)]
        row["truth"] = [int(kind in ("right", "cessation")) for kind in kinds]
        if n == 7:
            row["truth"] = None
        rows.append((f"r:{n}", row))
        parts = [f"{part}\n\n" for part in row["text"].split("\n\n") if part]
        for k, part in enumerate(parts if not row["correct"] else []):
            both = row["a"][k] if row["a"][k] == row["b"][k] else None
            both = 0 if k == size - 1 else both
            plain["agree", row["a"][k], row["b"][k]] += len(part)
            for name, label in (("0.column", row["a"][k]), ("1.column", row["b"][k]), ("consensus", both)):
                plain[name, label] += len(part)
                if row["truth"] is not None:
                    plain[name, "truth", label or 0, row["truth"][k]] += len(part)
    judges = [JudgeSpec("judge.py:column", {"name": name}) for name in "ab"]
    measure = Measure(None, OracleJudge("truth").truth)
    for size in (7, 100):  # counts of shards add up
        path = tmp_path / str(size)
        annotate(path, lambda: rows, read_of(), judges, measure=measure, shard_size=size, base_dir=tmp_path)
    mined = json.loads((tmp_path / "7" / "mined.json").read_text())
    assert mined == json.loads((tmp_path / "100" / "mined.json").read_text())
    assert (mined["answers"], mined["with_truth"], mined["unit"]) == (32, 31, "characters")
    for name, row in mined["sources"].items():
        assert [row["right"], row["wrong"], row["open"]] == [plain[name, 1], plain[name, 0], plain[name, None]]
        tp, fp, fn, tn = (plain[name, "truth", a, b] for a, b in ((1, 1), (1, 0), (0, 1), (0, 0)))
        assert row["precision"] == pytest.approx(tp / (tp + fp)) and row["recall"] == pytest.approx(tp / (tp + fn))
        n = tp + fp + fn + tn
        chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
        assert row["kappa"] == pytest.approx(((tp + tn) / n - chance) / (1 - chance))
    pair = mined["pairs"]["0.column 1.column"]
    assert pair["n"] == sum(plain["agree", a, b] for a in (0, 1) for b in (0, 1))
    assert pair["observed"] == pytest.approx((plain["agree", 1, 1] + plain["agree", 0, 0]) / pair["n"])
    first, second = mined_tables(mined)
    assert first["body"][0][1] == f"{plain['0.column', 1]:,}" and second["body"][0][0] == "0.column and 1.column"
    assert mined_tables({**mined, "sources": {}}) == []
