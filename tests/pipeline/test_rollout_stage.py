"""The stage kind `rollout` in recipes: the engine's own samples, growth, a changed condition, logs, report, dry run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "eval"))
from command_world import serving, write_suite

from reasonrl.cli import main
from reasonrl.eval.rollouts.rows import read_rollouts
from reasonrl.observe.records import read_records
from reasonrl.recipe import load_recipe

SAMPLE: dict[str, Any] = {
    "kind": "rollout",
    "data": {"world": "reflective", "n": 6, "args": {"operations": [2, 4, 6]}, "template": "{problem} "},
    "n": 2,
    "max_tokens": 10,
    "rollout": {"batch_size": 5},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == status, result.output
    return result.output


def recipe(folder: Path, **stages: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "r", "model": "tiny:qwen2", "output": "run", "stages": stages}))
    return str(path)


def rows(folder: Path, stage: str = "sample") -> list[dict[str, Any]]:
    return list(read_rollouts(folder / "run" / "stages" / stage / "rollouts.parquet"))


def test_a_recipe_draws_grows_keeps_and_reports(folder: Path) -> None:
    path = recipe(folder, sample=SAMPLE)
    said = call("train", path, "--dry-run")
    assert "2 samples a problem at temperature 1" in said and not (folder / "run").exists()
    call("train", path)
    first = rows(folder)
    assert len(first) == 12 and all(row["length"] == len(row["logprobs_sampled"]) <= 10 for row in first)
    assert all(row["prompt"][0]["content"] == row["problem"] + " " for row in first)
    _scored_by_the_model(first)
    # Three a problem: those that are there stay; then another condition, which draws nothing.
    call("train", recipe(folder, sample={**SAMPLE, "n": 3}))
    grown = rows(folder)
    kept = {row["id"]: row for row in first}
    assert len(grown) == 18
    assert all(kept[row["id"]] | {"pass_rate": 0} == row | {"pass_rate": 0} for row in grown if row["id"] in kept)
    lengths = sorted(len(row["prompt_ids"]) for row in grown)
    keep = f"prompt_tokens > {lengths[0]} and pass_rate <= 1"
    said = call("train", recipe(folder, sample={**SAMPLE, "n": 3, "keep": keep}))
    assert "goes on from what is there" in said
    some = rows(folder)
    assert some == [row for row in grown if len(row["prompt_ids"]) > lengths[0]] and 0 < len(some) < 18
    attempts = read_records(folder / "run" / "stages" / "sample" / "attempts.jsonl")
    assert [attempt["samples"] for attempt in attempts] == [12, 6]
    done = json.loads((folder / "run" / "stages" / "sample" / "done.json").read_text())["result"]
    assert done["data"] == "rollouts.parquet" and done["metrics"]["drawn_samples"] == 18
    assert done["metrics"]["samples"] == len(some) and done["metrics"]["tokens_per_second"] > 0
    html = (folder / "run" / "report.html").read_text()
    assert "kept are problems with prompt_tokens" in html and "Tokens of the kept samples" in html
    assert (folder / "run" / "plots" / "sample_lengths.png").exists()
    said = call("train", recipe(folder, sample={**SAMPLE, "n": 3, "keep": "pass_rate > 1"}), status=1)
    assert "leaves none of the 6 problems" in said
    said = call("train", recipe(folder, sample={**SAMPLE, "n": 3, "temperature": 0.5}), status=2)
    assert "temperature: 1.0 -> 0.5" in said


def _scored_by_the_model(some: list[dict[str, Any]]) -> None:
    """`logprobs_sampled` against one forward pass over prompt and response."""
    import torch

    from reasonrl.models import load_policy

    model, tokenizer = load_policy("tiny:qwen2")
    for row in some[:4]:
        ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(row["prompt_ids"]) - 1 : -1].log_softmax(-1)
        told = logits.gather(1, ids[0, len(row["prompt_ids"]) :, None])[:, 0]
        assert torch.allclose(told, torch.tensor(row["logprobs_sampled"]), atol=1e-4)
        assert tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["text"]


def test_logs_of_elsewhere_become_rollouts(folder: Path) -> None:
    lines = [
        {"question": "1 + 1", "gold": "2", "answer_text": text, "why": end, "lane": lane}
        for lane, (text, end) in enumerate([("\\boxed{2}", "eos"), ("\\boxed{3}", "eos"), ("\\boxed{2", "length")])
    ]
    log = folder / "log.jsonl"
    log.write_text("\n".join(json.dumps(line) for line in [*lines, {"question": "1 + 1", "gold": "2", "why": "eos"}]))
    columns = {"problem": "question", "answer": "gold", "text": "answer_text", "finish_reason": "why"}
    stage = {"kind": "rollout", "logs": {"path": "log.jsonl", "columns": columns}, "keep": "n_correct > 0"}
    path = recipe(folder, sample=stage)
    said = call("train", path, "--dry-run")
    assert "of the first 4 samples 3 can be used" in said and "log.jsonl:4: text: there is no response" in said
    call("train", path)
    found = rows(folder)
    assert [row["correct"] for row in found] == [True, False, False] and [row["lane"] for row in found] == [0, 1, 2]
    assert all(row["completion_ids"] and row["prompt_ids"] for row in found)
    assert (folder / "run" / "stages" / "sample" / "set_aside.jsonl").exists()
    refusing = recipe(folder, sample={**stage, "damaged": "refuse"})
    assert "log.jsonl:4: text: there is no response" in call("train", refusing, "output=other", status=1)


def test_a_server_answers_and_its_price_is_told(folder: Path) -> None:
    """Real HTTP; token ids by the named tokenizer; a second try asks for what is missing alone."""
    from reasonrl.models import load_tokenizer

    write_suite(folder, 12)
    tokenizer = load_tokenizer("tiny:qwen2")
    with serving() as server:
        price = {"price": {"input": 1.0, "output": 2.0}}
        stage = {
            "kind": "rollout",
            "data": {"path": "sums.jsonl"},
            "endpoint": {"base_url": server.url, "model": "served", **price},
            "tokenizer": "tiny:qwen2",
            "n": 2,
            "max_tokens": 64,
        }
        call("train", recipe(folder, sample=stage))
        call("train", recipe(folder, sample={**stage, "n": 3}))
        assert len(server.seen) == 36 == len({(seen.prompt, seen.body["seed"]) for seen in server.seen})
    found = rows(folder)
    told = json.loads((folder / "run" / "stages" / "sample" / "statistics.json").read_text())
    assert told["without"] == {"ids": 0, "logprobs": 36, "length": 0} and told["speed"]["requests"] == 36
    said = read_records(folder / "run" / "stages" / "sample" / "samples" / "samples.jsonl")
    assert told["speed"]["cost"] == pytest.approx((36 * 9 + 2 * sum(row["length"] for row in said)) / 1e6)
    for row in found:
        assert tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["text"]
        assert (row["completion_ids"][-1] == tokenizer.eos_token_id) == (row["finish_reason"] == "stop")
        assert row["length"] == len(row["completion_ids"]) and row["prompt_ids"]
        right = f"so it is \\boxed{{{row['answer']}}}" in row["text"]
        assert row["correct"] == (row["finish_reason"] == "stop" and right)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": None}, "stages.sample.n: is missing"),
        ({"max_tokens": None}, "stages.sample.max_tokens: is missing"),
        ({"keep": "0 < pass_rat < 1"}, "did you mean 'pass_rate'"),
        ({"temperature": 0.0}, "all samples at temperature 0 would be the same"),
        ({"tokenizer": "tiny:qwen2"}, "is read with an endpoint or logs only"),
        ({"logs": {"world": "arithmetic", "n": 4}}, "which means nothing for logs"),
        ({"import": {"path": "x"}}, "did you mean 'logs'"),
        ({"rollout": {"own_copy": True}}, "means something in training only"),
        ({"logs": {"path": "none.jsonl"}}, "there is no file or folder 'none.jsonl'"),
    ],
)
def test_recipes_that_cannot_be(folder: Path, change: dict[str, Any], words: str) -> None:
    from reasonrl.errors import RecipeError

    with pytest.raises(RecipeError) as wrong:
        load_recipe(recipe(folder, sample={**SAMPLE, **change}))
    assert words in str(wrong.value)
