"""A play shown as a play: scenes with the problem that each serves and its verdict, speakers in their colours."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.plays import SHORT_FORM, Play, PlayForm, Scene, form_in, read_play

if TYPE_CHECKING:
    from rich.panel import Panel
    from rich.text import Text

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""Of speakers in a terminal, in the order of their first words; pages have their own (`speaker0`, …)."""
OUTSIDE = "outside the play and its answers"
"""What stands above text that belongs to neither."""
_MARKS = {"correct": "green", "wrong": "red", "no_answer": "yellow"}
# All control characters but tab and line feed; halves of surrogate pairs, which no terminal takes.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def verdicts_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict on each problem of a sample: `problem` (from 1), `verdict`, `extracted`, `gold`; one where the prompt
    asks one, none where nothing was judged.

    Raises:
        DataError: `item_verdicts` is no list of verdicts.
    """
    items = row.get("items") if _judged(row.get("items")) else _item_verdicts(row.get("item_verdicts"))
    golds = _golds(row, len(items) if items else 1)
    if not items:
        verdict = row.get("verdict")
        if verdict is None:
            return []
        items = [{"verdict": verdict, "extracted": row.get("extracted")}]
    return [
        {
            "problem": number,
            "verdict": item["verdict"],
            "extracted": item.get("extracted"),
            "gold": gold,
            "id": item.get("id"),
        }
        for number, (item, gold) in enumerate(zip(items, golds, strict=True), start=1)
    ]


def _item_verdicts(cell: Any) -> list[dict[str, Any]] | None:
    try:
        items = json.loads(cell) if isinstance(cell, str) else cell
    except ValueError:
        items = cell
    if items and not _judged(items):
        raise DataError(f'item_verdicts is {cell!r}, where a list such as [{{"verdict": "correct"}}] was expected')
    return items


def _judged(cell: Any) -> bool:
    return isinstance(cell, list) and bool(cell) and all(isinstance(item, dict) and "verdict" in item for item in cell)


def _golds(row: Mapping[str, Any], count: int) -> list[str | None]:
    answer = row.get("answer")
    if isinstance(answer, str) and answer.startswith("["):
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if isinstance(found, list) and len(found) == count:
            return [str(gold) for gold in found]
    return [answer if count == 1 and isinstance(answer, str) else None] * count


def play_view(row: Mapping[str, Any], form: PlayForm | None = None) -> dict[str, Any] | None:
    """What is shown of a sample's play as plain data; None where its text is none.

    Args:
        row: a completion or a sample with `text`.
        form: how the play is marked; None tries the known forms.

    Returns:
        `scenes` (title, problem, verdict or None, lines of speaker, text and voice), `voices` (name, turns), `answer`,
        `verdicts` (`verdicts_of`) and `before`, `between`, `after`: what stands outside the two parts.
    """
    text = str(row.get("text") or "")
    form = form or _form_of_text(text)
    if form is None:
        return None
    play = read_play(text, form)
    verdicts = verdicts_of(row)
    cast = play.voices()
    voices = {name.lower(): place for place, name in enumerate(cast)}
    scenes = [*(() if play.prologue is None else (play.prologue,)), *play.scenes]
    shown = []
    for scene in scenes:
        problem = _problem_of(scene, play, verdicts)
        verdict = verdicts[problem - 1] if problem is not None and 1 <= problem <= len(verdicts) else None
        lines = [
            {"speaker": turn.speaker, "text": turn.text, "voice": voices.get((turn.speaker or "").lower())}
            for turn in scene.turns
        ]
        shown.append({"title": scene.title, "problem": problem, "verdict": verdict, "lines": lines})
    return {
        "scenes": shown,
        "voices": [
            {"name": name, "turns": turns, "voice": voices[name.lower()]} for name, turns in play.voices().items()
        ],
        "answer": play.answer_text.strip(),
        "verdicts": verdicts,
        **_outside(play),
    }


def _form_of_text(text: str) -> PlayForm | None:
    """The known form that a text is written in; `<p>` alone, as HTML has it, makes no play."""
    form = form_in(text)
    return None if form == SHORT_FORM and f"<{form.answer}>" not in text else form


def _outside(play: Play) -> dict[str, str]:
    """What stands before, between and after the two parts, whichever comes first."""
    text = play.text
    first, second = sorted(
        (_with_tags(text, play.body, play.form.play), _with_tags(text, play.answer, play.form.answer))
    )
    return {
        "before": text[: first[0]].strip(),
        "between": text[first[1] : second[0]].strip(),
        "after": text[max(first[1], second[1]) :].strip(),
    }


def _with_tags(text: str, part: tuple[int, int], tag: str) -> tuple[int, int]:
    """A part's place with those of its tags that are there."""
    start, end = part
    opens, closes = f"<{tag}>", f"</{tag}>"
    return (
        start - len(opens) if text.endswith(opens, 0, start) else start,
        end + len(closes) if text.startswith(closes, end) else end,
    )


def _problem_of(scene: Scene, play: Play, verdicts: list[dict[str, Any]]) -> int | None:
    """The problem that a scene serves: the one that its heading names or restates, else by order where there are as
    many scenes as problems.
    """
    if not scene.title:
        return None
    if scene.problem is not None:
        return scene.problem
    for verdict in verdicts:
        if verdict["id"] == scene.title.strip("[]"):
            return int(verdict["problem"])
    return play.scenes.index(scene) + 1 if len(play.scenes) == max(1, len(verdicts)) else None


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """`problem 2: wrong (said 7, right is 8)`."""
    parts = [f"said {verdict['extracted']}"] if verdict["extracted"] is not None else []
    parts += [f"right is {verdict['gold']}"] if verdict["gold"] is not None and verdict["verdict"] != "correct" else []
    told = f" ({', '.join(parts)})" if parts else ""
    return f"problem {verdict['problem']}: {verdict['verdict'].replace('_', ' ')}{told}"


def show_row(row: Mapping[str, Any], form: PlayForm | None = None, *, colour: bool = False, width: int = 100) -> str:
    """A completion for a terminal: prompt, the play or else the bare text, verdicts.

    Args:
        row: with `text`, and what there is of `prompt` (or `problem`), verdicts, `reward`, `length`.
        form: how plays are marked; None tries the known forms.
        colour: write colours.
        width: of a line.
    """
    from rich.console import Console
    from rich.panel import Panel

    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=colour, color_system="standard" if colour else None)
    facts = [
        f"{name} {row[name]}"
        for name in ("id", "reward", "score", "length", "finish_reason")
        if row.get(name) is not None
    ]
    if facts:
        console.print(_text(" · ".join(facts), style="dim"))
    asked = row.get("prompt") or row.get("problem")
    if asked:
        console.print(Panel(_text(str(asked).strip()), title="prompt", title_align="left", style="dim"))
    view = play_view(row, form)
    if view is None:
        console.print(_text(str(row.get("text") or "")))
        for verdict in verdicts_of(row):
            console.print(_text(verdict_text(verdict), style=_MARKS.get(verdict["verdict"], "")))
        return output.getvalue()
    answers = Panel(_text(view["answer"]), title="answers", title_align="left")
    for part in ("before", *map(_panel, view["scenes"]), "between", answers, "after"):
        if not isinstance(part, str):
            console.print(part)
        elif view[part]:
            console.print(Panel(_text(view[part]), title=OUTSIDE, title_align="left", style="dim"))
    for verdict in view["verdicts"]:
        console.print(_text(verdict_text(verdict), style=_MARKS.get(verdict["verdict"], "")))
    cast = ", ".join(f"{voice['name']} ({voice['turns']})" for voice in view["voices"])
    console.print(_text(f"voices: {cast or 'none'}", style="dim"))
    return output.getvalue()


def printable(text: str) -> str:
    r"""A text that does nothing to a terminal: control characters but tab and line feed are written as `\x1b`."""
    return _UNSHOWN.sub(lambda found: f"\\x{ord(found[0]):02x}" if found[0] < "\u0100" else "\ufffd", text)


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(printable(text), style=style)


def _panel(scene: Mapping[str, Any]) -> Panel:
    from rich.panel import Panel

    said = _text("")
    for place, line in enumerate(scene["lines"]):
        if place:
            said.append("\n")
        if line["speaker"] is not None:
            style = "dim bold" if line["voice"] is None else f"bold {COLOURS[line['voice'] % len(COLOURS)]}"
            said.append_text(_text(f"{line['speaker']}: ", style))
        said.append_text(_text(line["text"], "" if line["speaker"] is not None else "italic dim"))
    verdict = scene["verdict"]
    mark = "" if verdict is None else _MARKS.get(verdict["verdict"], "")
    below = "" if verdict is None else verdict_text(verdict)
    title = _text(scene["title"] or "before the first scene", "bold")
    return Panel(
        said,
        title=title,
        title_align="left",
        subtitle=_text(below),
        subtitle_align="right",
        border_style=mark or "none",
    )
