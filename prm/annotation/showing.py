"""Annotated solutions to be read by people: in the terminal, and as a page."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reasonrl.prm.quality.sources import votes_of
from reasonrl.prm.steps import steps_from_spans, steps_text

WORDS: dict[int | None, str] = {1: "right", 0: "wrong", None: "open"}
COLOURS: dict[int | None, str] = {1: "green", 0: "red", None: "yellow"}


@dataclass(frozen=True)
class ShownStep:
    """A step as it is shown: its text, its label, what is said of it, and who has voted for what."""

    number: int
    text: str
    label: int | None
    word: str
    reason: str
    votes: str


def terminal(record: Mapping[str, Any], style: Callable[[str, str], str]) -> Iterator[str]:
    """An annotated solution in lines; `style(text, colour)` colours a text."""
    yield plain(f"{record['id']}: {_about(record)}")
    yield plain(record["problem"])
    for step in _shown(record):
        yield ""
        yield style(f"step {step.number}: {step.word}", COLOURS[step.label]) + (f"  ({step.votes})" * bool(step.votes))
        yield style(step.text, COLOURS[step.label])
        if step.reason:
            yield f"    {step.reason}"


def page(records: Iterable[Mapping[str, Any]], title: str) -> str:
    """Annotated solutions as one self-contained HTML page; every text is escaped."""
    parts = []
    for record in records:
        parts.append(f"<h2>{html.escape(plain(str(record['id'])))}</h2><p>{html.escape(plain(_about(record)))}</p>")
        parts.append(f"<pre class='problem'>{html.escape(plain(record['problem']))}</pre>")
        for step in _shown(record):
            votes = f"<span>{html.escape(step.votes)}</span>" if step.votes else ""
            reason = f"<i>{html.escape(step.reason)}</i>" if step.reason else ""
            parts.append(
                f"<div class='step {WORDS[step.label]}'><b>{step.number}: {html.escape(step.word)}</b>{votes}"
                f"<pre>{html.escape(step.text)}</pre>{reason}</div>"
            )
    return _PAGE.format(title=html.escape(plain(title)), body="\n".join(parts))


def plain(text: str) -> str:
    """Without control and format characters, which could move the cursor, change colours or turn the text around."""
    return "".join(symbol if symbol in "\n\t" or symbol.isprintable() else "�" for symbol in str(text))


def _about(record: Mapping[str, Any]) -> str:
    verdict = {True: "right", False: "wrong", None: "not checked"}[record.get("correct")]
    answer = record.get("answer")
    reference = "no reference" if answer is None else f"reference {answer}"
    counts = Counter(record.get("labels") or ())
    steps = ", ".join(f"{counts[label]} {word}" for label, word in WORDS.items() if counts[label]) or "no labels"
    judge = (record.get("source") or {}).get("judge")
    who = " and ".join(map(str, judge)) if isinstance(judge, list) else str(judge)
    return f"final answer {verdict} ({reference}); steps: {steps}; judge {who}"


def _shown(record: Mapping[str, Any]) -> Iterator[ShownStep]:
    parts = steps_text(record["text"], steps_from_spans(record["steps"] or [[0, len(record["text"])]]))
    labels = record.get("labels") or [None] * len(parts)
    votes = votes_of(record)
    for place, (part, label) in enumerate(zip(parts, labels, strict=True)):
        said = {name: (record.get(name) or [""] * len(parts))[place] for name in ("reasons", "kinds")}
        soft = (record.get("soft") or [None] * len(parts))[place]
        word = str(said["kinds"] or (WORDS[label] if record.get("labels") else "not labelled"))
        word += "" if soft is None else f", {soft:.2f}"
        # A judge's majority is left out where its votes stand beside it.
        told = "; ".join(f"{name}: {WORDS[own[place]]}" for name, own in votes.items() if f"{name}#0" not in votes)
        reason = plain(said["reasons"] or "")
        yield ShownStep(place + 1, plain(part.strip("\n")), label, plain(word), reason, plain(told))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ font-size: 1.15rem; margin: 2.2rem 0 0; overflow-wrap: anywhere; }}
p {{ margin: 0 0 .4rem; color: #444; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; font-size: 13.5px; }}
.problem {{ background: #f2f2f2; padding: .5rem; }}
.step {{ border-left: .4rem solid #c90; padding: .2rem .8rem; margin: .5rem 0; background: #fff8e0; }}
.right {{ border-color: #2a2; background: #effaef; }}
.wrong {{ border-color: #c33; background: #fdf0f0; }}
.step span {{ float: right; color: #666; font-size: .85rem; }}
i {{ color: #555; }}
</style>
<h1>{title}</h1>
<p>Steps are <b style="color: #181">right</b> (green), <b style="color: #b22">wrong</b> (red) or
<b style="color: #960">open</b> (yellow: judges differ, or nobody has labelled them).</p>
{body}
</html>
"""
