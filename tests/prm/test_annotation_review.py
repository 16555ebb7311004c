"""What people see of labels: every judge's accuracy in an audit, solutions in the terminal and in a real browser."""

from __future__ import annotations

import contextlib
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "eval"))
from page import CHROMIUM, chromium

from reasonrl.prm.annotation.review import LABELS, audit_lines, read_audit, write_audit
from reasonrl.prm.annotation.showing import page, terminal

EVIL = "<script>document.title = 'evil'</script>\n</pre><img src=x onerror='document.title = 1'>\u202e\x1b[2J \x07"


def record_of(identity: str, labels: list[int | None], **more: Any) -> dict[str, Any]:
    parts = [f"{identity} step {place}\n" for place in range(len(labels))]
    ends = [len("".join(parts[: place + 1])) for place in range(len(parts))]
    steps = [[end - len(part), end] for part, end in zip(parts, ends, strict=True)]
    return {"id": identity, "problem": "p", "text": "".join(parts), "steps": steps, "labels": labels, **more}


def test_an_audit_gives_every_judge_its_accuracy(tmp_path: Path) -> None:
    path, truth = tmp_path / "audit.jsonl", [1, 0, 0, 1]
    votes = [
        {"judge": "0.good", "vote": 0, "labels": truth},
        {"judge": "1.lenient", "vote": 0, "labels": [1, 1, 1, 1]},
        {"judge": "1.lenient", "vote": 1, "labels": [1, 1, 0, 1]},
        {"judge": "1.lenient", "vote": 2, "labels": [1, 1, 0, 1]},
    ]
    records = [record_of(f"s{number}", [1, None, 0, 1], votes=votes) for number in range(10)]
    write_audit(path, records)
    assert [*audit_lines(read_audit(path))] == ["no step is reviewed yet -> put 0 or 1 for each step into `human`"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[:8]:
        row["human"] = truth
    rows[8]["human"][0] = 0
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_audit(path, records)  # a second draw keeps what people said
    audit = read_audit(path)
    assert audit.reviewed == (9, 10)
    accuracy = {name: (pair[0].share.value, pair[0].agreement.n) for name, pair in audit.figures.items()}
    assert accuracy == {
        LABELS: (24 / 25, 25),
        "0.good": (32 / 33, 33),
        "1.lenient#0": (16 / 33, 33),
        "1.lenient#1": (24 / 33, 33),
        "1.lenient#2": (24 / 33, 33),
        "1.lenient": (24 / 33, 33),
    }
    assert audit.figures["1.lenient#0"][1].share.value == 8 / 25  # without last steps
    shown = "\n".join(audit_lines(audit))
    assert "25 labelled steps of 9 of 10 solutions reviewed" in shown and "96.0 [" in shown


def test_nothing_in_a_text_moves_the_terminal() -> None:
    record = record_of(f"s{EVIL}", [1, None, 0], reasons=[EVIL] * 3, answer=EVIL, problem=EVIL)
    shown = [*terminal(record, lambda text, colour: f"<{colour}>{text}")]
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(shown))
    assert [line for line in shown if "<green>step 1: right" in line or "<yellow>step 2: open" in line]
    assert "1 right, 1 wrong, 1 open" in shown[0]
    passed = {**record_of("s", [1, 1]), "labels": None, "source": None}
    assert any("not labelled" in line for line in terminal(passed, lambda text, colour: text))


class Text(HTMLParser):
    """The words of a page and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""
        self.tags: set[str] = set()

    def handle_data(self, data: str) -> None:
        self.words += data

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)


def evil_page() -> str:
    votes = [{"judge": EVIL, "vote": vote, "labels": [1, vote, None]} for vote in range(2)]
    record = record_of(EVIL, [1, 0, None], votes=votes, reasons=["", EVIL, ""], kinds=["right", "error", "right"])
    return page([record], EVIL)


def test_a_page_holds_every_text_as_text() -> None:
    text = Text()
    text.feed(evil_page())
    assert text.tags <= {"html", "meta", "title", "style", "h1", "h2", "p", "b", "pre", "div", "span", "i"}
    assert text.words.count("<script>document.title") == 4 + 3 + 3 * 2  # id, title, texts, a reason, votes


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_steps_are_coloured_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(evil_page(), encoding="utf-8")
    with chromium(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=(tmp_path / "page.html").as_uri())
        with contextlib.suppress(AssertionError):
            tab.run("new Promise((done) => setTimeout(done, 500))")
        found = tab.run("[...document.querySelectorAll('.step')].map((one) => getComputedStyle(one).borderLeftColor)")
        assert found == ["rgb(34, 170, 34)", "rgb(204, 51, 51)", "rgb(204, 153, 0)"]
        assert tab.run("document.querySelectorAll('img, script').length") == 0
        assert tab.run("document.title").startswith("<script>") and tab.errors == []
        asked = [address for address in tab.asked if not address.startswith(("file:", "about:"))]
        assert asked == []
