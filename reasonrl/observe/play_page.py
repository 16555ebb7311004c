"""One play as a page of its own: no network, no script, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasonrl.observe.plays import play_view, verdict_text, verdicts_of
from reasonrl.plays import PlayForm


def play_page(row: Mapping[str, Any], form: PlayForm | None = None, title: str = "play") -> str:
    """The HTML of one completion: its prompt, the play (or the bare text), the verdict of every problem.

    Args:
        row: as `observe.plays.play_view` takes it.
        form: how plays are marked; None tries the known forms.
        title: of the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reasonrl.observe", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view = play_view(row, form)
    return environment.get_template("play_page.html.j2").render(
        title=title,
        prompt=str(row.get("prompt") or row.get("problem") or ""),
        play=None if view is None else page_view(view),
        text=str(row.get("text") or ""),
        verdicts=[{"kind": found["verdict"], "text": verdict_text(found)} for found in verdicts_of(row)],
    )


def page_view(view: Mapping[str, Any]) -> dict[str, Any]:
    """A play with its verdicts in words, for the templates."""
    scenes = [
        {
            **scene,
            "kind": "" if scene["verdict"] is None else scene["verdict"]["verdict"],
            "said": "" if scene["verdict"] is None else verdict_text(scene["verdict"]),
        }
        for scene in view["scenes"]
    ]
    verdicts = [{"kind": found["verdict"], "text": verdict_text(found)} for found in view["verdicts"]]
    return {**view, "scenes": scenes, "verdicts": verdicts}
