"""The report of prompts that ask several problems: re-grades, evaluations side by side, plays shown as plays."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from page import CHROMIUM, Page, chromium
from recorded import EVIL, sample, write_suite

from reasonrl.cli import main
from reasonrl.data_tools.compound import compound_rows
from reasonrl.errors import RunError
from reasonrl.eval.regrade import Grading, regrade_suite
from reasonrl.eval.report import write_eval_report
from reasonrl.eval.report_browser import embed, unpack
from reasonrl.eval.report_data import read_suite
from reasonrl.eval.results import summarise, write_result
from reasonrl.eval.samples import CURRENT, read_samples, write_verdicts
from reasonrl.eval.traces import MEANINGS

TABLE = [{"id": f"p{place}", "problem": f"{place} + {place}?", "answer": str(2 * place)} for place in range(6)]
BLOCKS, K = 3, 2
PLAY = """<play>
[Scene 1: a desk]
Ada: It is 1. {evil}
[Scene 2: a street]
Bo: It is so.
</play>
{answers}"""


def answers(golds: list[str], right: int) -> str:
    """The first `right` problems answered rightly."""
    said = [gold if place < right else "999" for place, gold in enumerate(golds)]
    return "<answer>\n" + "\n".join(f"{n}. \\boxed{{{one}}}" for n, one in enumerate(said, 1)) + "\n</answer>"


def evaluation(folder: Path, *, play: bool, right: int = 1) -> Path:
    """`sums-cb2` with `right` of two problems right in each sample (own verdicts say none is), and `sums` alone."""
    problems, samples = [], []
    for row in compound_rows(TABLE, K):
        columns = {"items": row["items"]}
        problems.append(
            {"id": row["id"], "prompt": row["problem"], "prompt_hash": "0", "answer": row["answer"], "images": 0}
            | {"group": row["group"], "columns": columns}
        )
        said = answers(json.loads(row["answer"]), right)
        text = PLAY.format(answers=said, evil=EVIL) if play else f"Problem 1: so.\nProblem 2: so.\n{said}"
        items = [{"id": item["id"], "verdict": "wrong", "extracted": "999"} for item in json.loads(row["items"])]
        samples.append(sample(row["id"], 0, text, "wrong", items=items))
    write_suite(folder / "sums-cb2", problems, samples, {"reward": "compound"})
    alone = [{**problem, "problem": problem["problem"], "columns": {}} for problem in map(single, TABLE)]
    rows = [
        sample(row["id"], 0, f"\\boxed{{{row['answer'] if place < 4 else 999}}}", "wrong")
        for place, row in enumerate(TABLE)
    ]
    write_suite(folder / "sums", alone, rows)
    for name in ("sums-cb2", "sums"):
        metrics = ["acc_item", "answered"] if name == "sums-cb2" else []
        decoding = {"n": 1, "temperature": 0.6, "top_p": 0.95, "max_tokens": 64}
        found = read_samples(folder / name)
        write_result(folder, summarise(name, found, k=[1], decoding=decoding, prompt_hash="x", seed=0, metrics=metrics))
    return folder


def single(row: dict[str, str]) -> dict[str, Any]:
    return {**row, "prompt": row["problem"], "prompt_hash": "0", "images": 0}


def test_a_regrade_has_its_own_compound_figures(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "exam", play=False)
    for name, grading in (("sums-cb2", Grading(reward="compound", workers=0)), ("sums", Grading(workers=0))):
        regrade_suite(folder / name, grading, "ours")
    write_eval_report(folder, verdicts="ours")
    figures = json.loads((folder / "report.ours.json").read_text())["suites"]["sums-cb2"]["figures"]
    # Each problem stands once at each place, and the first of two is right; alone four of six are.
    assert figures["compound"]["acc_item"]["value"] == 1 / 2 and figures["compound"]["acc_all"]["value"] == 0
    assert [place["value"] for place in figures["compound"]["by_position"]] == [1, 0]
    assert figures["metrics"]["acc_item"]["value"] == 1 / 2
    assert figures["metrics"]["retention"]["value"] == pytest.approx((1 / 2) / (4 / 6))
    for ending in ("md", "html"):
        page = (folder / f"report.ours.{ending}").read_text()
        assert "Several problems in a prompt" in page and "Coherency and diversity" in page
        assert "retention is over" not in page  # all problems
    own = write_eval_report(folder)[1].read_text()
    assert json.loads(own)["suites"]["sums-cb2"]["figures"]["compound"]["acc_item"]["value"] == 0


def test_a_regrade_says_over_which_problems_it_is_set_against_alone(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "exam", play=False)
    problems = (folder / "sums" / "problems.jsonl").read_text().splitlines(keepends=True)
    (folder / "sums" / "problems.jsonl").write_text("".join(problems[:5]))
    for name, grading in (("sums-cb2", Grading(reward="compound", workers=0)), ("sums", Grading(workers=0))):
        regrade_suite(folder / name, grading, "ours")
    page = write_eval_report(folder, verdicts="ours")[0].read_text()
    assert "- sums-cb2: retention is over 5 of 6 problems, independence_gap over 2 of 3 blocks" in page


def test_a_regrade_of_whole_prompts_has_no_figures_of_single_problems(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "exam", play=False)
    regrade_suite(folder / "sums-cb2", Grading(workers=0), "whole")
    assert all("items" not in row for row in read_samples(folder / "sums-cb2", "whole"))
    write_eval_report(folder, suites=["sums-cb2"], verdicts="whole")
    figures = json.loads((folder / "report.whole.json").read_text())["suites"]["sums-cb2"]["figures"]
    assert "compound" not in figures and "acc_item" not in figures["metrics"]
    assert "Coherency and diversity" in (folder / "report.whole.md").read_text()  # of texts, whoever judges


def test_evaluations_side_by_side(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "mono" / "exam", play=False)
    other = evaluation(tmp_path / "dia" / "exam", play=True)
    before = {path.name: path.read_bytes() for path in write_eval_report(one, out=tmp_path / "plain")}
    arguments = ["report", str(one), "--against", f"dialogue={other}", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and done.output.count("wrote ") == 3, done.output
    made = json.loads((tmp_path / "out" / "report.json").read_text())["traces"]
    assert list(made) == ["sums-cb2", "sums"] and list(made["sums-cb2"]) == ["exam", "dialogue"]
    voices = {label: figures["voices"]["value"] for label, figures in made["sums-cb2"].items()}
    assert voices == {"exam": 0, "dialogue": 2} and made["sums-cb2"]["exam"]["voices"]["n"] == BLOCKS
    table = (tmp_path / "out" / "report.md").read_text()
    assert "| figure | exam | dialogue | what it is |" in table
    assert f"| voices | 0 [0, 0] | 2 [2, 2] | {MEANINGS['voices']} |" in table
    assert "| sums-cb2, exam | 2 |" in table and "| sums-cb2, dialogue | 2 |" in table
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<th>exam</th><th>dialogue</th>" in html
    # Alone all is as it was, and equal names are told apart.
    assert {path.name: path.read_bytes() for path in write_eval_report(one, out=tmp_path / "plain")} == before
    assert b"traces" not in before["report.json"]
    CliRunner().invoke(main, ["report", str(one), "--against", str(other), "--out", str(tmp_path / "out")])
    assert "| figure | mono | dia | what it is |" in (tmp_path / "out" / "report.md").read_text()
    write_suite(tmp_path / "third" / "shapes", [single(TABLE[0])], [sample("p0", 0, "0", "correct")])
    with pytest.raises(RunError, match="third holds none of the suites sums-cb2, sums"):
        write_eval_report(one, against={"third": tmp_path / "third"})


def test_the_page_carries_the_markup_of_plays_alone(tmp_path: Path) -> None:
    plays = embed([read_suite("sums-cb2", evaluation(tmp_path / "dia", play=True) / "sums-cb2")])
    texts = unpack(plays.parts[-1])
    assert {len(one) for one in texts} == {4}
    for _, _, _, markup in texts:
        assert markup.count('<div class="scene wrong">') == K and '<b class="speaker0">Ada:</b>' in markup
        assert "&lt;script&gt;" in markup and "<script" not in markup and "<img" not in markup
    plain = embed([read_suite("sums-cb2", evaluation(tmp_path / "mono", play=False) / "sums-cb2")])
    assert {len(one) for one in unpack(plain.parts[-1])} == {3}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_play_is_shown_as_a_play(browser: Page, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "dia", play=True)
    browser.open(write_eval_report(folder)[2])
    browser.choose("suite", "sums-cb2")
    first = read_samples(folder / "sums-cb2")[0]
    assert browser.run("document.getElementById('response').textContent") == first["text"]
    scenes = "[...document.querySelectorAll('#play .scene')].map((scene) => scene.className)"
    assert browser.run(scenes) == ["scene wrong"] * K
    said = browser.run("document.querySelector('#play .scene p').textContent")
    assert said == f"Ada: It is 1. {EVIL}"
    assert browser.run("getComputedStyle(document.querySelector('#play b.speaker0')).color") == "rgb(0, 121, 140)"
    assert browser.run("document.querySelectorAll('#browser script, #browser img').length") == 0
    assert browser.run("document.title") == "dia" and browser.errors == []
    browser.choose("suite", "sums")
    assert browser.run("document.getElementById('play')") is None
    browser.click("clear")
    browser.set("text", "it IS so")
    assert browser.count == BLOCKS * K
    browser.set("text", "class=")  # of the markup, which is not what the response says
    assert browser.count == 0


def test_a_newer_grader_brings_its_own_verdicts_on_the_problems(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "e", play=False) / "sums-cb2"
    rows = read_samples(folder)
    assert {item["verdict"] for row in rows for item in row["items"]} == {"wrong"}
    newer = [
        {**row, "verdict": "correct", "items": [{**one, "verdict": "correct"} for one in row["items"]]} for row in rows
    ]
    del newer[0]["items"]  # this one it judged as a whole
    write_verdicts(folder, CURRENT, newer, {})
    there = read_samples(folder)
    assert "items" not in there[0] and [row["items"] for row in there[1:]] == [row["items"] for row in newer[1:]]
    assert read_samples(folder, "own") == rows
