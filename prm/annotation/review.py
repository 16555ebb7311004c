"""People look at labels: a sample to be reviewed with the share of steps they confirm, and solutions to be read."""

from __future__ import annotations

import hashlib
import heapq
import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import encode_record, read_records
from reasonrl.prm.label_agreement import Agreement, agreement
from reasonrl.prm.steps import steps_from_spans, steps_text

WORDS: dict[int | None, str] = {1: "right", 0: "wrong", None: "open"}
COLOURS: dict[int | None, str] = {1: "green", 0: "red", None: "yellow"}


def draw_sample(records: Iterable[Mapping[str, Any]], n: int, seed: int = 0) -> list[Mapping[str, Any]]:
    """`n` records by a hash of their ids: the same ones whatever the order, and more of them with a larger n."""

    def rank(record: Mapping[str, Any]) -> bytes:
        return hashlib.sha256(f"{seed}/{record['id']}".encode("utf-8", "surrogatepass")).digest()

    return heapq.nsmallest(n, records, key=rank)


def write_audit(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A file for people: a solution a line, its steps with label and reason, and `human`, a list of null to fill in.

    Reviews that stand in the file already are kept: in place where the steps are the same, at the end where the
    solution is not among the records.
    """
    before = {record["id"]: record for record in read_records(path)}
    lines: list[Mapping[str, Any]] = []
    for record in records:
        parts = steps_text(record["text"], steps_from_spans(record["steps"]))
        reasons = record.get("reasons") or [""] * len(parts)
        steps = [
            {"text": part, "label": label, "reason": reason}
            for part, label, reason in zip(parts, record["labels"], reasons, strict=True)
        ]
        old = before.pop(record["id"], {})
        reviewed = old.get("human") if [step["text"] for step in old.get("steps", [])] == parts else None
        shown = {name: record.get(name) for name in ("id", "problem", "answer", "correct")}
        lines.append({**shown, "steps": steps, "human": reviewed or [None] * len(parts)})
    lines += [old for old in before.values() if any(one is not None for one in old.get("human") or ())]
    write_atomically(path, b"".join(map(encode_record, lines)))


def read_audit(path: Path) -> Agreement:
    """How far the labels agree with the people, over the steps that people have labelled.

    Raises:
        DataError: `human` is no list with 0, 1 or null a step.
    """
    ours: list[list[int | None]] = []
    theirs: list[list[int | None]] = []
    for number, record in enumerate(read_records(path), start=1):
        human, labels = record.get("human"), [step["label"] for step in record["steps"]]
        if not isinstance(human, list) or len(human) != len(labels) or any(one not in (0, 1, None) for one in human):
            raise DataError(
                f"{path}, line {number}: human is {json.dumps(human)[:80]} -> give 0, 1 or null for each of the"
                f" {len(labels)} steps"
            )
        ours.append(labels)
        theirs.append(human)
    return agreement(ours, theirs)


def audit_line(found: Agreement) -> str:
    """The figures of an audit in words."""
    if found.observed is None:
        return "no step is reviewed yet -> put 0 or 1 for each step into `human`"
    kappa = "" if found.kappa is None else f", kappa {found.kappa:.3f}"
    interval = "" if found.interval is None else f" [{found.interval[0]:.3f}, {found.interval[1]:.3f}]"
    return (
        f"{found.n:,} steps of {found.solutions:,} solutions reviewed: step accuracy {found.observed:.3f}{kappa}"
        f"{interval}; right called wrong {found.only_second:,}, wrong called right {found.only_first:,}"
    )


def terminal(record: Mapping[str, Any], style: Callable[[str, str], str]) -> Iterator[str]:
    """An annotated solution in lines; `style(text, colour)` colours a text."""
    verdict = {True: "right", False: "wrong", None: "not checked"}[record.get("correct")]
    yield f"{record['id']}: final answer {verdict} (reference {record.get('answer')}); judge {_judge(record)}"
    yield record["problem"]
    for number, (part, label, reason, kind) in enumerate(_rows(record), start=1):
        yield ""
        yield style(f"step {number}: {kind or WORDS[label]}", COLOURS[label])
        yield style(_plain(part.strip("\n")), COLOURS[label])
        if reason:
            yield f"    {_plain(reason)}"


def page(records: Iterable[Mapping[str, Any]], title: str) -> str:
    """Annotated solutions as one self-contained HTML page; every text is escaped."""
    parts = []
    for record in records:
        verdict = {True: "right", False: "wrong", None: "not checked"}[record.get("correct")]
        head = f"{record['id']}: final answer {verdict}, reference {record.get('answer')}, judge {_judge(record)}"
        parts.append(f"<h2>{html.escape(head)}</h2><pre class='problem'>{html.escape(record['problem'])}</pre>")
        for number, (part, label, reason, kind) in enumerate(_rows(record), start=1):
            word = kind or WORDS[label]
            parts.append(
                f"<div class='step {WORDS[label]}'><b>{number}: {html.escape(word)}</b>"
                f"<pre>{html.escape(part)}</pre><i>{html.escape(reason)}</i></div>"
            )
    return _PAGE.format(title=html.escape(title), body="\n".join(parts))


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[str, int | None, str, str]]:
    parts = steps_text(record["text"], steps_from_spans(record["steps"]))
    nothing = [""] * len(parts)
    reasons, kinds = record.get("reasons") or nothing, record.get("kinds") or nothing
    yield from zip(parts, record["labels"], reasons, kinds, strict=True)


def _judge(record: Mapping[str, Any]) -> str:
    judge = record.get("source", {}).get("judge")
    return " and ".join(map(str, judge)) if isinstance(judge, list) else str(judge)


def _plain(text: str) -> str:
    """Without control characters, which could move the cursor or change colours."""
    return "".join(symbol if symbol in "\n\t" or symbol.isprintable() else "�" for symbol in text)


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; }}
.problem {{ background: #f2f2f2; padding: .5rem; }}
.step {{ border-left: .4rem solid #c90; padding: .2rem .8rem; margin: .5rem 0; background: #fff8e0; }}
.right {{ border-color: #2a2; background: #effaef; }}
.wrong {{ border-color: #c33; background: #fdf0f0; }}
i {{ color: #555; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""
