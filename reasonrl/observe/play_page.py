"""One play as a page of its own: no network, no script, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from reasonrl.observe.plays import play_view, verdict_text, verdicts_of
from reasonrl.plays import PlayForm

if TYPE_CHECKING:
    from jinja2 import Environment


def play_page(row: Mapping[str, Any], form: PlayForm | None = None, title: str = "play") -> str:
    """The HTML of one completion: its prompt, the play (or the bare text), the verdict of every problem.

    Args:
        row: as `observe.plays.play_view` takes it.
        form: how plays are marked; None tries the known forms.
        title: of the page.
    """
    view = play_view(row, form)
    template = _environment().get_template("play_page.html.j2")
    return template.render(
        title=title,
        prompt=str(row.get("prompt") or row.get("problem") or ""),
        play=None if view is None else page_view(view),
        text=str(row.get("text") or ""),
        verdicts=[{"kind": found["verdict"], "text": verdict_text(found)} for found in verdicts_of(row)],
    )


def play_html(row: Mapping[str, Any], form: PlayForm | None = None) -> str | None:
    """The markup of a completion's play alone, for a page that has its styles; None where it is no play.

    Args:
        row, form: as `play_page` takes them.
    """
    view = play_view(row, form)
    if view is None:
        return None
    return str(_environment().get_template("_play.html.j2").module.play_of(page_view(view)))  # type: ignore[attr-defined]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("reasonrl.observe", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
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
