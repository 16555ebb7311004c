"""Coherency and diversity of responses: what is counted, on texts where it is plain to see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RunError
from reasonrl.eval.labelled_folders import labelled_folders
from reasonrl.eval.trace_tables import MOST_SAMPLES, suite_traces
from reasonrl.eval.traces import (
    MEANINGS,
    SEVERAL,
    read_trace,
    sample_figures,
    segments,
    strategies_of,
    trace_figures,
    without_answers,
)

PROBLEMS = ["How many marbles does Alice give to Tom?", "What is the area of a triangle with sides 7, 8 and 9?"]


def figures_of(text: str, problems: list[str] = PROBLEMS) -> dict[str, float]:
    return trace_figures(read_trace(text, problems))


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
    before, after = figures_of(straight, PROBLEMS), figures_of(jumping, PROBLEMS)
    assert before["hesitations"] == 0 and before["extra_switches"] == 0 and before["switch_entropy"] == 0
    words = after["words"]
    assert after["hesitations"] == pytest.approx(1000 * 3 / words) and after["extra_switches"] == 2
    assert figures_of("one problem alone", PROBLEMS[:1])["extra_switches"] == 0
    aside = "Problem 1: Alice counts.\nShe adds.\nProblem 2 is harder.\nProblem 1 again: she adds."
    assert figures_of(aside, PROBLEMS)["off_problem"] == pytest.approx(4 / 15)


def test_diversity_across_problems() -> None:
    same = "Problem 1: we expand the equation and we factor it.\nProblem 2: we expand the equation and we factor it."
    other = (
        "Problem 1: we expand the equation and we factor it.\nProblem 2: try a guess of nine for each triangle angle."
    )
    assert figures_of(same, PROBLEMS)["similarity"] > 0.6 > 0.2 > figures_of(other, PROBLEMS)["similarity"]
    assert figures_of(same, PROBLEMS)["strategy_entropy"] == 0 < figures_of(other, PROBLEMS)["strategy_entropy"]
    assert strategies_of("By parity, either case is a dead end.") == ["casework", "depth first", "invariants"]


def test_dialogue_counts() -> None:
    text = "<play>\n[Scene 1]\nAda: It is 3.\nBo: No, that is wrong.\nAda: I see.\nEnvironment: next.\n</play>"
    figures = figures_of(text, PROBLEMS)
    assert (figures["scenes"], figures["voices"], figures["turns"], figures["turns_a_voice"]) == (1, 2, 3, 1.5)
    assert figures["dissent"] == pytest.approx(1 / 3)
    assert figures_of("Ada: a monologue.", PROBLEMS)["turns"] == 0


IDEAL = "Problem 1: Alice gives 3.\nSo 3 marbles.\nProblem 2: the area is 26.\nSo 26."
ANSWERS = (
    "<answer>\n1. \\boxed{3}\n2. \\boxed{26}\n</answer>",
    "<answer>\n**Problem 1:** \\boxed{3}\n**Problem 2:** \\boxed{26}\n</answer>",
    "<answer>\n**Problem 1:** \\boxed{3}\n**Problem 2:** \\boxed{26}",
    "**Problem 1:** $\\boxed{3}$\n\n**Problem 2:** the area is $\\boxed{26}$.\n",
    "1) \\boxed{3}\n2) \\boxed{26}",
)


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("reasoning", [IDEAL, f"<think>\n{IDEAL}\n</think>", f"{IDEAL}\n</think>"])
def test_the_final_answers_are_no_reasoning(reasoning: str, answers: str) -> None:
    text = f"{reasoning}\n{answers}"
    assert without_answers(text).strip() == reasoning
    assert figures_of(text) == figures_of(reasoning)
    assert figures_of(IDEAL)["extra_switches"] == figures_of(IDEAL)["off_problem"] == 0


def test_only_the_answers_at_the_end_are_left_out() -> None:
    boxed = "1. Alice has seven and keeps four of them: \\boxed{3}\n2. By Heron's rule with s = 12: \\boxed{26}"
    assert without_answers(boxed) == boxed  # all the reasoning that there is
    middle = "Problem 1: \\boxed{3}\nNow the second.\nSo 26."
    assert without_answers(middle) == middle
    mention = "<think>At the end comes <answer>, then lines.\nSo 3.</think>\nDone."
    assert without_answers(mention) == mention
    assert without_answers("One.<answer>1. \\boxed{3}</answer> Two.") == "One. Two."
    assert without_answers("") == "" and without_answers("<think>never ends <answer>1") == "<think>never ends <answer>1"


def test_scenes_that_name_no_problem_go_by_order() -> None:
    def play(first: str, second: str) -> str:
        return f"<play>\n[{first}]\nAda: It is so.\nBo: Yes, so.\n[{second}]\nAda: It is other.\nBo: No.\n</play>"

    def order(text: str) -> list[int]:
        return [piece.problem for piece in read_trace(text, PROBLEMS).pieces]

    named = order(play("Scene 1: a desk, problem 1", "Scene 2: a street, problem 2"))
    assert named[:1] == [0] and named[-1:] == [1] and named == sorted(named)
    for first, second in (("Scene 1: a desk", "Scene 2: a street"), ("Scene 1: problem 1", "Scene 2: a street")):
        assert order(play(first, second)) == named
        assert figures_of(play(first, second))["similarity"] > 0
    # No order to go by: another problem is named, or there is a scene too many.
    assert set(order(play("Scene 1: problem 2", "Scene 2: a street"))) == {0, 1}
    assert order(play("Scene 1: problem 2", "Scene 2: a street"))[-1] == 1
    assert set(order(play("Scene 1: a desk", "Scene 2: a street").replace("Bo: No.", "[Scene 3]\nBo: No."))) == {0}


def test_samples_of_one_prompt() -> None:
    def several(texts: list[str], right: list[bool]) -> dict[str, float]:
        return sample_figures([read_trace(text, ["?"]) for text in texts], [[one] for one in right])

    assert several(["a b c"], [True]) == {}
    twins = several(["a b c", "a b c"], [True, False])
    assert twins["distinct_2"] == 0.5 and twins["self_bleu"] == 1.0 and twins["strategies"] == 0
    apart = several(["we expand it", "try a guess"], [True, True])
    assert apart["distinct_2"] == 1 and apart["self_bleu"] == 0 and apart["strategies"] == 2
    assert "strategies" not in several(["we expand it", "try a guess"], [False, False])


def test_strategies_are_counted_problem_by_problem() -> None:
    texts = [
        "Problem 1: we expand the equation.\nProblem 2: the triangle is known.",
        "Problem 1: by parity it is odd.\nProblem 2: either case holds.",
        "Problem 1: a dead end.\nProblem 2: plug in nine.",
    ]
    traces = [read_trace(text, PROBLEMS) for text in texts]
    # Nobody solves both. The first: algebra and invariants; the second: casework alone.
    assert sample_figures(traces, [[True, False], [True, False], [False, False]])["strategies"] == 2
    assert sample_figures(traces, [[True, False], [True, True], [False, False]])["strategies"] == (2 + 1) / 2


def sampled(key: str, index: int, text: str, *verdicts: str) -> dict[str, Any]:
    items = [{"id": str(place), "verdict": verdict} for place, verdict in enumerate(verdicts)]
    correct = {*verdicts} == {"correct"}
    row = {"id": key, "metric": "sample", "index": index, "text": text, "correct": correct, "finish_reason": "stop"}
    return row | ({"items": items} if items else {})


def test_intervals_are_over_blocks_of_the_first_samples() -> None:
    items = json.dumps([{"id": f"p{n}", "problem": text, "answer": "1"} for n, text in enumerate(PROBLEMS)])
    words = {"block 0": (2, 4), "block 1": (6, 6), "block 2": (9, 9)}  # of the two orders of each block
    problems, rows = {}, []
    for block, lengths in words.items():
        for rotation, count in enumerate(lengths):
            key = f"{block}/{rotation}"
            problems[key] = {"id": key, "group": block, "columns": {"items": items}}
            rows += [sampled(key, index, "so " * count, "correct", "wrong") for index in range(MOST_SAMPLES)]
            rows.append(sampled(key, MOST_SAMPLES, "so " * 1000, "correct", "correct"))
    found = suite_traces(rows, problems)["words"]
    # Blocks: 3, 6, 9. Standard deviation 3, error 3 / sqrt(3), t(0.975, 2) = 4.302653.
    assert found["value"] == pytest.approx(6) and found["n"] == 3
    assert found["low"] == pytest.approx(6 - 4.302653 * 3**0.5, abs=1e-5)
    assert suite_traces(rows, problems)["strategies"]["value"] == 0  # no sample is all right, each solves the first


def test_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(labelled_folders(["runs/mono/stages/exam", "runs/dia/stages/exam", "other/test"])) == [
        "mono",
        "dia",
        "test",
    ]
    assert list(labelled_folders(["a/x/exam", "a/y/exam", "b/x/exam"])) == ["a/x", "a/y", "b/x"]
    assert labelled_folders(["one=a/exam", "b/exam"]) == {"one": Path("a/exam"), "exam": Path("b/exam")}
    (tmp_path / "t=0.6").mkdir()
    assert labelled_folders(["t=0.6", "t=1"]) == {"t=0.6": Path("t=0.6"), "t": Path("1")}
    for twice in (["a/exam", "a/exam"], ["x=a", "x=b"], ["exam=a", "b/exam"]):
        with pytest.raises(RunError, match=r"two evaluations are called .* -> give each a name"):
            labelled_folders(twice)


def write_evaluation(directory: Path, text: str, suite: str = "cb2") -> None:
    items = json.dumps([{"id": f"p{n}", "problem": text, "answer": "1"} for n, text in enumerate(PROBLEMS)])
    folder = directory / suite
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
    rows = [sampled("x", index, text) | {"correct": True, "right": True} for index in range(2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_tables_of_evaluations_side_by_side(tmp_path: Path) -> None:
    for label, text in (
        ("one", "Problem 1: Alice.\nProblem 2: area."),
        ("two", "<play>\n[Scene 1]\nAda: a\nBo: b\n</play>"),
    ):
        write_evaluation(tmp_path / label / "exam", text)
    found = CliRunner().invoke(
        main,
        [
            "traces",
            f"monologue={tmp_path / 'one/exam'}",
            f"dialogue={tmp_path / 'two/exam'}",
            "--out",
            str(tmp_path / "out"),
        ],
    )
    assert found.exit_code == 0, found.output
    assert "| figure | monologue | dialogue | what it is |" in found.output and "| voices | 0 | 2 |" in found.output
    stored: dict[str, Any] = json.loads((tmp_path / "out" / "traces.json").read_text())["cb2"]
    assert set(stored["dialogue"]) <= {*MEANINGS, *SEVERAL} and stored["dialogue"]["self_bleu"]["value"] == 1
    assert suite_traces([], {}) == {}
    assert f"the first {MOST_SAMPLES} samples of each prompt" in found.output
    unnamed = CliRunner().invoke(main, ["traces", str(tmp_path / "one/exam"), str(tmp_path / "two/exam")])
    assert "| figure | one | two | what it is |" in unnamed.output and "| voices | 0 | 2 |" in unnamed.output
    refused = CliRunner().invoke(main, ["traces", str(tmp_path / "one/exam"), "--suite", "cb9"])
    assert "no folder holds a suite" in refused.output
    write_evaluation(tmp_path / "three", "Other.", suite="cb3")
    lacking = CliRunner().invoke(main, ["traces", str(tmp_path / "one/exam"), str(tmp_path / "three")])
    assert "three holds no suite 'cb2'" in lacking.output
