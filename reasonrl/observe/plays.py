"""A play shown as a play: scenes with the problem that each serves and its verdict, speakers in their colours."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from reasonrl.errors import DataError
from reasonrl.plays import Play, PlayForm, Scene, form_in, read_play

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
"""Of speakers in a terminal, in the order of their first words; pages have their own (`speaker0`, …)."""
_MARKS = {"correct": "green", "wrong": "red", "no_answer": "yellow"}


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
        `verdicts` (`verdicts_of`) and `before`, `after`: what stands outside.
    """
    text = str(row.get("text") or "")
    form = form or form_in(text)
    if form is None:
        return None
    play = read_play(text, form)
    verdicts = verdicts_of(row)
    voices = {name: place for place, name in enumerate(play.voices())}
    scenes = [*(() if play.prologue is None else (play.prologue,)), *play.scenes]
    shown = []
    for scene in scenes:
        problem = _problem_of(scene, play, verdicts)
        verdict = verdicts[problem - 1] if problem is not None and problem <= len(verdicts) else None
        lines = [
            {"speaker": turn.speaker, "text": turn.text, "voice": voices.get(turn.speaker or "")}
            for turn in scene.turns
        ]
        shown.append({"title": scene.title, "problem": problem, "verdict": verdict, "lines": lines})
    return {
        "scenes": shown,
        "voices": [{"name": name, "turns": turns, "voice": voices[name]} for name, turns in play.voices().items()],
        "answer": play.answer_text.strip(),
        "verdicts": verdicts,
        "before": play.text[: max(0, play.body[0] - len(form.play) - 2)].strip(),
        "after": play.text[play.answer[1] :].partition(f"</{form.answer}>")[2].strip(),
    }


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
    from rich.text import Text

    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=colour, color_system="standard" if colour else None)
    facts = [
        f"{name} {row[name]}"
        for name in ("id", "reward", "score", "length", "finish_reason")
        if row.get(name) is not None
    ]
    if facts:
        console.print(Text(" · ".join(facts), style="dim"))
    asked = row.get("prompt") or row.get("problem")
    if asked:
        console.print(Panel(Text(str(asked).strip()), title="prompt", title_align="left", style="dim"))
    view = play_view(row, form)
    if view is None:
        console.print(Text(str(row.get("text") or "")))
        for verdict in verdicts_of(row):
            console.print(Text(verdict_text(verdict), style=_MARKS.get(verdict["verdict"], "")))
        return output.getvalue()
    if view["before"]:
        console.print(Text(view["before"]))
    for scene in view["scenes"]:
        console.print(_panel(scene))
    console.print(Panel(Text(view["answer"]), title="answers", title_align="left"))
    if view["after"]:
        console.print(Text(view["after"]))
    for verdict in view["verdicts"]:
        console.print(Text(verdict_text(verdict), style=_MARKS.get(verdict["verdict"], "")))
    cast = ", ".join(f"{voice['name']} ({voice['turns']})" for voice in view["voices"])
    console.print(Text(f"voices: {cast or 'none'}", style="dim"))
    return output.getvalue()


def _panel(scene: Mapping[str, Any]) -> Any:
    from rich.panel import Panel
    from rich.text import Text

    said = Text()
    for place, line in enumerate(scene["lines"]):
        if place:
            said.append("\n")
        if line["speaker"] is not None:
            style = "dim bold" if line["voice"] is None else f"bold {COLOURS[line['voice'] % len(COLOURS)]}"
            said.append(f"{line['speaker']}: ", style=style)
        said.append(line["text"], style="" if line["speaker"] is not None else "italic dim")
    verdict = scene["verdict"]
    mark = "" if verdict is None else _MARKS.get(verdict["verdict"], "")
    below = "" if verdict is None else verdict_text(verdict)
    title = Text(scene["title"] or "before the first scene", style="bold")
    return Panel(
        said, title=title, title_align="left", subtitle=Text(below), subtitle_align="right", border_style=mark or "none"
    )
