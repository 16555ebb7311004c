"""The arithmetic of gpu24.md, from the model's real sizes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import Qwen2Config

from reasonrl.models.lora import Lora
from reasonrl.models.memory import (
    Parameters,
    cache_bytes_per_token,
    checkpointed_activation_bytes,
    count_parameters,
    training_bytes,
)
from reasonrl.recipe import load_recipe

PAGE = Path(__file__).resolve().parents[2] / "recipes" / "gpu24.md"
CARD = 24 * 2**30
#: Qwen2.5-1.5B's published config.json.
QWEN = Qwen2Config(
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_hidden_layers=28,
    num_attention_heads=12,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def test_what_the_page_adds_up_is_what_the_recipe_asks_for_and_fits(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "What is 1 + 1?", "answer": "2"}')
    stage = load_recipe("gpu24", [f"data.train.path={tmp_path / 'rows.jsonl'}"]).recipe.stages["rl"]
    assert stage.lora == stage.critic_lora and stage.bf16 and stage.gradient_checkpointing
    found = count_parameters(QWEN, Lora.of(stage.lora))
    linear = 2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)  # q, o; k, v; gate, up, down
    assert found.trained == 28 * stage.lora.r * linear == 36_929_536
    assert found.frozen == 1_543_714_304
    sizes = {
        "policy": 2 * found.frozen,
        "critic": 2 * found.frozen,
        "adapters": 2 * 16 * found.trained,
        "activations": checkpointed_activation_bytes(QWEN, stage.tokens_per_microbatch),
        "log-probabilities": 1e9,
        "vLLM": stage.rollout.gpu_memory_utilization * CARD,
        "CUDA": 1.5e9,
    }
    assert sizes["policy"] + sizes["adapters"] / 2 == training_bytes(found, base="bfloat16")
    page = PAGE.read_text()
    for name, size in sizes.items():
        row = re.search(rf"^\| {name}.*\| ([\d.]+) \|$", page, re.MULTILINE)
        assert row is not None and float(row[1]) == pytest.approx(size / 1e9, abs=0.006), name
    total = re.search(r"^\| sum \| \| ([\d.]+) \|$", page, re.MULTILINE)
    assert total is not None and float(total[1]) == pytest.approx(sum(sizes.values()) / 1e9, abs=0.02)
    assert sum(sizes.values()) < 0.9 * CARD
    tokens = (sizes["vLLM"] - sizes["policy"] - 1e9) / cache_bytes_per_token(QWEN)
    assert "171,000 tokens" in page and tokens == pytest.approx(171_000, rel=0.01)
    assert tokens // (stage.max_prompt_length + stage.max_completion_length) == 41


def test_zero_shares_out_what_it_says():
    whole = Parameters(frozen=0, trained=1000)
    shares = [training_bytes(whole, zero_stage=stage, processes=4) for stage in range(4)]
    assert shares == [16_000, 4_000 + 4_000 + 2_000, 4_000 + 1_000 + 2_000, 4_000]
    assert training_bytes(Parameters(100, 10), base="4bit") == 100 * 0.5625 + 160
