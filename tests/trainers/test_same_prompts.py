"""SFT, rollouts and evaluation see byte-equal prompts, and a model stops where its training stopped."""

from __future__ import annotations

import pytest

from reasonrl.models import load_tokenizer
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe
from reasonrl.rollout.transformers_engine import TransformersEngine
from reasonrl.trainers import sft

RECIPE = r"""
recipe: same
model: tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1
data:
  rows: {path: rows.jsonl, system_prompt: "Be brief — é.", template: "{problem}\nAnswer in \\boxed{}."}
stages:
  cold: {kind: sft, data: "${data.rows}", max_steps: 150, per_device_train_batch_size: 8, learning_rate: 1.0e-2}
  rl:
    kind: ppo
    model: ${stage:cold}
    data: ${data.rows}
    reward: math
    prompts_per_step: 8
    max_completion_length: 24
    max_steps: 1
    learning_rate: 0.0
  exam: {kind: eval, model: "${stage:rl}", suites: {all: {data: "${data.rows}", n: 1, max_tokens: 24}}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    (folder / "rows.jsonl").write_text(
        "".join(
            f'{{"id": "r{i}", "problem": "  What is {i} plus {i}?\\n", "answer": "{2 * i}",'
            f' "solution": "It is \\\\boxed{{{2 * i}}}"}}\n'
            for i in range(8)
        )
    )
    (folder / "recipe.yaml").write_text(RECIPE)
    seen = {"sft": [], "engine": [], "samples": []}
    stream, build = TransformersEngine.stream, sft.build_examples

    def recording_stream(self, requests, params):
        seen["engine"].append([list(request.prompt_ids) for request in requests])
        for sample in stream(self, requests, params):
            seen["samples"].append(sample)
            yield sample

    def recording_build(*inputs, **settings):
        examples = build(*inputs, **settings)
        seen["sft"].append(examples)
        return examples

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(TransformersEngine, "stream", recording_stream)
        patch.setattr(sft, "build_examples", recording_build)
        seen["summary"] = train(load_recipe("recipe.yaml"))
    return seen


def test_prompts_are_byte_equal(run):
    learned = sorted(
        [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        for row in run["sft"][0].rows
    )
    rolled_out, graded = (sorted(prompts) for prompts in run["engine"])
    assert learned == rolled_out == graded
    tokenizer = load_tokenizer("tiny:qwen2")
    texts = [tokenizer.decode(ids) for ids in learned]
    assert texts[0] == (
        "<|im_start|>system\nBe brief — é.<|im_end|>\n<|im_start|>user\n  What is 0 plus 0?\n\n"
        "Answer in \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )


def test_training_ends_with_the_token_that_ends_a_sample(run):
    tokenizer = load_tokenizer("tiny:qwen2")
    for row in run["sft"][0].rows:
        assert row["labels"][-1] == tokenizer.eos_token_id
        assert row["labels"].count(tokenizer.eos_token_id) == 1


def test_a_trained_model_stops(run):
    stopped = [sample for sample in run["samples"] if sample.finish_reason == "stop"]
    assert len(stopped) >= 0.8 * len(run["samples"])
    assert all(sample.text.endswith("}") for sample in stopped)
