"""The report's page in a real browser, without a network: filters count what the files hold, no text is ever markup."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from page import CHROMIUM, Page, chromium
from recorded import EVIL, lines_of, lively_suite

from reasonrl.eval.report import write_eval_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluation")
    lively_suite(directory / "sums", count=40)
    lively_suite(directory / "shapes", count=12, n=4, seed=3)
    write_eval_report(directory)
    return directory


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, folder: Path) -> Iterator[Page]:
    browser.open(folder / "report.html")
    yield browser
    browser.run("1")  # what is on its way arrives
    assert browser.errors == []
    assert [address for address in browser.asked if not address.startswith(("file:", "data:"))] == []
    assert browser.run("document.title") == folder.name


def samples(folder: Path, test: Callable[[dict[str, Any]], bool] = lambda row: True) -> int:
    return sum(test(row) for path in folder.glob("*/samples.jsonl") for row in lines_of(path))


def wrong_and_cut(row: dict[str, Any]) -> bool:
    return row["correct"] is False and row["finish_reason"] != "stop"


def test_the_filter_wrong_and_truncated_counts_what_the_files_hold(page: Page, folder: Path) -> None:
    assert page.count == samples(folder) == 40 * 8 + 12 * 4
    page.choose("outcome", "wrong")
    assert page.count == samples(folder, lambda row: row["correct"] is False)
    page.click("flag-0")
    assert page.count == samples(folder, wrong_and_cut) > 20
    rows = page.run("[...document.querySelectorAll('#rows tr')].map((row) => row.children[3].textContent)")
    assert rows == ["length"] * min(50, page.count)
    page.choose("suite", "shapes")
    assert page.count == sum(map(wrong_and_cut, lines_of(folder / "shapes" / "samples.jsonl")))
    page.click("clear")
    assert page.count == samples(folder)


@pytest.mark.parametrize("verdict", ["correct", "wrong", "no_answer", "bad_gold"])
def test_every_verdict_by_level(page: Page, folder: Path, verdict: str) -> None:
    levels = {problem["id"]: problem["level"] for problem in lines_of(folder / "sums" / "problems.jsonl")}
    page.choose("suite", "sums")
    page.choose("verdict", verdict)
    for level in ("Level 2", "Level 4"):
        page.choose("group-level", level)
        rows = lines_of(folder / "sums" / "samples.jsonl")
        assert page.count == sum(row["verdict"] == verdict and levels[row["id"]] == level for row in rows)


def test_tokens_text_and_problem(page: Page, folder: Path) -> None:
    page.set("least", "20")
    page.set("most", "30")
    assert page.count == samples(folder, lambda row: 20 <= row["length"] <= 30) > 0
    page.click("clear")
    page.set("text", "i DO not know")
    assert page.count == samples(folder, lambda row: "I do not know" in row["text"]) > 0
    page.click("clear")
    page.set("problem", "p7")
    assert page.count == samples(folder, lambda row: row["id"] == "p7") == 8 + 4


def test_what_a_response_says_is_text(page: Page, folder: Path) -> None:
    page.choose("suite", "sums")
    page.set("problem", "p0")
    row = next(row for row in lines_of(folder / "sums" / "samples.jsonl") if (row["id"], row["index"]) == ("p0", 0))
    assert EVIL in row["text"]
    assert page.run("document.getElementById('response').textContent") == row["text"]
    assert page.run("document.querySelectorAll('#browser script, #browser img, #detail iframe').length") == 0
    source = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>document.title" not in source and "onerror" not in source


def test_an_address_holds_the_filters(page: Page, folder: Path) -> None:
    page.choose("outcome", "wrong")
    page.click("flag-0")
    fragment = page.run("location.hash")
    page.open(folder / "report.html", fragment)
    assert page.count == samples(folder, wrong_and_cut)


def test_pages_keys_and_problems(page: Page, folder: Path) -> None:
    sums = {(row["id"], row["index"]): row for row in lines_of(folder / "sums" / "samples.jsonl")}
    seen = []
    while True:
        seen += page.run("[...document.querySelectorAll('#rows tr')].map((row) => row.dataset.at)")
        if page.run("document.getElementById('next').disabled"):
            break
        page.click("next")
    assert [int(place) for place in seen] == list(range(samples(folder)))
    page.choose("suite", "sums")
    first = page.run("document.getElementById('response').textContent")
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))")
    deadline = time.monotonic() + 20
    while (
        second := page.run("document.getElementById('response').textContent")
    ) == first and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (first, second) == (sums["p0", 0]["text"], sums["p0", 1]["text"])
    page.click("tab-problems")
    cells = "[0, 1].map((place) => row.children[place].textContent)"
    shown = dict(page.run(f"[...document.querySelectorAll('#problem-rows tr')].map((row) => {cells})"))
    assert len(shown) == 40
    for place in range(40):
        one = [row["correct"] for (key, _), row in sums.items() if key == f"p{place}" and row["correct"] is not None]
        assert shown[f"sums p{place}"] == f"{sum(one)}/{len(one)}"
    page.choose("outcome", "wrong")  # the list follows the filters, the solve rates do not
    every = "[...row.children].map((one) => one.textContent)"
    hard = page.run(f"[...document.querySelectorAll('#problem-rows tr')].map((row) => {every})")
    for name, rate, _, passing, *_ in hard:
        key = name.removeprefix("sums ")
        assert rate == shown[name]
        assert int(passing) == sum(row["correct"] is False for (one, _), row in sums.items() if one == key) > 0
    page.click("clear")
    page.choose("suite", "sums")
    page.run("document.querySelector('#problem-rows tr').click()")
    page.settle()
    assert page.count == 8 and not page.run("document.getElementById('view-samples').hidden")


def test_scripts_that_are_not_the_pages_own_do_not_run(page: Page) -> None:
    made = "Object.assign(document.createElement('script'), {textContent: 'window.owned = 1'})"
    page.run(f"document.body.append({made})")
    assert page.run("window.owned") is None
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


def test_texts_beyond_the_page_are_left_out_and_their_rows_stay(page: Page, folder: Path, tmp_path: Path) -> None:
    path = write_eval_report(folder, out=tmp_path, most_bytes=2_000)[2]
    page.open(path)
    assert page.count == samples(folder)
    page.choose("outcome", "wrong")
    assert page.count == samples(folder, lambda row: row["correct"] is False)
    page.choose("suite", "sums")
    assert "samples.jsonl" in page.run("document.getElementById('response').textContent")
    assert "are left out" in page.run("document.getElementById('browser').textContent")


@pytest.mark.slow
def test_ten_thousand_samples_stay_usable(browser: Page, tmp_path: Path) -> None:
    lively_suite(tmp_path / "large", count=625, n=16, words=1_200)
    characters = sum(len(row["text"]) for row in lines_of(tmp_path / "large" / "samples.jsonl"))
    assert characters > 40_000_000
    path = write_eval_report(tmp_path)[2]
    times = {}
    for name, act in {
        "open": lambda: browser.open(path),
        "filter": lambda: (browser.choose("outcome", "wrong"), browser.click("flag-0")),
        "search": lambda: browser.set("text", "i do not know"),
    }.items():
        start = time.monotonic()
        act()
        times[name] = round(time.monotonic() - start, 2)
    print(f"{characters / 1e6:.0f} M characters, page {path.stat().st_size / 1e6:.0f} MB, seconds: {times}")
    expected = samples(tmp_path, lambda row: wrong_and_cut(row) and "I do not know" in row["text"])
    assert browser.count == expected > 100
    assert browser.errors == []
    assert times["open"] < 30 and times["filter"] < 5 and times["search"] < 60
