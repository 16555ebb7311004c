"""Plays shown in a terminal and on a page: scenes, verdicts of each problem, nothing but text in the page."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import DataError
from reasonrl.observe.completions import write_parquet
from reasonrl.observe.play_page import play_page
from reasonrl.observe.plays import play_view, printable, show_row

TEXT = """<think>
<play>
[Scene 1: a desk, problem 1]
Environment: a sum.
Ada: It is 42.
Bo: <script>alert(1)</script>
[Scene 2: a street]
Ada: It is 5.
</play>
</think>
<answer>
1. \\boxed{42}
2. \\boxed{5}
</answer>"""
VERDICTS = [
    {"id": "a", "verdict": "correct", "extracted": "42", "scored": True},
    {"id": "b", "verdict": "wrong", "extracted": "5", "scored": True},
]


def row(**more: Any) -> dict[str, Any]:
    made = {
        "id": "x",
        "prompt": "two problems",
        "text": TEXT,
        "answer": '["42", "6"]',
        "item_verdicts": json.dumps(VERDICTS),
    }
    return made | more


def test_each_scene_has_the_verdict_of_its_problem() -> None:
    view = play_view(row())
    assert view is not None
    assert [(scene["problem"], scene["verdict"]["verdict"]) for scene in view["scenes"]] == [
        (1, "correct"),
        (2, "wrong"),
    ]
    assert view["voices"] == [{"name": "Ada", "turns": 2, "voice": 0}, {"name": "Bo", "turns": 1, "voice": 1}]
    assert view["before"] == view["after"] == "" and view["answer"].endswith("2. \\boxed{5}")
    stored = play_view(row(item_verdicts=None, items=VERDICTS))  # as a suite's samples have them
    assert stored is not None and stored["verdicts"] == view["verdicts"]
    assert play_view(row(text="no play")) is None


def test_the_terminal_shows_scenes_and_verdicts() -> None:
    shown = show_row(row())
    assert "problem 1: correct (said 42)" in shown and "problem 2: wrong (said 5, right is 6)" in shown
    assert shown.index("Scene 1") < shown.index("Ada: It is 42.") < shown.index("Scene 2") and "\x1b[" not in shown
    assert "\x1b[" in show_row(row(), colour=True)
    plain = show_row(row(text="just this", item_verdicts=None, verdict="wrong", extracted="7", answer="8"))
    assert "just this" in plain and "problem 1: wrong (said 7, right is 8)" in plain


def test_the_page_escapes_everything() -> None:
    page = play_page(row())
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'class="scene correct"' in page and 'class="scene wrong"' in page and "http" not in page


@pytest.mark.parametrize("verdicts", [VERDICTS, VERDICTS[:1]])
def test_a_problem_that_is_not_asked_has_no_verdict(verdicts: list[dict[str, Any]]) -> None:
    text = TEXT.replace("problem 1]", "problem 0]").replace("Scene 2: a street", "Scene 2: problem 3")
    view = play_view(row(text=text, item_verdicts=json.dumps(verdicts)))
    assert view is not None and [scene["verdict"] for scene in view["scenes"]] == [None, None]


OUTSIDE = (
    ("ahead <play>\n[Scene 1]\nAda: in\n</play> SECRET <answer>1</answer> behind", ("ahead", "SECRET", "behind")),
    (
        "<play>\nAda: in\n</play>\n<play>\nBo: SECRET\n</play><answer>1</answer>",
        ("", "<play>\nBo: SECRET\n</play>", ""),
    ),
    (
        "<play>\nAda: in\n</play>one<answer>old</answer>two<answer>1</answer>",
        ("", "one<answer>old</answer>two", ""),
    ),
    ("<answer>1</answer>SECRET<play>\nAda: in\n</play>last", ("", "SECRET", "last")),
    ("<play>\nAda: in, and no end", ("", "", "")),
    ("first<play>\nAda: in\n</play>\n1 is all", ("first", "", "")),
    ("<think>why<play>\nAda: in\n</play></think>", ("why", "", "")),
)


@pytest.mark.parametrize(("text", "expected"), OUTSIDE)
def test_all_text_is_shown_somewhere(text: str, expected: tuple[str, str, str]) -> None:
    view = play_view({"text": text})
    assert view is not None
    assert (view["before"], view["between"], view["after"]) == expected
    for said in (show_row({"text": text}), play_page({"text": text})):
        for word in set(re.findall(r"[a-zA-Z]+", re.sub("<[^>]*>", " ", text))):
            assert word in said
        assert said.count("outside the play and its answers") == sum(map(bool, expected))


def test_html_is_no_play() -> None:
    html = {"text": "<p>One paragraph.</p> And <b>more</b>."}
    assert play_view(html) is None and show_row(html).strip() == html["text"]
    assert play_view({"text": "<p>\nA:1\n</p><a>1</a>"}) is not None


@pytest.mark.parametrize("text", ["{}", "<play>\n[Scene 1{}]\nAda{}: hm{}\n{}</play>{}<answer>{}1</answer>"])
@pytest.mark.parametrize("colour", [False, True])
def test_control_characters_do_not_reach_the_terminal(text: str, colour: bool) -> None:
    bad = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160)])) + "\ud83d"
    spoiled = text.replace("{}", bad)
    hostile = row(text=spoiled, prompt=f"two{bad}", id=bad, item_verdicts=None, verdict=f"wrong{bad}", extracted=bad)

    def controls(shown: str) -> set[str]:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown) if colour else shown  # colours, which are ours
        return {symbol for symbol in plain if unicodedata.category(symbol) in ("Cc", "Cs")}

    shown = show_row(hostile, colour=colour, width=2000)
    assert controls(shown) == {"\n"}
    assert "\\x1b\\x1c" in shown and "\\x9b" in shown and shown.encode()
    assert "tab\n" in printable("tab\n\t") and printable("\x1b[31mé\t") == "\\x1b[31mé\t"


def test_hostile_text_can_be_written_as_a_page(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps(row(text=TEXT + "half \ud83d")) + "\n")
    made = CliRunner().invoke(main, ["show", str(samples), "--html", str(tmp_path / "play.html")])
    assert made.exit_code == 0 and "half ?" in (tmp_path / "play.html").read_text()


def test_show_reads_completions_and_suites(tmp_path: Path) -> None:
    file = tmp_path / "completions" / "step_000001.parquet"
    write_parquet(file, [row(), row(text="another")])
    run = CliRunner().invoke
    found = run(main, ["show", str(file), "--row", "0"])
    assert found.exit_code == 0 and "Scene 1" in found.output
    assert "another" in run(main, ["show", str(file), "--row", "-1"]).output
    page = run(main, ["show", str(file), "--html", str(tmp_path / "play.html")])
    assert page.exit_code == 0 and "Ada:" in (tmp_path / "play.html").read_text()
    samples = tmp_path / "samples.jsonl"
    samples.write_text(json.dumps(row()) + "\n")
    assert "Scene 1" in run(main, ["show", str(samples)]).output
    for arguments, said in (
        (["--row", "2"], "no row 2"),
        (["--scene", "("], "no regular expression"),
    ):
        failed = run(main, ["show", str(file), *arguments])
        assert failed.exit_code != 0 and said in failed.output
    assert "no file" in run(main, ["show", str(tmp_path / "none.parquet")]).output


@pytest.mark.parametrize(
    "marks", [[], ["--play", "p", "--answer", "a", "--scene", r"\[[^\n]*\]", "--speaker", "(?P<name>[AB]):"]]
)
def test_other_marks(tmp_path: Path, marks: list[str]) -> None:
    text = "<p>\n[L3+4*2-5]\nA:3+4=7\nB:749\n</p>\n<a>\n1=9\n</a>"
    items = [{"id": "L3+4*2-5", "verdict": "correct", "extracted": "9", "scored": True}]
    write_parquet(tmp_path / "a.parquet", [row(text=text, item_verdicts=json.dumps(items), answer='["9"]')])
    shown = CliRunner().invoke(main, ["show", str(tmp_path / "a.parquet"), *marks]).output
    assert "[L3+4*2-5]" in shown and "problem 1: correct (said 9)" in shown and "voices: A (1), B (1)" in shown


@pytest.mark.parametrize(
    "cell", ["correct", '["correct"]', '{"verdict": "correct"}', ["correct"], [{"extracted": "1"}]]
)
def test_verdicts_of_another_form_are_refused(cell: Any) -> None:
    with pytest.raises(DataError, match=r"item_verdicts is .*expected"):
        show_row({"text": "<play>\n</play>", "item_verdicts": cell})
