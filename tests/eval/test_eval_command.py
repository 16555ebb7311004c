"""`reasonrl eval` over a real server: what is asked, what is written, refusals, growth, kill -9."""

from __future__ import annotations

import base64
import io
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

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from command_world import Act, ScriptedServer, body, serving, write_suite
from eval_world import content

from reasonrl.endpoints import EndpointError
from reasonrl.errors import ModelError, RecipeError, RunError
from reasonrl.eval.results import read_results
from reasonrl.eval.samples import read_problems, read_samples
from reasonrl.observe.records import read_records
from reasonrl.pipeline.eval_command import evaluate_model
from reasonrl.rollout.endpoint_engine import ChatRequest, EndpointEngine
from reasonrl.rollout.engine import Request, SamplingParams
from reasonrl.rollout.seeds import sample_seed

CONCURRENCY = 8


@pytest.fixture(autouse=True)
def one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graders' processes stay for the whole file: each start costs seconds."""
    monkeypatch.setattr("reasonrl.rewards.pool.close_shared_pools", lambda: None)


def run(folder: Path, server: ScriptedServer, *overrides: str, **options: Any) -> list[str]:
    """Evaluates; what was said."""
    lines: list[str] = []
    suites = options.pop("suites", str(folder / "sums.yaml"))
    settings = {"output": folder / "out", "endpoint": [server.url]} | options
    evaluate_model(settings.pop("model", "served"), suites, overrides, say=lines.append, **settings)
    return lines


def test_what_is_asked_and_what_is_written(tmp_path: Path) -> None:
    write_suite(tmp_path)
    with serving() as server:
        lines = run(tmp_path, server, "endpoint.extra_body={top_k: 20}")
    folder = tmp_path / "out" / "sums"
    rows, problems = read_samples(folder), read_problems(folder)
    assert len(rows) == len(server.seen) == 60 and list(problems) == [f"p{index}" for index in range(30)]
    asked = {(seen.prompt, seen.body["seed"]): seen.body for seen in server.seen}
    for row in rows:
        seed = sample_seed(0, "eval", "sums", row["id"], row["index"])
        assert row["seed"] == str(seed) and row["prompt_hash"] == problems[row["id"]]["prompt_hash"]
        sent = asked[problems[row["id"]]["prompt"], seed & (2**63 - 1)]
        assert (sent["temperature"], sent["max_tokens"], sent["top_k"], sent["model"]) == (0.8, 64, 20, "served")
        sent_seed = sent["seed"]
        answer = int(problems[row["id"]]["answer"]) + (sent_seed % 10 >= 6)
        ending = "length" if sent_seed % 11 == 0 else "content_filter" if sent_seed % 23 == 0 else "stop"
        assert row["extracted"] == str(answer) and row["right"] == (sent_seed % 10 < 6), "the thinking is left aside"
        assert row["text"].startswith("<think>") == (sent_seed % 7 == 0)
        assert row["finish_reason"] == ending and row["correct"] == (row["right"] and ending == "stop")
        assert row["length"] == len(row["text"].rpartition("</think>")[2]) and row["verdict"] and row["reason"]
        assert row["class"] == ("right" if row["right"] else f"= {answer}") and row["grader"] == 2
    entry = read_results(tmp_path / "out")["suites"]["sums"]
    assert entry["accuracy"]["value"] == pytest.approx(sum(row["correct"] for row in rows) / 60)
    assert any("ended by content_filter" in line for line in entry["warnings"])
    table = "\n".join(lines)
    assert "sums" in table and f"{100 * entry['accuracy']['value']:.1f} [" in table and "content_filter" in table
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["versions"]["reasonrl"]
    assert not (folder / "unjudged.jsonl").exists()


def test_a_limited_run_is_marked_and_grows_to_the_whole(tmp_path: Path) -> None:
    write_suite(tmp_path)
    with serving() as server:
        lines = run(tmp_path, server, limit=5)
        entry = read_results(tmp_path / "out")["suites"]["sums"]
        assert entry["limited"] == {"problems": 5, "of": 30} and "sums (limited)" in "\n".join(lines)
        assert any("not the suite's figure" in line for line in entry["warnings"]) and len(server.seen) == 10
        run(tmp_path, server)
        assert "limited" not in read_results(tmp_path / "out")["suites"]["sums"] and len(server.seen) == 60
        run(tmp_path, server, "sums.n=5")
        assert len(server.seen) == 150 and len({seen.body["seed"] for seen in server.seen}) == 150
        run(tmp_path, server, n=5, output=tmp_path / "direct")
    assert content(tmp_path / "out") == content(tmp_path / "direct")


def test_what_must_not_be_mixed_is_refused_with_the_difference(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    with serving() as server:
        run(tmp_path, server)
        before, asked = content(tmp_path / "out"), len(server.seen)
        for options, message in (
            ({"model": "other"}, "model: there 'served', now 'other'"),
            ({"seed": 1}, "seed: there 0, now 1"),
            ({"overrides": ["temperature=0.7"]}, "temperature: there 0.8, now 0.7"),
            ({"overrides": ["endpoint.extra_body={top_k: 5}"]}, r"extra_body: there \{\}, now \{'top_k': 5\}"),
            ({"max_tokens": 65}, "max_tokens: there 64, now 65"),
            (
                {"overrides": ["sums.template='{problem} Go.'"]},
                r"template: there '\{problem\}', now '\{problem\} Go\.'",
            ),
        ):
            with pytest.raises(RunError, match=message):
                run(tmp_path, server, *options.pop("overrides", ()), **options)
        (suite.parent / "sums.jsonl").write_text(
            (suite.parent / "sums.jsonl").read_text().replace("3 + 9 =", "9 + 3 =")
        )
        with pytest.raises(RunError, match="1 problems, such as 'p3', are asked otherwise now"):
            run(tmp_path, server)
        assert len(server.seen) == asked and content(tmp_path / "out") == before


def test_wrong_arguments_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    write_suite(tmp_path)
    with serving() as server:
        for overrides, options, message in (
            (["temperatur=1"], {}, "did you mean 'temperature'"),
            (["sums.nn=1"], {}, "is no setting of a suite"),
            (["n"], {}, "write KEY=VALUE"),
            (["endpoint.max_concurency=3"], {}, "endpoint.max_concurency.*max_concurrency"),
            (["rollout.batch_size=3"], {}, "rollout.batch_size.*belongs to an engine of this machine"),
            (["endpoint.model=3"], {"model": None}, "endpoint.model"),
            ([], {"engine": "vllm"}, "--engine.*an endpoint answers"),
            ([], {"suites": "math5000"}, "math500"),
            ([], {"suites": " , "}, "names no suite"),
            ([], {"model": None, "endpoint": []}, "model: is missing"),
        ):
            with pytest.raises(RecipeError, match=message):
                run(tmp_path, server, *overrides, **options)
        assert server.seen == [] and not (tmp_path / "out").exists()


def test_a_server_that_fails_for_good_ends_the_run_and_costs_no_sample(tmp_path: Path) -> None:
    write_suite(tmp_path)

    def script(seen: Any, number: int) -> Act:
        return Act(body=body(seen)) if number < 25 else Act(status=400, body='{"error": "no such seed"}')

    with ScriptedServer(script) as server:
        with pytest.raises(EndpointError, match=r'sample \["p\d+", "sample", \d\].*no such seed'):
            run(tmp_path, server, "endpoint.max_concurrency=4")
        assert len(server.seen) <= 25 + 2 * 4
    kept = read_records(tmp_path / "out" / "sums" / "unjudged.jsonl")
    assert len(kept) >= 25 - 2 * 4
    with serving() as server:
        run(tmp_path, server)
        assert len(server.seen) == 60 - len(kept)


def test_a_server_without_usage_is_refused(tmp_path: Path) -> None:
    write_suite(tmp_path)
    with (
        ScriptedServer(lambda seen, number: Act(usage=False)) as server,
        pytest.raises(EndpointError, match=r"no usage\.completion_tokens"),
    ):
        run(tmp_path, server)


def test_pictures_go_out_as_data_urls_in_their_places() -> None:
    images = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    parts = [
        {"type": "text", "text": "Compare "},
        {"type": "image"},
        {"type": "text", "text": " and "},
        {"type": "image"},
    ]
    turns = ({"role": "system", "content": "Look."}, {"role": "user", "content": parts})
    request = ChatRequest("a", (), 2**64 - 1, images=tuple(images), messages=turns)
    with ScriptedServer() as server:
        engine = EndpointEngine({"base_url": server.url, "model": "m"})
        (sample,) = engine.stream([request], SamplingParams(9, 0.5))
        with pytest.raises(ModelError, match="request 'b' has 1 images and 2 places"):
            list(engine.stream([ChatRequest("b", (), 1, images=(images[0],), messages=turns)], SamplingParams(9)))
        with pytest.raises(ModelError, match="has no messages"):
            list(engine.stream([Request("c", (1,), 1)], SamplingParams(9)))
        with pytest.raises(ModelError, match="cannot take weights"):
            engine.sync_weights([], 1)
        engine.close()
    assert (sample.text, sample.length, sample.finish_reason) == ("ok", 5, "stop")
    (seen,) = server.seen
    system, user = seen.body["messages"]
    assert system == {"role": "system", "content": "Look."} and seen.body["seed"] == 2**63 - 1
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url"]
    urls = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    for url, image in zip(urls, images, strict=True):
        found = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
        assert found.tobytes() == image.tobytes() and found.size == (3, 2)


def test_kill_nine_twice_at_random_moments_then_the_unbroken_result(tmp_path: Path) -> None:
    write_suite(tmp_path, 60)
    draw = random.Random()
    with serving(seconds=0.04) as server:
        command = [sys.executable, "-m", "reasonrl", "eval", "--model", "served", "--endpoint", server.url]
        command += ["--suites", str(tmp_path / "sums.yaml"), "--output", str(tmp_path / "out"), "--n", "4"]
        command += [f"endpoint.max_concurrency={CONCURRENCY}"]
        for turn in range(2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            there, end = len(server.seen), time.monotonic() + 60
            while len(server.seen) == there and process.poll() is None and time.monotonic() < end:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.5))
            assert process.poll() is None, "it was killed while it ran"
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert not (tmp_path / "out" / "results.json").exists(), turn
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "sums" in done.stdout, done.stderr
        counts = Counter((seen.prompt, seen.body["seed"]) for seen in server.seen)
        assert len(counts) == 240, "every sample was asked for"
        # Under way are the calls begun and not yet handed over: at most twice the concurrency.
        assert sum(counts.values()) - 240 <= 2 * 2 * CONCURRENCY
        run(tmp_path, server, n=4, output=tmp_path / "whole")
    rows = read_records(tmp_path / "out" / "sums" / "samples.jsonl")
    assert len(rows) == 240 == len({(row["id"], row["metric"], row["index"]) for row in rows})
    assert content(tmp_path / "out") == content(tmp_path / "whole")


RECIPE = """
recipe: served
output: {output}
stages:
  exam:
    kind: eval
    suites: [{suites}]
    n: 2
    endpoint: {{base_url: "{url}", model: served}}
"""


def test_a_recipe_evaluates_a_model_behind_an_endpoint(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    with serving() as server:
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE.format(output=tmp_path / "run", suites=suite, url=server.url))
        command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", str(recipe)]
        for expected in ("exam", "skipped"):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0 and expected in done.stdout + done.stderr, done.stderr
        assert len(server.seen) == 60
        # Where the server stands does not make it another evaluation; which model answers does.
        moved = [*command, "stages.exam.endpoint.base_url=http://127.0.0.1:1/v1"]
        assert "skipped" in subprocess.run(moved, capture_output=True, text=True, timeout=120).stdout
        other = subprocess.run([*command, "stages.exam.endpoint.model=b"], capture_output=True, text=True, timeout=120)
        assert other.returncode != 0 and "endpoint.model" in other.stdout + other.stderr
    assert len(read_samples(tmp_path / "run" / "stages" / "exam" / "sums")) == 60
