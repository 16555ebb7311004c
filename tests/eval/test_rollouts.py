"""Samples kept for training: every row against its request, kills, a larger n, what is kept and what is told."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import CharacterTokenizer, problems
from rollout_world import LoggedEngine, content, gather, logprob, rows_of

from reasonrl.errors import DataError, RunError
from reasonrl.eval.rollouts.figures import Figures, group_figures
from reasonrl.eval.rollouts.rows import COLUMNS
from reasonrl.expressions import ExpressionError
from reasonrl.observe.records import read_records
from reasonrl.recipe.rollout_stage import GROUP_FIGURES
from reasonrl.rollout.engine import Request, SamplingParams
from reasonrl.rollout.seeds import sample_seed


def test_every_row_is_what_its_request_gives(tmp_path: Path) -> None:
    """Against an engine asked by hand for the sample of each id and index."""
    asked = [{**row, "level": number % 3, "source": "made", "tags": ["a"]} for number, row in enumerate(problems(20))]
    rows = rows_of(gather(tmp_path, rows=asked, n=3))
    assert [(row["problem_id"], row["index"]) for row in rows] == [(f"p{k}", i) for k in range(20) for i in range(3)]
    assert list(rows[0]) == [*COLUMNS, "level", "source"]
    for row in rows:
        number = int(row["problem_id"][1:])
        seed = sample_seed(3, "sample", "samples", row["problem_id"], row["index"])
        prompt = asked[number]["problem"] + "\n\n"
        assert row["prompt_ids"] == list(map(ord, prompt)) and row["seed"] == str(seed)
        sample = LoggedEngine()._sample(Request("", tuple(row["prompt_ids"]), seed), SamplingParams(60))
        assert row["text"] == sample.text and row["completion_ids"] == list(sample.token_ids)
        told = [float(np.float32(logprob(seed, place))) for place in range(len(sample.token_ids))]
        assert row["logprobs_sampled"] == told and row["length"] == len(told)
        right = f"\\boxed{{{4 * number}}}" in sample.text
        assert row["correct"] == (right and sample.finish_reason == "stop") == (row["reward"] == 1.0)
        assert (row["level"], row["source"], row["answer"]) == (number % 3, "made", str(4 * number))
        assert row["id"] == f"{row['problem_id']}#{row['index']}"
    by_problem = [[row for row in rows if row["problem_id"] == name] for name in {row["problem_id"] for row in rows}]
    assert all(row["pass_rate"] == sum(one["correct"] for one in some) / 3 for some in by_problem for row in some)


def test_a_kill_at_any_moment_costs_nothing(tmp_path: Path) -> None:
    """kill -9 while samples come, four times; then the file of an unbroken run, byte by byte."""
    whole = gather(tmp_path / "whole")
    command = [sys.executable, str(Path(__file__).parent / "rollout_world.py"), str(tmp_path / "killed")]
    arrived = tmp_path / "killed" / "samples" / "unjudged.jsonl"
    samples = tmp_path / "killed" / "samples" / "samples.jsonl"
    for kill in range(4):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(random.uniform(0, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with samples.open("ab") as file:
            file.write(b'{"id": "p1", "metric": "sam' * (kill % 2))  # half a line, as a kill may leave it
    known = {key(row) for path in (samples, arrived) for row in read_records(path)}
    assert 0 < len(known) < 120
    engine = LoggedEngine()
    again = gather(tmp_path / "killed", engine=engine)
    assert len(engine.served) == 120 - len(known) and not arrived.exists()
    assert content(tmp_path / "killed") == content(tmp_path / "whole") and len(rows_of(again)) == len(rows_of(whole))


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["id"], row["index"]


def test_a_larger_n_keeps_what_there_is(tmp_path: Path) -> None:
    gather(tmp_path / "grown", n=2)
    engine = LoggedEngine()
    gather(tmp_path / "grown", n=5, engine=engine)
    assert len(engine.served) == 30 * 3
    gather(tmp_path / "whole", n=5)
    assert content(tmp_path / "grown") == content(tmp_path / "whole")
    speed = json.loads((tmp_path / "grown" / "statistics.json").read_text())["speed"]
    assert speed["attempts"] == 2 and speed["samples"] == 150
    assert speed["response_tokens"] == sum(
        row["length"] for row in read_records(tmp_path / "grown/samples/samples.jsonl")
    )


def test_keep_chooses_among_problems_and_may_change(tmp_path: Path) -> None:
    everything = rows_of(gather(tmp_path, n=4))
    rates = {row["problem_id"]: row["pass_rate"] for row in everything}
    engine = LoggedEngine()
    collected = gather(tmp_path, n=4, keep="0 < pass_rate < 1", engine=engine)
    kept = rows_of(collected)
    assert not engine.served and kept == [row for row in everything if 0 < rates[row["problem_id"]] < 1]
    assert 0 < len(kept) < len(everything)
    told = collected.statistics
    assert told["problems"] * 4 == told["samples"] == len(kept) and told["before_keep"]["problems"] == 30
    assert told["pass_rate"]["mixed"] == told["problems"] and told["keep"] == "0 < pass_rate < 1"
    long = rows_of(gather(tmp_path, n=4, keep="mean_tokens > 20 and n_truncated == 0"))
    for name in rates:
        some = [row for row in everything if row["problem_id"] == name]
        chosen = np.mean([row["length"] for row in some]) > 20 and all(row["finish_reason"] == "stop" for row in some)
        assert [row for row in long if row["problem_id"] == name] == (some if chosen else [])
    with pytest.raises(DataError, match="leaves none of the 30 problems"):
        gather(tmp_path, n=4, keep="n > 4")
    with pytest.raises(ExpressionError, match="asks for 'colour'"):
        gather(tmp_path, n=4, keep="colour > 4")
    # What was there before a failure is still there.
    assert rows_of(gather(tmp_path, n=4)) == everything


def test_statistics_are_those_of_the_rows(tmp_path: Path) -> None:
    collected = gather(tmp_path, n=4)
    rows, told = rows_of(collected), collected.statistics
    assert told == json.loads((tmp_path / "statistics.json").read_text())
    lengths = [row["length"] for row in rows]
    assert told["lengths"]["all"]["mean"] == pytest.approx(np.mean(lengths))
    assert told["lengths"]["all"]["median"] == np.median(lengths) and told["lengths"]["all"]["max"] == max(lengths)
    assert told["lengths"]["right"]["samples"] == sum(row["correct"] for row in rows) == told["right"]
    assert told["response_tokens"] == sum(lengths) and told["prompt_tokens"] == sum(len(r["prompt_ids"]) for r in rows)
    assert told["truncated"] == sum(row["finish_reason"] == "length" for row in rows)
    assert told["verdicts"] == dict(sorted(Counter(row["verdict"] for row in rows).items()))
    rates = Counter(row["pass_rate"] for row in rows)
    assert [(entry["low"], entry["problems"]) for entry in told["pass_rate"]["histogram"]] == [
        (rate, rates[rate] / 4) for rate in (0, 0.25, 0.5, 0.75, 1)
    ]
    flat = [value for row in rows for value in row["logprobs_sampled"]]
    assert told["mean_logprob_sampled"] == pytest.approx(np.mean(flat), rel=1e-6)
    histogram = told["length_histogram"]
    assert sum(histogram["right"]) == told["right"] and sum(histogram["wrong"]) == told["wrong"]
    assert told["without"] == {"ids": 0, "logprobs": 0, "length": 0}
    examples = read_records(tmp_path / "examples.jsonl")
    assert {row["verdict"] for row in examples} == set(told["verdicts"]) and len(examples) <= 2 * len(told["verdicts"])


def test_figures_of_a_group_are_those_that_keep_may_ask_for() -> None:
    row = {"correct": True, "reward": 1.0, "length": 4, "finish_reason": "stop", "prompt_ids": [1, 2]}
    assert set(group_figures([row, {**row, "correct": False}])) == set(GROUP_FIGURES)
    lost = {"correct": None, "reward": None, "length": None, "finish_reason": "unknown", "prompt_ids": None}
    assert group_figures([lost]) == {"n": 1, "n_correct": 0, "n_wrong": 0, "n_unscored": 1, "n_truncated": 0}


def test_samples_that_cannot_be_scored_are_counted_and_not_taken_for_wrong(tmp_path: Path) -> None:
    def reward(completions: list[Any], **columns: Any) -> list[float | None]:
        return [None if "too hard" in one[-1]["content"] else 0.5 for one in completions]

    collected = gather(tmp_path, n=6, reward=reward)
    rows, told = rows_of(collected), collected.statistics
    hard = [row for row in rows if "too hard" in row["text"]]
    assert hard and all(row["correct"] is None and row["reward"] is None for row in hard)
    assert told["unscored"] == len(hard) == told["lengths"]["unscored"]["samples"]
    scored = [row for row in rows if row not in hard]
    assert all(row["reward"] == (0.0 if row["finish_reason"] == "length" else 0.5) for row in scored)
    assert {row["reward"] for row in scored} == {0.0, 0.5}
    assert told["right"] == 0 and told["wrong"] == len(rows) - len(hard)


def test_an_engine_that_gives_text_alone(tmp_path: Path) -> None:
    """Ids come from a tokenizer where one is given; log-probabilities are missing, and counted."""

    class TextEngine(LoggedEngine):
        def _sample(self, request: Request, params: SamplingParams) -> Any:
            from reasonrl.rollout.endpoint_engine import TextSample

            sample = super()._sample(request, params)
            return TextSample(request, (), sample.text, (), sample.finish_reason, 0, tokens=sample.length)

    class Ending(CharacterTokenizer):
        eos_token_id = 3

    bare = gather(tmp_path, engine=TextEngine())
    assert bare.statistics["without"] == {"ids": 120, "logprobs": 120, "length": 0}
    told = rows_of(gather(tmp_path, engine=TextEngine(), texts=Ending()))
    for row in told:
        stop = [3] * (row["finish_reason"] == "stop")
        assert row["completion_ids"] == [*map(ord, row["text"]), *stop] and row["logprobs_sampled"] is None


def test_other_settings_are_not_mixed_and_damage_is_named(tmp_path: Path) -> None:
    gather(tmp_path, n=2)
    with pytest.raises(RunError, match="seed: there 3, now 4"):
        gather(tmp_path, n=2, seed=4)
    samples = tmp_path / "samples" / "samples.jsonl"
    samples.write_bytes(samples.read_bytes().replace(b'"metric"', b'"metrik"', 1))
    with pytest.raises(RunError, match="line 1"):
        gather(tmp_path, n=2)


def test_little_is_held_in_memory(tmp_path: Path) -> None:
    """Tokens and log-probabilities of samples that are stored are not, and the first copies on the disk go away."""

    class Watching(LoggedEngine):
        def stream(self, requests: Any, params: SamplingParams) -> Any:
            for number, sample in enumerate(super().stream(requests, params)):
                if number % 50 == 49:
                    sizes.append((tmp_path / "samples" / "unjudged.jsonl").stat().st_size)
                yield sample

    sizes: list[int] = []
    import reasonrl.eval.drawing as drawing

    gather(tmp_path, n=30, engine=Watching())
    line = (tmp_path / "samples" / "samples.jsonl").stat().st_size / 900
    assert len(sizes) == 18 and max(sizes) < (drawing.JUDGE_SAMPLES + 1) * line


def test_sums_over_problems_of_several_sizes() -> None:
    figures = Figures()
    base = {"verdict": "x", "finish_reason": "stop", "completion_ids": None, "logprobs_sampled": None}
    for correct in ([True, False], [True] * 3, [None, None], [False, True, None]):
        figures.add([{**base, "correct": one, "length": 5, "prompt_ids": None} for one in correct])
    told = figures.summary()
    assert told["pass_rate"]["mean"] == pytest.approx((0.5 + 1 + 0.5) / 3) and told["accuracy"] == 5 / 7
    assert (told["pass_rate"]["mixed"], told["pass_rate"]["all_right"], told["pass_rate"]["unscored"]) == (2, 1, 1)
    bins = {entry["low"]: entry["problems"] for entry in told["pass_rate"]["histogram"] if entry["problems"]}
    assert bins == {0.5: 2, 0.95: 1} and told["unscored"] == 3
