"""A suite from requests to figures: what is stored, what counts, resuming after kill -9, growing n."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from reasonrl.errors import DataError, RecipeError, RewardError, RunError
from reasonrl.eval.compare import suite_values
from reasonrl.eval.metrics import pass_at_k, proportion_interval
from reasonrl.eval.results import read_results
from reasonrl.eval.samples import key_of
from reasonrl.observe.records import read_records
from reasonrl.rollout.engine import SamplingParams

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, content, evaluate, problems
from eval_world import table as read_table


def test_figures_follow_from_the_stored_samples(tmp_path: Path) -> None:
    result = evaluate(tmp_path, count=100)
    table = read_table(tmp_path)
    assert len(table) == 500 and set(table["metric"]) == {"sample", "greedy"}
    sampled = table[table["metric"] == "sample"]
    # Independently: an answer is right if its box holds the sum, and counts only if it ended by itself.
    boxed = sampled["text"].str.extract(r"\\boxed\{(\d+)\}")[0]
    right = (boxed == sampled["answer"]) & (sampled["finish_reason"] == "stop")
    assert (right == sampled["correct"]).all() and 0.3 < right.mean() < 0.6
    means = right.groupby(sampled["id"]).mean()
    assert result.accuracy == proportion_interval(list(means[table["id"].unique()]))
    counts = right.groupby(sampled["id"]).sum()
    assert result.pass_at_k[2].value == pytest.approx(fmean(pass_at_k(4, int(count), 2) for count in counts))
    assert result.greedy.value == table[table["metric"] == "greedy"]["correct"].mean() and result.greedy.n == 100
    assert result.mean_length == pytest.approx(sampled["text"].str.len().clip(upper=50).mean())
    assert (
        result.truncated_fraction == pytest.approx((sampled["finish_reason"] == "length").mean())
        and result.truncated_fraction > 0
    )
    cut_right = (boxed == sampled["answer"]) & (sampled["finish_reason"] == "length")
    assert result.truncated_right_fraction == pytest.approx(cut_right.mean()) and cut_right.any()
    assert result.no_answer_fraction == pytest.approx(boxed.isna().mean()) and boxed.isna().any()
    assert (result.n_problems, result.n_samples, result.unscored, result.mean_score) == (100, 400, 0, None)
    assert result.accuracy.value < result.maj_at_n.value or result.maj_at_n.value > 0.4
    stored = read_results(tmp_path)["suites"]["sums"]
    told = {name: stored.pop(name) for name in ("grader", "warnings")}
    assert told["grader"] == 2 and any("truncated" in line for line in told["warnings"]) == (
        result.truncated_fraction >= 0.1
    )
    assert stored == json.loads(json.dumps(result.as_dict())) and stored["decoding"]["n"] == 4
    flat = result.metrics()
    assert flat["sums/accuracy"] == result.accuracy.value and flat["sums/pass@2_low"] == result.pass_at_k[2].low


def test_seeds_are_those_of_the_contract(tmp_path: Path) -> None:
    from reasonrl.rollout.seeds import sample_seed

    evaluate(tmp_path, count=3)
    table = read_table(tmp_path)
    row = table[(table["id"] == "p2") & (table["metric"] == "sample") & (table["index"] == 3)].iloc[0]
    assert row["seed"] == str(sample_seed(3, "evaluate", "sums", "p2", 3))
    assert table["seed"].is_unique


def test_kill_nine_in_the_middle_then_the_same_bytes(tmp_path: Path) -> None:
    evaluate(tmp_path / "whole")
    program = [sys.executable, str(Path(__file__).with_name("eval_world.py")), str(tmp_path / "broken")]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line.split()[0]) >= 75:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = tmp_path / "broken" / "sums"
    on_disk = {key_of(row) for name in ("samples", "unjudged") for row in read_records(folder / f"{name}.jsonl")}
    assert len(on_disk) >= 75 and not (tmp_path / "broken" / "results.json").exists()
    with (folder / "samples.jsonl").open("ab") as file:
        file.write(b'{"id": "p1", "metric": "sample", "ind')
    engine = SeededEngine()
    evaluate(tmp_path / "broken", engine=engine)
    assert len(engine.served) == 200 - len(on_disk)
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert not (folder / "unjudged.jsonl").exists()


def test_a_finished_suite_draws_nothing_and_a_larger_n_keeps_what_is_there(tmp_path: Path) -> None:
    evaluate(tmp_path / "grown", n=2)
    engine = SeededEngine()
    evaluate(tmp_path / "grown", n=2, engine=engine)
    assert engine.served == []
    evaluate(tmp_path / "grown", n=5, engine=engine)
    assert len(engine.served) == 40 * 3
    evaluate(tmp_path / "direct", n=5)
    assert content(tmp_path / "grown") == content(tmp_path / "direct")


def test_other_prompts_and_settings_are_refused(tmp_path: Path) -> None:
    evaluate(tmp_path)
    before = content(tmp_path)
    engine = SeededEngine()
    with pytest.raises(RunError, match=r"other settings \(template: there None, now '\{problem\} '\)"):
        evaluate(tmp_path, engine=engine, template="{problem} ")
    with pytest.raises(RunError, match=r"other settings \(temperature: there 1\.0, now 0\.7\)"):
        evaluate(tmp_path, engine=engine, params=SamplingParams(max_tokens=50, temperature=0.7))
    with pytest.raises(RunError, match="seed: there 3, now 4"):
        evaluate(tmp_path, engine=engine, seed=4)
    with pytest.raises(RunError, match="engine: there None, now 'vllm'"):
        evaluate(tmp_path, engine=engine, made_by={"engine": "vllm"})
    changed = [{**row, "problem": row["problem"].replace("?", "? ")} for row in problems(40)]
    with pytest.raises(RunError, match="samples of other prompts: 40 problems, such as 'p0', are asked otherwise now"):
        evaluate(tmp_path, engine=engine, rows=changed)
    assert engine.served == [] and content(tmp_path) == before


def test_another_process_may_not_write_there_too(tmp_path: Path) -> None:
    evaluate(tmp_path)
    with (tmp_path / "sums" / "samples.jsonl").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is being written by another process"):
            evaluate(tmp_path)
    evaluate(tmp_path)


def test_fewer_samples_report_on_those_alone_and_lose_none(tmp_path: Path) -> None:
    evaluate(tmp_path / "grown", n=4)
    engine = SeededEngine()
    few = evaluate(tmp_path / "grown", n=2, engine=engine)
    assert engine.served == [] and few == evaluate(tmp_path / "direct", n=2)
    assert len(read_table(tmp_path / "grown")) == 200
    for metric in ("accuracy", "pass@2"):
        assert suite_values(tmp_path / "grown", "sums", metric) == suite_values(tmp_path / "direct", "sums", metric)


def test_a_reward_that_fails_costs_no_sample(tmp_path: Path) -> None:
    broken = True

    def reward(prompts: Any, completions: Any, completion_ids: Any, answer: Any, **rest: Any) -> list[float]:
        if broken:
            raise OSError("the judge does not answer")
        assert all(
            len(ids) == len(text[0]["content"][:50]) for ids, text in zip(completion_ids, completions, strict=True)
        )
        return [float(gold in text[0]["content"]) for gold, text in zip(answer, completions, strict=True)]

    first, second = SeededEngine(), SeededEngine()
    with pytest.raises(OSError, match="the judge does not answer"):
        evaluate(tmp_path / "broken", engine=first, reward=reward)
    broken = False
    evaluate(tmp_path / "broken", engine=second, reward=reward)
    evaluate(tmp_path / "whole", reward=reward)
    assert len(first.served) + len(second.served) == 200 and len(first.served) >= 64
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_a_stop_at_a_safe_point_loses_nothing(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 30:
            raise Stop

    with pytest.raises(Stop):
        evaluate(tmp_path, at_safe_point=stop)
    engine = SeededEngine()
    evaluate(tmp_path, engine=engine)
    assert len(engine.served) == 170


def test_two_suites_share_one_results_file(tmp_path: Path) -> None:
    evaluate(tmp_path, suite_name="small", count=5, greedy=False)
    evaluate(tmp_path, suite_name="large", count=9)
    suites = read_results(tmp_path)["suites"]
    assert list(suites) == ["small", "large"]
    assert suites["small"]["greedy"] is None and suites["large"]["greedy"]["n"] == 9


def length_reward(
    prompts: list[object], completions: list[object], completion_ids: list[list[int]], answer: list[str], **rest: object
) -> list[float | None]:
    """Half a point for a boxed answer, one for the right one; nothing can be said of problem 4."""
    texts = [completion[0]["content"] for completion in completions]  # type: ignore[index]
    scores = [
        0.5 * ("boxed" in text) + 0.5 * (f"boxed{{{gold}}}" in text) for text, gold in zip(texts, answer, strict=True)
    ]
    return [None if gold == "16" else score for score, gold in zip(scores, answer, strict=True)]


def test_a_reward_function_gives_scores_and_what_it_cannot_score_is_counted(tmp_path: Path) -> None:
    ours = evaluate(tmp_path / "function", reward=length_reward)
    math = evaluate(tmp_path / "math")
    table = read_table(tmp_path / "function")
    assert ours.unscored == 5 and ours.accuracy.n == 39 and set(table[table["id"] == "p4"]["verdict"]) == {"unscored"}
    kept = read_table(tmp_path / "math").query("id != 'p4' and metric == 'sample'")
    assert ours.accuracy.value == pytest.approx(kept["correct"].mean())
    scored = table.query("id != 'p4' and metric == 'sample'")
    expected = scored["score"].where(scored["finish_reason"] == "stop", 0.0).mean()
    assert ours.mean_score.value == pytest.approx(expected) and ours.mean_score.value > ours.accuracy.value
    assert math.unscored == 0 and math.mean_score is None


def test_a_reward_function_that_breaks_its_contract_is_named(tmp_path: Path) -> None:
    with pytest.raises(RewardError, match="returned 0 scores for"):
        evaluate(tmp_path, reward=lambda **columns: [])


def test_what_cannot_be_measured_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    engine = SeededEngine()
    with pytest.raises(RecipeError, match=r"suites\.sums\.k: pass@8 needs at least 8 samples a problem, but n = 4"):
        evaluate(tmp_path, engine=engine, k=(1, 8))
    with pytest.raises(RecipeError, match="n = 4 samples at temperature 0 would all be the same"):
        evaluate(tmp_path, engine=engine, params=SamplingParams(max_tokens=50, temperature=0.0))
    with pytest.raises(DataError, match="has no problems"):
        evaluate(tmp_path, engine=engine, count=0)
    assert engine.served == [] and not (tmp_path / "sums").exists()


def test_importing_eval_does_not_import_torch() -> None:
    program = (
        "import sys, reasonrl.eval.run, reasonrl.eval.compare, reasonrl.eval.tables; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )


def test_a_reward_is_told_how_each_sample_ended(tmp_path: Path) -> None:
    evaluate(tmp_path, reward="stop")
    table = read_table(tmp_path)
    assert set(table["finish_reason"]) == {"stop", "length"}
    assert ((table["finish_reason"] == "stop") == (table["score"] == 1.0)).all()


def test_a_reward_that_cannot_use_the_rows_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    engine = SeededEngine()
    with pytest.raises(RewardError, match="reward"):
        evaluate(tmp_path, engine=engine, reward={"name": "route", "args": {"rewards": {"maths": "math"}}})
    assert engine.served == []


class Early:
    """A reward that notes what is begun, and what had been begun when it is called."""

    token_level = False
    __name__ = "early"

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.called: list[int] = []

    def begin(self, prompt, completion, row) -> None:
        self.begun.append((prompt[-1]["content"], completion[0]["content"], row["answer"], row["finish_reason"]))

    def __call__(self, prompts, completions, answer, finish_reason, **columns):
        self.called.append(len(self.begun))
        asked = [
            (prompt[-1]["content"], completion[0]["content"], *rest)
            for prompt, completion, *rest in zip(prompts, completions, answer, finish_reason, strict=True)
        ]
        assert asked == self.begun[-len(asked) :], "each sample was begun before, with what the call gives"
        return [float(gold in said) for _, said, gold, _ in asked]


def test_rewards_begin_while_samples_come(tmp_path: Path) -> None:
    reward = Early()
    result = evaluate(tmp_path, count=100, reward=reward)
    assert len(reward.begun) == result.n_samples + 100, "one a sample, the greedy ones too"
    assert reward.called[0] == 256, "the first batch's were all begun before the first call"
