"""Coherency and diversity of responses: what is counted, on texts where it is plain to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.eval.trace_tables import suite_traces
from reasonrl.eval.traces import MEANINGS, SEVERAL, sample_figures, segments, strategies_of, trace_figures

PROBLEMS = ["How many marbles does Alice give to Tom?", "What is the area of a triangle with sides 7, 8 and 9?"]


def test_segments_follow_names_then_shared_words() -> None:
    text = (
        "Problem 1: Alice has marbles. She keeps some.\nNow problem 2. The triangle has an area and sides.\n"
        "Back: Alice and her marbles give Tom joy."
    )
    assert [piece.problem for piece in segments(text, PROBLEMS)] == [0, 0, 1, 1, 0]
    assert [piece.problem for piece in segments("Anything at all.", PROBLEMS)] == [0]


def test_coherency() -> None:
    straight = "Problem 1: Alice counts marbles.\nSo 3.\nProblem 2: the area is large.\nSo 5."
    jumping = "Problem 1: Alice.\nWait. Hmm, problem 2 first.\nThe triangle.\nActually, problem 1.\nProblem 2: 5."
    before, after = trace_figures(straight, PROBLEMS), trace_figures(jumping, PROBLEMS)
    assert before["hesitations"] == 0 and before["extra_switches"] == 0 and before["switch_entropy"] == 0
    words = after["words"]
    assert after["hesitations"] == pytest.approx(1000 * 3 / words) and after["extra_switches"] == 2
    assert trace_figures("one problem alone", PROBLEMS[:1])["extra_switches"] == 0
    aside = "Problem 1: Alice counts.\nShe adds.\nProblem 2 is harder.\nProblem 1 again: she adds."
    assert trace_figures(aside, PROBLEMS)["off_problem"] == pytest.approx(4 / 15)


def test_diversity_across_problems() -> None:
    same = "Problem 1: we expand the equation and we factor it.\nProblem 2: we expand the equation and we factor it."
    other = (
        "Problem 1: we expand the equation and we factor it.\nProblem 2: try a guess of nine for each triangle angle."
    )
    assert trace_figures(same, PROBLEMS)["similarity"] > 0.6 > 0.2 > trace_figures(other, PROBLEMS)["similarity"]
    assert trace_figures(same, PROBLEMS)["strategy_entropy"] == 0 < trace_figures(other, PROBLEMS)["strategy_entropy"]
    assert strategies_of("By parity, either case is a dead end.") == ["casework", "depth first", "invariants"]


def test_dialogue_counts() -> None:
    text = "<play>\n[Scene 1]\nAda: It is 3.\nBo: No, that is wrong.\nAda: I see.\nEnvironment: next.\n</play>"
    figures = trace_figures(text, PROBLEMS)
    assert (figures["scenes"], figures["voices"], figures["turns"], figures["turns_a_voice"]) == (1, 2, 3, 1.5)
    assert figures["dissent"] == pytest.approx(1 / 3)
    assert trace_figures("Ada: a monologue.", PROBLEMS)["turns"] == 0


def test_samples_of_one_prompt() -> None:
    assert sample_figures(["a b c"], [True]) == {}
    twins = sample_figures(["a b c", "a b c"], [True, False])
    assert twins["distinct_2"] == 0.5 and twins["self_bleu"] == 1.0 and twins["strategies"] == 0
    apart = sample_figures(["we expand it", "try a guess"], [True, True])
    assert apart["distinct_2"] == 1 and apart["self_bleu"] == 0 and apart["strategies"] == 2


def test_tables_of_evaluations_side_by_side(tmp_path: Path) -> None:
    items = json.dumps([{"id": f"p{n}", "problem": text, "answer": "1"} for n, text in enumerate(PROBLEMS)])
    for label, text in (
        ("one", "Problem 1: Alice.\nProblem 2: area."),
        ("two", "<play>\n[Scene 1]\nAda: a\nBo: b\n</play>"),
    ):
        folder = tmp_path / label / "cb2"
        folder.mkdir(parents=True)
        problem = {
            "id": "x",
            "prompt": "?",
            "prompt_hash": "h",
            "answer": "1",
            "images": 0,
            "group": "block 0",
            "columns": {"items": items},
        }
        (folder / "problems.jsonl").write_text(json.dumps(problem) + "\n")
        samples = [
            {
                "id": "x",
                "metric": "sample",
                "index": index,
                "text": text,
                "correct": True,
                "right": True,
                "finish_reason": "stop",
            }
            for index in range(2)
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in samples))
    found = CliRunner().invoke(
        main,
        ["traces", f"monologue={tmp_path / 'one'}", f"dialogue={tmp_path / 'two'}", "--out", str(tmp_path / "out")],
    )
    assert found.exit_code == 0, found.output
    assert "| figure | monologue | dialogue | what it is |" in found.output and "| voices | 0 | 2 |" in found.output
    stored: dict[str, Any] = json.loads((tmp_path / "out" / "traces.json").read_text())["cb2"]
    assert set(stored["dialogue"]) <= {*MEANINGS, *SEVERAL} and stored["dialogue"]["self_bleu"]["value"] == 1
    assert suite_traces([], {}) == {}
    assert (
        "no folder holds a suite"
        in CliRunner().invoke(main, ["traces", str(tmp_path / "one"), "--suite", "cb9"]).output
    )
