"""Evaluation folders in hostile hands: what was left out, edited, damaged, half done, or re-graded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

sys.path.insert(0, str(Path(__file__).parent))
from command_world import Act, ScriptedServer, serving, write_suite
from eval_world import SeededEngine, evaluate, problems
from recorded import problem, sample
from recorded import write_suite as write_record

from reasonrl.cli_eval import COMMANDS
from reasonrl.errors import DataError, RunError
from reasonrl.eval.compare import compare_evaluations
from reasonrl.eval.metrics import paired_difference, proportion_interval
from reasonrl.eval.named_metrics import metric_values
from reasonrl.eval.paired import fold_groups
from reasonrl.eval.regrade import Grading, regrade_suite
from reasonrl.eval.report_data import read_suite
from reasonrl.eval.results import read_results
from reasonrl.eval.samples import SampleStore, read_problems, read_samples
from reasonrl.eval.verdict_diff import diff_suite
from reasonrl.rollout.seeds import sample_seed


@pytest.fixture(autouse=True)
def one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graders' processes stay for the whole file: each start costs seconds."""
    monkeypatch.setattr("reasonrl.rewards.pool.close_shared_pools", lambda: None)


def command(name: str, *words: Any) -> Result:
    chosen = next(one for one in COMMANDS if one.name == name)
    return CliRunner().invoke(chosen, [str(word) for word in words])


def test_a_gold_corrected_while_its_problem_was_left_out_is_judged_again(tmp_path: Path) -> None:
    rows = problems(20)
    evaluate(tmp_path / "one", rows=rows)
    evaluate(tmp_path / "one", rows=rows[:5])
    corrected = [row | {"answer": "99999"} if row["id"] == "p17" else row for row in rows]
    evaluate(tmp_path / "one", rows=rows[:3])
    engine = SeededEngine()
    found = evaluate(tmp_path / "one", rows=corrected, engine=engine)
    assert engine.served == [] and found == evaluate(tmp_path / "new", rows=corrected)
    assert found.accuracy != evaluate(tmp_path / "two", rows=rows).accuracy


def test_rewards_that_cannot_judge_again_refuse_it(tmp_path: Path) -> None:
    def always(completions: Any, **_: Any) -> list[float]:
        return [1.0 for _ in completions]

    rows = problems(6)
    evaluate(tmp_path, rows=rows, reward=always)
    evaluate(tmp_path, rows=rows[:2], reward=always)
    with pytest.raises(RunError, match="answers of 1 problems have changed, such as 'p5'"):
        evaluate(tmp_path, rows=[*rows[:5], rows[5] | {"answer": "1"}], reward=always)
    assert evaluate(tmp_path, rows=rows, reward=always).n_problems == 6


def test_a_reward_file_edited_in_between_is_another_reward(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def mine(completions, **_):\n    return [1.0 for _ in completions]\n")
    evaluate(tmp_path / "e", count=3, reward="mine.py:mine", base_dir=tmp_path)
    evaluate(tmp_path / "e", count=3, n=5, reward="mine.py:mine", base_dir=tmp_path)
    grading = Grading(reward="mine.py:mine", base_dir=tmp_path)
    regrade_suite(tmp_path / "e" / "sums", grading, "mine")
    file.write_text("def mine(completions, **_):\n    return [0.0 for _ in completions]\n")
    with pytest.raises(RunError, match="reward_files"):
        evaluate(tmp_path / "e", count=3, n=6, reward="mine.py:mine", base_dir=tmp_path)
    with pytest.raises(RunError, match="reward_files"):
        regrade_suite(tmp_path / "e" / "sums", grading, "mine")


def test_rules_of_a_composed_reward_are_among_the_settings(tmp_path: Path) -> None:
    reward = {"name": "math", "args": {"policy": "strict"}}
    evaluate(tmp_path, count=3, reward=reward)
    path = tmp_path / "sums" / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"rules": {"math": settings["rules"]["math"] - 1}}))
    with pytest.raises(RunError, match="rules"):
        evaluate(tmp_path, count=3, n=5, reward=reward)


def test_report_and_comparison_of_a_smaller_n_tell_what_the_results_tell(tmp_path: Path) -> None:
    evaluate(tmp_path / "a", n=8)
    result = evaluate(tmp_path / "a", n=2)
    evaluate(tmp_path / "b", n=2, seed=4)
    view = read_suite("sums", tmp_path / "a" / "sums")
    assert len(view.sampled) == 80 and view.result == read_results(tmp_path / "a")["suites"]["sums"]
    regrade_suite(tmp_path / "a" / "sums", Grading(workers=0), "again")
    again = read_suite("sums", tmp_path / "a" / "sums", "again")
    assert again.result["accuracy"] == view.result["accuracy"] and again.result["n_samples"] == 80
    cell = compare_evaluations({name: tmp_path / name for name in "ab"}, "a").cell("sums", "accuracy", "a")
    assert cell is not None and cell.estimate == result.accuracy


def test_a_comparison_refuses_an_evaluation_that_was_begun_anew(tmp_path: Path) -> None:
    evaluate(tmp_path / "done")
    evaluate(tmp_path / "half")
    store = SampleStore(
        tmp_path / "half" / "sums", json.loads((tmp_path / "half" / "sums" / "settings.json").read_text())
    )
    store.write_problems([*read_problems(tmp_path / "half" / "sums").values(), problem("p40")])
    store.append(sample("p40", 0, "x", "wrong"))
    store.close()
    with pytest.raises(RunError, match=r"161 samples where results.json tells of 160.*let it end"):
        compare_evaluations({"done": tmp_path / "done", "half": tmp_path / "half"}, "done")


def test_a_regrade_of_other_answers_is_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "sums"
    evaluate(tmp_path, count=6)
    regrade_suite(folder, Grading(workers=0), "mine")
    assert read_suite("sums", folder, "mine").result["n_samples"] == 24
    evaluate(tmp_path, rows=[row | {"answer": "5"} for row in problems(6)])
    with pytest.raises(RunError, match=r"other problems or answers.*--restart"):
        read_suite("sums", folder, "mine")
    with pytest.raises(RunError, match="other problems or answers"):
        diff_suite("sums", folder, "own", "mine")


def test_variants_of_one_question_are_one_unit_in_differences_of_verdicts(tmp_path: Path) -> None:
    # 12 questions in 6 variants each, which are all right or all wrong together.
    asked = [problem(f"q{place}v{turn}", group=f"q{place}") for place in range(12) for turn in range(6)]
    rows = [
        sample(one["id"], 0, r"\boxed{42}" if int(one["id"][1:].split("v")[0]) % 2 else "", "wrong") for one in asked
    ]
    folder = write_record(tmp_path / "dyna", asked, rows)
    regrade_suite(folder, Grading(workers=0), "mine")
    found = diff_suite("dyna", folder, "own", "mine")
    groups = {one["id"]: one["group"] for one in asked}
    now = {row["id"]: float(row["correct"]) for row in read_samples(folder, "mine")}
    assert sum(now.values()) == 36
    assert found.accuracy_now == proportion_interval(list(now.values()), groups=list(groups.values()))
    assert found.difference == paired_difference(fold_groups(now, groups), dict.fromkeys(groups.values(), 0.0))
    assert found.difference.low is not None and found.difference.low < 0.3 < 0.5 == found.difference.value


def test_votes_with_weights_below_zero_are_an_error_that_names_the_way_out(tmp_path: Path) -> None:
    def negative(completions: Any, **_: Any) -> list[float]:
        return [-1.0 for _ in completions]

    with pytest.raises(DataError, match=r"weighted_maj@2: problem 'p0'.*leave the metric out"):
        evaluate(tmp_path, count=3, reward=negative, metrics=("weighted_maj@2",))
    assert evaluate(tmp_path, count=3, reward=negative, engine=None).n_samples == 12


def test_ids_that_no_encoding_likes_have_seeds() -> None:
    assert sample_seed(0, "p\ud800", 1) != sample_seed(0, "p\ud801", 1)


def test_two_that_begin_at_once_do_not_write_each_others_settings(tmp_path: Path) -> None:
    first = SampleStore(tmp_path / "s", {"model": "first"})
    with pytest.raises(RunError, match="another process"):
        SampleStore(tmp_path / "s", {"model": "second"})
    assert json.loads((tmp_path / "s" / "settings.json").read_text()) == {"model": "first"}
    first.close()


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    write_record(tmp_path / "s", [problem("a")], [sample("a", 0, "x")])
    (tmp_path / "s" / "settings.json").write_text("[]")
    assert "settings.json is damaged" in command("regrade", tmp_path, "--workers", 0).output


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("s/samples.jsonl", "{}\n", "line 1: no sample, it has no 'id'"),
        ("s/problems.jsonl", '{"id": "a"}\n{"id": "a"}\n', "line 2: problem 'a' is there twice"),
        ("s/problems.jsonl", '{"id": 3}\n', "line 1: has no `id`, as text"),
        ("results.json", '{"suites": ', "results.json is damaged"),
        ("results.json", '{"suites": []}', "results.json is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str, said: str) -> None:
    write_record(tmp_path / "s", [problem("a")], [sample("a", 0, "x")])
    (tmp_path / file).write_text(content)
    found = command("report", tmp_path)
    assert found.exit_code == 2 and said in found.output, found.output


def test_over_a_server(tmp_path: Path) -> None:
    """Rows that were set aside or are repeated are told; a place that cannot be written is a message."""
    suite = write_suite(tmp_path / "data", 6)
    rows = [json.loads(line) for line in (tmp_path / "data" / "sums.jsonl").read_text().splitlines()]
    for place, gold in ((1, None), (2, ""), (3, float("nan"))):
        rows[place]["answer"] = gold
    (tmp_path / "data" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    (tmp_path / "file").write_text("")
    with serving() as server:
        given = ("--model", "m", "--endpoint", server.url, "--suites", suite)
        refused = command("eval", *given, "--output", tmp_path / "file")
        found = command("eval", *given, "--output", tmp_path / "out")
    assert refused.exit_code == 1 and "file: File exists -> " in refused.output and refused.output.count("\n") == 1
    assert found.exit_code == 0, found.output
    entry = read_results(tmp_path / "out")["suites"]["sums"]
    assert entry["n_problems"] == 4 and entry["repeated"] == 1
    assert "rows set aside and in no figure: 2 x missing answer" in found.output and "1 x empty answer" in found.output
    assert "1 rows repeat the problem and answer of another" in found.output


def test_an_import_leaves_out_columns_that_are_no_number(tmp_path: Path) -> None:
    line = {"doc_id": 0, "doc": {"question": "?", "level": float("nan"), "year": float("inf"), "rank": 2}}
    line |= {"target": "4", "arguments": [["?", {}]], "resps": [["4"]], "exact_match": 1.0}
    (tmp_path / "samples_t.jsonl").write_text(json.dumps(line) + "\n")
    found = command("import-samples", tmp_path / "samples_t.jsonl", "--output", tmp_path / "out")
    assert found.exit_code == 0, found.output
    asked = read_problems(tmp_path / "out" / "t")["0"]
    assert asked["columns"] == {"rank": 2} and "level" not in asked


def test_samples_that_wait_for_a_failing_reward_outlive_a_try_on_fewer_problems(tmp_path: Path) -> None:
    def fails(**_: Any) -> list[float]:
        raise KeyError("the judge is away")

    def works(completions: Any, **_: Any) -> list[float]:
        return [1.0 for _ in completions]

    # One reward by name, that is mended.
    fails.__qualname__ = works.__qualname__ = "mine"
    first, later = SeededEngine(), SeededEngine()
    with pytest.raises(KeyError, match="judge"):
        evaluate(tmp_path, count=8, reward=fails, greedy=False, engine=first)
    evaluate(tmp_path, count=2, reward=works, greedy=False, engine=later)
    evaluate(tmp_path, count=8, reward=works, greedy=False, engine=later)
    assert len(first.served) == len(set(first.served)) == 32 and later.served == []
    assert len(read_samples(tmp_path / "sums")) == 32 and not (tmp_path / "sums" / "unjudged.jsonl").exists()


def test_a_comparison_says_that_an_evaluation_is_limited(tmp_path: Path) -> None:
    about = {"limited": {"problems": 6, "of": 40}}
    for name in "ab":
        evaluate(tmp_path / name, count=6, about=about)
    notes = compare_evaluations({name: tmp_path / name for name in "ab"}, "a").notes
    assert "sums: 'b' is limited to the first 6 of 40 problems" in notes


@pytest.mark.parametrize("verdicts", [None, "mine"])
def test_a_report_says_that_an_evaluation_is_limited(tmp_path: Path, verdicts: str | None) -> None:
    about = {"limited": {"problems": 6, "of": 40}, "set_aside": ["2 x missing answer (a:1, a:2)"], "rows": "other"}
    evaluate(tmp_path, count=6, about=about)
    words = [tmp_path]
    if verdicts is not None:
        regrade_suite(tmp_path / "sums", Grading(workers=0), verdicts)
        words += ["--verdicts", verdicts]
    assert command("report", *words).exit_code == 0
    for path in (*tmp_path.glob("report*.md"), *tmp_path.glob("report*.html")):
        text = path.read_text()
        assert "limited to the first 6 of 40 problems" in text and "2 x missing answer" in text, path
        assert "another revision" in text, path


def test_samples_that_could_not_be_scored_are_told_where_they_change_a_figure(tmp_path: Path) -> None:
    def half(completions: Any, id: list[str], **_: Any) -> list[float | None]:
        return [None if one == "p1" else 1.0 for one in id]

    def none(completions: Any, **_: Any) -> list[None]:
        return [None for _ in completions]

    found = evaluate(tmp_path / "half", count=3, reward=half, k=(1, 4), greedy=False)
    assert found.unscored == 4 and found.pass_at_k[4].n == 2 and found.n_problems == 3
    said = read_results(tmp_path / "half")["suites"]["sums"]["warnings"]
    assert any("1 problems have fewer scored samples than n" in line for line in said), said
    evaluate(tmp_path / "none", count=3, reward=none, greedy=False)
    refused = command("compare", tmp_path / "half", tmp_path / "none")
    assert refused.exit_code == 2 and "share no suite with a figure of both" in refused.output


def test_a_missing_score_is_said_once() -> None:
    rows = [sample("a", 0, "x", "correct", score=None), sample("a", 1, "x", "wrong")]
    with pytest.raises(DataError) as caught:
        metric_values(rows, "best@2")
    assert str(caught.value).count("leave the metric out") == 1


def test_scores_that_tell_no_right_from_wrong_are_refused(tmp_path: Path) -> None:
    lines = [
        {"doc_id": place, "doc": {}, "target": "4", "arguments": [["?", {}]], "resps": [["4"]], "bleu": bleu}
        for place, bleu in enumerate((0.4, 23.5))
    ]
    file = tmp_path / "samples_t.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refused = command("import-samples", file, "--output", tmp_path / "out")
    assert refused.exit_code == 1 and "'bleu' lie outside 0 to 1, such as 23.5" in refused.output
    assert not (tmp_path / "out").exists()
    taken = command("import-samples", file, "--output", tmp_path / "out", "--metric", "none")
    assert taken.exit_code == 0 and "2 samples have no score of their own" in taken.output, taken.output


def odd_server(finish: str, tokens: int) -> ScriptedServer:
    choice = {"index": 0, "message": {"role": "assistant", "content": "4 \ud800"}, "finish_reason": finish}
    reply = json.dumps({"id": "x", "model": "m", "choices": [choice], "usage": {"completion_tokens": tokens}})
    return ScriptedServer(lambda seen, number: Act(body=reply))


def test_servers_of_odd_replies(tmp_path: Path) -> None:
    """Half a surrogate pair is written as it is; a count of tokens below zero is no count."""
    suite = write_suite(tmp_path / "data", 3)
    given = ("--model", "m", "--suites", suite, "--n", 1, "--output")
    with odd_server("st\ud800p", 3) as server:
        found = command("eval", "--endpoint", server.url, *given, tmp_path / "a")
    assert found.exit_code == 0 and "ended by st?p" in found.output, found.output
    entry = read_results(tmp_path / "a")["suites"]["sums"]
    assert entry["n_samples"] == 3 and entry["truncated_fraction"] == 1.0, found.output
    with odd_server("stop", -5) as server:
        refused = command("eval", "--endpoint", server.url, *given, tmp_path / "b", "endpoint.max_retries=1")
    assert refused.exit_code == 1 and "no usage.completion_tokens" in refused.output
