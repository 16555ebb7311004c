"""`reasonrl pacore run` against a model server in a process of its own: order, kills, failures, growth."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.endpoints import EndpointClient
from reasonrl.pacore import Plan, Rounds, asking, run_rounds
from reasonrl.pacore.batch import Batch, Problem
from reasonrl.pacore.store import CallStore

sys.path.insert(0, str(Path(__file__).parent))
from upstream import Upstream, spoken


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def problems_file(folder: Path, count: int) -> Path:
    path = folder / "in.jsonl"
    lines = [
        json.dumps({"id": f"p{place}", "problem": f"What is {place} + 1?", "answer": place}) for place in range(count)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def command(upstream: Upstream, path: Path, out: Path, *more: str) -> list[str]:
    words = ["pacore", "run", str(path), "--out", str(out), "--endpoint", upstream.url, "--model", "toy"]
    return [*words, "--set", "max_retries=0", *(more or ("--rounds", "3,2"))]


def run(*words: str):
    return CliRunner().invoke(main, list(words))


def plain(rounds: tuple[int, ...], problem: str, seed: str) -> str:
    """The answer by a plain loop that shares nothing but the seeds and the prompt."""
    conversation = [{"role": "user", "content": problem}]
    state = Rounds(conversation, Plan(rounds=rounds), seed)
    from reasonrl.pacore import Answer

    while state.outcome is None:
        calls = state.calls()
        bodies = [{"messages": call.messages, "seed": call.seed, "temperature": 1.0} for call in calls]
        state.close([Answer(spoken(body, "tags")[0]) for body in bodies])
    return state.outcome.text


def test_results_do_not_depend_on_the_order_in_which_calls_end(upstream, tmp_path):
    path = problems_file(tmp_path, 6)
    said = []
    for turn, settings in enumerate(({}, {"seconds": 0.01, "jitter": 0.1})):
        upstream.set(**settings)
        done = run(*command(upstream, path, tmp_path / str(turn), *("--rounds", "3,2", "--set", "max_concurrency=5")))
        assert done.exit_code == 0, done.output
        said.append({row["id"]: row for row in rows(tmp_path / str(turn) / "results.jsonl")})
    assert said[0] == said[1] and len(said[0]) == 6
    for place in range(6):
        found = said[0][f"p{place}"]
        assert found["content"] == plain((3, 2), f"What is {place} + 1?", f"0 p{place}")
        assert found["columns"] == {"answer": str(place)} and [one["calls"] for one in found["rounds"]] == [3, 2, 1]
    assert upstream.stats()["seen"] == 6 * 6 and upstream.stats()["most"] <= 5


@pytest.mark.parametrize("kills_wanted", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kills_cost_at_most_what_was_under_way(upstream, tmp_path, kills_wanted):
    path, out = problems_file(tmp_path, 40), tmp_path / "killed"
    whole = run(*command(upstream, path, tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    upstream.set(seconds=0.02, jitter=0.03)
    words = [sys.executable, "-m", "reasonrl", *command(upstream, path, out), "--set", "max_concurrency=8"]
    kills, done = 0, 0
    while kills < kills_wanted:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        target = done + 8
        while process.poll() is None and done < target:
            time.sleep(0.01)
            done = (out / "calls.jsonl").read_bytes().count(b"\n") if (out / "calls.jsonl").exists() else 0
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills == kills_wanted
    (out / "calls.jsonl").open("ab").write(b'{"id": "half')  # what a kill in the middle of a line leaves
    last = run(*command(upstream, path, out))
    assert last.exit_code == 0, last.output
    found, expected = (
        sorted(rows(folder / "results.jsonl"), key=lambda row: row["id"]) for folder in (out, tmp_path / "whole")
    )
    assert found == expected
    calls = rows(out / "calls.jsonl")
    assert max(Counter((row["id"], row["round"], row["index"]) for row in calls).values()) == 1 and len(calls) == 240
    assert upstream.stats()["seen"] <= 240 + kills * 8


def test_a_finished_run_asks_nothing_and_a_grown_file_only_what_is_new(upstream, tmp_path):
    out = tmp_path / "run"
    assert run(*command(upstream, problems_file(tmp_path, 3), out)).exit_code == 0
    again = run(*command(upstream, problems_file(tmp_path, 3), out))
    assert again.exit_code == 0 and "0 calls made" in again.output
    before = upstream.stats()["seen"]
    assert run(*command(upstream, problems_file(tmp_path, 5), out)).exit_code == 0
    assert upstream.stats()["seen"] - before == 2 * 6 and len(rows(out / "results.jsonl")) == 5
    other = run(*command(upstream, problems_file(tmp_path, 5), out, "--rounds", "4"))
    assert other.exit_code == 2 and "rounds: there [3, 2], now [4]" in other.output
    moved = run(*command(upstream, problems_file(tmp_path, 5), out), "--set", "timeout=50")
    assert moved.exit_code == 0, moved.output


def test_failures_that_a_later_round_stands_on_stay_failures(upstream, tmp_path):
    path, out = problems_file(tmp_path, 12), tmp_path / "run"
    upstream.set(fail=0.25)
    first = run(*command(upstream, path, out, "--rounds", "6,2", "--tolerate", "0.5"))
    assert first.exit_code == 1 and "have none" in first.output, first.output
    results = {row["id"]: row for row in rows(out / "results.jsonl")}
    assert sum(one["failed"] for row in results.values() for one in row["rounds"]) > 0
    upstream.set(seconds=0.001)
    second = run(*command(upstream, path, out, "--rounds", "6,2", "--tolerate", "0.5"))
    assert second.exit_code == 0, second.output
    after = {row["id"]: row for row in rows(out / "results.jsonl")}
    assert len(after) == 12 and all(after[name] == row for name, row in results.items())
    # What had failed in a round that was closed was not asked again.
    kept = [row for row in rows(out / "calls.jsonl") if "error" in row]
    asked = Counter((row["id"], row["round"], row["index"], row["prompt_hash"]) for row in rows(out / "calls.jsonl"))
    assert kept and max(asked.values()) == 1


def test_wrong_keys_and_models_stop_the_run_at_once(upstream, tmp_path):
    upstream.set(fail=1.0, status=401)
    stopped = run(*command(upstream, problems_file(tmp_path, 30), tmp_path / "run"), "--set", "max_concurrency=2")
    assert stopped.exit_code == 1 and "401" in stopped.output
    assert upstream.stats()["seen"] <= 12 and not rows(tmp_path / "run" / "results.jsonl")


def test_a_prompt_too_long_for_the_server_is_asked_again_with_less(upstream, tmp_path):
    client = EndpointClient({"base_url": upstream.url, "model": "toy", "max_retries": 0})
    upstream.set(window=900)
    problem = [{"role": "user", "content": "What is 1 + 1?"}]
    outcome = client.run(run_rounds(Rounds(problem, Plan(rounds=(24,)), 0), asking(client, 1.0, 1.0)))
    last = outcome.rounds[-1]
    assert last.refits > 0 and last.shown + last.left_out == 24 and last.shown > 0 and outcome.text
    client.close()


def test_solo_answers_are_the_first_round_and_more(upstream, tmp_path):
    out = tmp_path / "run"
    done = run(*command(upstream, problems_file(tmp_path, 2), out, "--rounds", "3", "--solo", "8"))
    assert done.exit_code == 0, done.output
    calls = [row for row in rows(out / "calls.jsonl") if row["id"] == "p1" and row["round"] == 0]
    assert sorted(row["index"] for row in calls) == list(range(8)) and len({row["seed"] for row in calls}) == 8
    short = tmp_path / "short"
    assert run(*command(upstream, problems_file(tmp_path, 2), short, "--rounds", "3")).exit_code == 0
    assert {row["text"] for row in calls} >= {
        row["text"] for row in rows(short / "calls.jsonl") if row["id"] == "p1" and row["round"] == 0
    }
    assert rows(out / "results.jsonl")[0]["rounds"][0]["calls"] == 3


def test_other_forms_of_rows_and_the_papers_own(upstream, tmp_path):
    path = tmp_path / "in.jsonl"
    turns = [{"role": "system", "content": "Brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    path.write_text(
        "\n".join(json.dumps({"conversation": turns[k:], "ground_truth": "4", "category": "m"}) for k in (0, 1))
    )
    done = run(*command(upstream, path, tmp_path / "run", "--rounds", "2"))
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "run" / "results.jsonl")
    assert [row["columns"] for row in found] == [{"answer": "4", "ground_truth": "4", "category": "m"}] * 2
    assert upstream.stats()["bodies"][0]["messages"] in (turns, turns[1:])


def test_pictures_of_rows_go_along_in_every_round(upstream, tmp_path):
    from PIL import Image

    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"problem": "What is on <image> here?", "images": ["red.png"], "answer": "r"}))
    done = run(*command(upstream, path, tmp_path / "run", "--rounds", "2,1"))
    assert done.exit_code == 0, done.output
    seen = upstream.stats()["bodies"]
    assert len(seen) == 4
    for body in seen:
        before, picture, after = body["messages"][0]["content"]
        assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
        assert before["text"].endswith("What is on ") and after["text"].startswith(" here?")
    engine = run(
        "pacore",
        "run",
        str(path),
        "--out",
        str(tmp_path / "e"),
        "--engine",
        "vllm",
        "--model",
        "x",
        "--max-tokens",
        "3",
    )
    assert engine.exit_code == 2 and "has pictures" in engine.output


class Talker:
    """An engine that says something of the prompt and the seed."""

    def stream(self, requests, params):
        from reasonrl.rollout.engine import Sample

        for request in reversed(requests):
            text = f"<think>x</think>{sum(request.prompt_ids) % 97} {request.seed % 7}"
            yield Sample(request, (1, 2, 3), text, (), "stop", 0)

    def sync_weights(self, weights, version):
        raise NotImplementedError

    def close(self):
        pass


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_over_an_engine_of_ours(tmp_path, at_once):
    problems = [Problem(f"p{place}", [{"role": "user", "content": f"{place}?"}]) for place in range(7)]

    def once(name: str, at_once: int, some=problems):
        with CallStore(tmp_path / name, {"m": 1}) as store:
            batch = Batch(some, Plan(rounds=(4, 2)), store, solo=6)
            done = batch.over_engine(Talker(), lambda turns: turns[-1]["content"].encode(), 9, at_once)
        return done, {row["id"]: row for row in rows(tmp_path / name / "results.jsonl")}

    whole, all_at_once = once("whole", 50)
    assert whole.asked == 7 * (6 + 2 + 1) and whole.finished == 7
    once("parts", at_once, problems[:2])
    rest, found = once("parts", at_once)
    assert found == all_at_once and rest.asked == 5 * 9 and not rest.failed
