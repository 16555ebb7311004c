"""Sample files of lm-eval and lighteval become records of our own: the tool's figures first, then our verdicts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from recorded import lines_of

from reasonrl.cli import main
from reasonrl.errors import DataError, RunError
from reasonrl.eval.compare import compare_evaluations, write_comparison
from reasonrl.eval.import_formats import read_sample_file
from reasonrl.eval.import_samples import import_samples
from reasonrl.eval.regrade import Grading, regrade_suite
from reasonrl.eval.results import read_results
from reasonrl.eval.samples import read_samples

NAME = "samples_gsm8k_2025-01-02T03-04-05.678901.jsonl"


def lm_eval_row(
    number: int, texts: list[str], score: Any, filter_name: str = "strict-match", **changed: Any
) -> dict[str, Any]:
    """A line as `lm_eval --log_samples` writes it."""
    return {
        "doc_id": number,
        "doc": {
            "question": f"What is {number}?",
            "answer": f"Well. #### {number}",
            "type": "Sums",
            "hard": number % 2,
            "long": "x" * 999,
        },
        "target": f"Well. #### {number}",
        "arguments": {
            "gen_args_0": {
                "arg_0": f"Q: What is {number}?\nA:",
                "arg_1": {"until": ["Q:"], "temperature": 0.6, "max_gen_toks": 64},
            }
        },
        "resps": [texts],
        "filtered_resps": [texts[0][-1:]],
        "filter": filter_name,
        "metrics": ["exact_match"],
        "doc_hash": "a",
        "prompt_hash": "b",
        "target_hash": "c",
        "exact_match": score,
    } | changed


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def silent(text: str) -> None:
    """Takes what is said."""


def test_lm_eval_keeps_its_figure_and_gets_ours_beside_it(tmp_path: Path) -> None:
    # The harness asks for "####" and marks a right answer in prose as wrong.
    rows = [lm_eval_row(n, [f"#### {n}" if n % 3 else f"So it is {n}."], float(n % 3 != 0)) for n in range(9)]
    path = write_lines(tmp_path / "a__model" / NAME, rows)
    import_samples([path], tmp_path / "out", say=silent)
    result = read_results(tmp_path / "out")["suites"]["gsm8k"]
    assert result["accuracy"]["value"] == pytest.approx(6 / 9)
    assert (result["n_problems"], result["mean_length"], result["tokens_per_correct"]) == (9, None, None)
    folder = tmp_path / "out" / "gsm8k"
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["model"], settings["metric"], settings["filter"]) == ("a__model", "exact_match", "strict-match")
    assert (settings["temperature"], settings["max_tokens"]) == (0.6, 64) and "taken for stop" in settings[
        "finish_reason"
    ]
    problem = lines_of(folder / "problems.jsonl")[1]
    assert (problem["id"], problem["prompt"], problem["problem"]) == ("1", "Q: What is 1?\nA:", "What is 1?")
    assert (problem["subject"], problem["columns"]) == ("Sums", {"answer": "Well. #### 1", "hard": 1})
    regrade_suite(folder, Grading(workers=0), "default")
    assert [row["correct"] for row in read_samples(folder, "default")] == [True] * 9
    assert [row["correct"] for row in read_samples(folder)] == [n % 3 != 0 for n in range(9)]


def test_repeats_that_the_tool_did_not_score_one_by_one_are_unscored(tmp_path: Path) -> None:
    rows = [lm_eval_row(n, [f"#### {n}", "#### -1", f"it is {n}"], 1.0) for n in range(4)]
    said: list[str] = []
    import_samples([write_lines(tmp_path / NAME, rows)], tmp_path / "out", say=said.append)
    folder = tmp_path / "out" / "gsm8k"
    assert [(row["verdict"], row["correct"]) for row in read_samples(folder)] == [("unscored", None)] * 12
    assert read_results(tmp_path / "out")["suites"]["gsm8k"]["accuracy"] is None
    assert "12 samples have no score of their own -> reasonrl regrade" in said[0]
    regrade_suite(folder, Grading(workers=0), "default")
    assert [row["correct"] for row in read_samples(folder, "default")] == [True, False, True] * 4


def test_scores_one_a_repeat_are_taken_one_by_one(tmp_path: Path) -> None:
    rows = [lm_eval_row(n, ["#### 1", "#### 2"], [1.0, 0.0]) for n in range(3)]
    import_samples([write_lines(tmp_path / NAME, rows)], tmp_path / "out", say=silent)
    result = read_results(tmp_path / "out")["suites"]["gsm8k"]
    assert result["accuracy"]["value"] == 0.5 and result["pass@k"]["2"]["value"] == 1.0


def test_filters_metrics_and_the_older_spelling_of_arguments(tmp_path: Path) -> None:
    rows = [
        lm_eval_row(n, [f"#### {n}"], float(name == "flexible"), name, acc=0.25, arguments=[[f"P{n}", {"until": []}]])
        for n in range(3)
        for name in ("strict", "flexible")
    ]
    path = write_lines(tmp_path / NAME, rows)
    with pytest.raises(DataError, match=r"2 filters \(strict, flexible\) -> choose one with --filter"):
        read_sample_file(path)
    with pytest.raises(DataError, match=r"no filter 'flexibel'.*did you mean"):
        read_sample_file(path, filter_name="flexibel")
    with pytest.raises(DataError, match="no metric 'f1' -> allowed: exact_match"):
        read_sample_file(path, filter_name="strict", metric="f1")
    read = read_sample_file(path, filter_name="flexible", answer_column="question")
    assert [(one.prompt, one.scores, one.answer) for one in read.problems] == [
        (f"P{n}", [1.0], f"What is {n}?") for n in range(3)
    ]


def test_what_is_no_sample_is_set_aside_and_counted(tmp_path: Path) -> None:
    choices = lm_eval_row(7, ["x"], 1.0, resps=[[["-1.2", "False"]], [["-3.4", "True"]]])
    path = write_lines(
        tmp_path / NAME, [lm_eval_row(1, ["#### 1"], 1.0), '{"doc_id": 2, "re', "[1]", choices, {"doc_id": 3}]
    )
    read = read_sample_file(path)
    assert len(read.problems) == 1
    assert [line.split(":")[0] for line in read.set_aside] == ["line 2", "line 3", "line 4", "line 5"]
    assert "log-likelihoods" in read.set_aside[2] and "no 'resps'" in read.set_aside[3]
    said: list[str] = []
    import_samples([path], tmp_path / "out", say=said.append)
    assert "4 lines set aside: line 2: not JSON" in said[0]
    with pytest.raises(DataError, match="holds no sample of lm-eval; line 1: its responses are no texts"):
        read_sample_file(write_lines(tmp_path / "samples_mmlu.jsonl", [choices]))
    twice = write_lines(tmp_path / "samples_twice.jsonl", [lm_eval_row(1, ["a"], 1.0)] * 2)
    with pytest.raises(DataError, match="the question '1' stands in it twice"):
        read_sample_file(twice)


def lighteval_rows() -> list[dict[str, Any]]:
    """Rows as lighteval's newer details have them: two samples each, one of them at the limit."""
    return [
        {
            "doc": {
                "query": f"What is {n}?",
                "choices": [str(n), "no"],
                "gold_index": 0,
                "id": f"d{n}",
                "generation_size": 5,
                "specific": {"level": n % 2, "extracted_predictions": [[str(n)], []]},
            },
            "model_response": {
                "input": f"<user>What is {n}?",
                "text": [f"\\boxed{{{n}}}", "I think"],
                "output_tokens": [[1, 2, 3], [1, 2, 3, 4, 5]],
            },
            "metric": {"avg@n:n=2": 0.5},
        }
        for n in range(4)
    ]


@pytest.mark.parametrize("spelt", ["{}", "__{}__"])
def test_lighteval(tmp_path: Path, spelt: str) -> None:
    path = (
        tmp_path
        / "a-model"
        / "2025-05-06T07-08-09.123456"
        / "details_lighteval|aime24|0_2025-05-06T07-08-09.123456.parquet"
    )
    path.parent.mkdir(parents=True)
    pandas.DataFrame(
        [{spelt.format(name): value for name, value in row.items()} for row in lighteval_rows()]
    ).to_parquet(path)
    import_samples([path], tmp_path / "out", say=silent)
    folder = tmp_path / "out" / "aime24"
    rows = read_samples(folder)
    assert [(row["length"], row["finish_reason"]) for row in rows] == [(3, "stop"), (5, "length")] * 4
    assert {row["verdict"] for row in rows} == {"unscored"}
    assert [row["extracted"] for row in rows[:4]] == ["0", None, "1", None]
    assert json.loads((folder / "settings.json").read_text())["model"] == "a-model"
    problem = lines_of(folder / "problems.jsonl")[2]
    assert (problem["id"], problem["answer"], problem["problem"], problem["level"]) == ("d2", "2", "What is 2?", 0)
    regrade_suite(folder, Grading(workers=0), "default")
    assert [row["correct"] for row in read_samples(folder, "default")] == [True, False] * 4
    assert read_results(tmp_path / "out")["suites"]["aime24"]["truncated_fraction"] == 0.5


def test_lightevals_older_details(tmp_path: Path) -> None:
    rows = [
        {
            "full_prompt": f"P{n}",
            "example": f"E{n}",
            "predictions": str([f"it is {n}"]),
            "gold": str([str(n)]),
            "metrics": {"em": n % 2},
        }
        for n in range(4)
    ]
    pandas.DataFrame(rows).to_parquet(tmp_path / "details_gsm8k.parquet")
    read = read_sample_file(tmp_path / "details_gsm8k.parquet")
    assert [(one.prompt, one.problem, one.answer, one.texts, one.scores) for one in read.problems] == [
        (f"P{n}", f"E{n}", str(n), [f"it is {n}"], [float(n % 2)]) for n in range(4)
    ]


def test_imports_are_compared_like_evaluations(tmp_path: Path) -> None:
    for name, share in (("one", 2), ("two", 3)):
        rows = [lm_eval_row(n, [f"#### {n}"], float(n % share == 0)) for n in range(12)]
        import_samples([write_lines(tmp_path / name / NAME, rows)], tmp_path / f"{name}-eval", say=silent)
    comparison = compare_evaluations({"one": tmp_path / "one-eval", "two": tmp_path / "two-eval"}, "one")
    write_comparison(comparison, tmp_path / "table")
    assert "33.3" in (tmp_path / "table" / "table.md").read_text()


def test_the_command_and_what_it_refuses(tmp_path: Path) -> None:
    path = write_lines(tmp_path / NAME, [lm_eval_row(n, [f"#### {n}"], 1.0) for n in range(3)])
    run, output = CliRunner(), str(tmp_path / "out")
    done = run.invoke(main, ["import-samples", str(path), "--output", output, "--model", "m"])
    assert done.exit_code == 0 and "accuracy by exact_match 100.00 %" in done.output, done.output
    again = run.invoke(main, ["import-samples", str(path), "--output", output])
    assert again.exit_code == 2 and "the suite 'gsm8k' is there already" in again.output
    assert run.invoke(main, ["import-samples", str(tmp_path / "no.jsonl"), "--output", output]).exit_code == 1
    with pytest.raises(RunError, match="names one suite, and 2 files"):
        import_samples([path, path], tmp_path / "o", suite="x", say=silent)
    with pytest.raises(RunError, match="is no name of a folder"):
        import_samples([path], tmp_path / "o", suite="../x", say=silent)
    (tmp_path / "bad.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="is no parquet file"):
        read_sample_file(tmp_path / "bad.parquet")
