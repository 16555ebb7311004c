"""Tiny models built in code: real checkpoints, a lossless tokenizer, a cache that processes can share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonrl.errors import ModelError
from reasonrl.models import build_tiny, build_tokenizer, is_tiny, load_policy, load_processor, tiny_path
from reasonrl.models.tiny import DEFAULT_SIZES, SPECIAL_TOKENS, WORDS, parse_tiny

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny(TINY, tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def test_saved_and_loaded_again_it_is_the_same_model(folder, tmp_path):
    first = AutoModelForCausalLM.from_pretrained(folder)
    first.save_pretrained(tmp_path / "again")
    second = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    ids = torch.arange(5, 60).view(5, 11)
    logits = first(input_ids=ids).logits
    assert logits.shape == (5, 11, len(build_tokenizer()))
    assert torch.equal(logits, second(input_ids=ids).logits)
    assert logits.std() > 0


def test_the_seed_and_nothing_else_decides_the_weights(folder, tmp_path):
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    again = build_tiny(TINY, tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), before), "building must not touch the caller's randomness"
    other = build_tiny(TINY + ",seed=1", tmp_path / "other")
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, again, other)]
    assert weights[0] == weights[1] != weights[2]


def test_qwen3_normalises_queries_and_keys(folder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONRL_CACHE", str(tmp_path))
    name = TINY.replace("qwen2", "qwen3") + ",num_attention_heads=4,spread_by_width=1"
    model, found = load_policy(name)
    assert model.config.model_type == "qwen3" and model.config.head_dim == 16
    norms = [key for key in model.state_dict() if key.endswith(("q_norm.weight", "k_norm.weight"))]
    assert len(norms) == 2 and not any(key.endswith("q_proj.bias") for key in model.state_dict())
    text = "1 + 2 ➜ \\boxed{3}"
    assert found(text)["input_ids"] == tokenizer(text)["input_ids"] and found.decode(found(text)["input_ids"]) == text
    assert tiny_path(name) != tiny_path(name.replace("qwen3", "qwen2"))
    assert parse_tiny("tiny:qwen3") == DEFAULT_SIZES


@pytest.mark.parametrize("name", ["tiny:qwen2", "tiny:qwen3"])
def test_the_default_size_is_about_what_it_says(name):
    model, _ = load_policy(name)
    assert 0.3e6 < sum(parameter.numel() for parameter in model.parameters()) < 0.6e6


def test_names_carry_sizes(folder):
    assert is_tiny(TINY) and not is_tiny("org/tiny:qwen2")
    assert parse_tiny("tiny:qwen2") == parse_tiny("tiny:qwen2:") == DEFAULT_SIZES
    sizes = parse_tiny("tiny:qwen2:hidden_size=256,num_hidden_layers=4,seed=9")
    assert sizes == {**DEFAULT_SIZES, "hidden_size": 256, "num_hidden_layers": 4, "seed": 9}
    config = AutoModelForCausalLM.from_pretrained(folder).config
    named = dict(part.split("=") for part in TINY.split(":")[2].split(","))
    assert {key: getattr(config, key) for key in named} == {key: int(value) for key, value in named.items()}
    assert config.max_position_embeddings == DEFAULT_SIZES["max_position_embeddings"]


def test_the_spread_of_the_first_weights(folder, tmp_path):
    """0.02 as wide models have it, or by the width; a name without the switch keeps its folder and its weights."""
    name = f"{TINY},spread_by_width=1"
    for path, spread in ((folder, 0.02), (build_tiny(name, tmp_path / "wide"), 64**-0.5)):
        model = AutoModelForCausalLM.from_pretrained(path)
        assert model.model.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(spread, rel=0.05)
        assert model.lm_head.weight.std().item() == pytest.approx(spread, rel=0.05)
    assert tiny_path(f"{TINY},spread_by_width=0") == tiny_path(TINY) != tiny_path(name)
    assert not hasattr(model.config, "spread_by_width")


BAD_NAMES = [
    ("tiny:llama", r"'llama'.*'tiny:qwen2'"),
    ("tiny:", r"architecture ''.*'tiny:qwen2'"),
    ("tiny:qwen2,hidden_size=64", "'qwen2,hidden_size=64'"),
    ("tiny:qwen2:hiden_size=64", "'hiden_size'.*did you mean 'hidden_size'"),
    ("tiny:qwen2:wings=2", r"'wings'.*allowed: hidden_size, "),
    ("tiny:qwen2:hidden_size", "hidden_size='', which is not a whole number"),
    ("tiny:qwen2:hidden_size=1e3", "hidden_size='1e3'"),
    ("tiny:qwen2:hidden_size=-64", "hidden_size='-64'"),
    ("tiny:qwen2:hidden_size=²", "hidden_size='²', which is not a whole number"),
    ("tiny:qwen2:num_hidden_layers=0", "num_hidden_layers=0, allowed are 1 to"),
    ("tiny:qwen2:spread_by_width=2", "spread_by_width=2, allowed are 0 to 1"),
    ("tiny:qwen2:seed=99999999999999999999", "seed=99999999999999999999, allowed are 0 to"),
    ("tiny:qwen2:hidden_size=65", "hidden_size=65 over num_attention_heads=2.*same, even size"),
    ("tiny:qwen2:hidden_size=6", "hidden_size=6 over num_attention_heads=2.*same, even size"),
    ("tiny:qwen2:num_attention_heads=4,num_key_value_heads=3", "num_key_value_heads=3"),
    ("tiny:qwen2:image_size=32", "unknown size 'image_size'"),
    ("tiny:llava:image_size=30", "image_size=30 is not a multiple of patch_size=8"),
    ("tiny:llava:vision_hidden_size=129", "vision_hidden_size=129 -> up to 127, or a multiple of 64"),
]


@pytest.mark.parametrize(("name", "message"), BAD_NAMES)
def test_a_bad_name_is_refused_and_leaves_nothing_in_the_cache(name, message, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONRL_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=message) as raised:
        load_policy(name)
    assert str(raised.value).startswith("model: ") and str(raised.value).count("model:") == 1
    assert list(tmp_path.rglob("*")) == []


PIECES = st.sampled_from([*SPECIAL_TOKENS, *WORDS, "1234567890", "\\boxed{", "\r\n", " ", "\x00", "é", "e\u0301", "🧮"])
TEXTS = st.lists(st.one_of(st.text(max_size=20), PIECES), max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example(text="")
@example(text=" leading and trailing ")
@example(text="a .b ,c 's")
@example(text="<|im_end|><|im_start|>user\n<|endoftext|>")
@example(text="e\u0301 \u212b")
def test_any_text_survives_the_tokenizer_in_nfc(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    parts = re.split(f"({'|'.join(map(re.escape, (*SPECIAL_TOKENS, *WORDS)))})", text)
    assert tokenizer.decode(ids) == "".join(unicodedata.normalize("NFC", part) for part in parts)
    assert build_tokenizer()(text)["input_ids"] == ids
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_words_are_one_token_and_digits_never_merge(tokenizer):
    for word in (*SPECIAL_TOKENS, *WORDS):
        assert len(tokenizer(word)["input_ids"]) == 1
    assert tokenizer.convert_ids_to_tokens(tokenizer("2024")["input_ids"]) == ["2", "0", "2", "4"]
    assert len(tokenizer("\\boxed{12}")["input_ids"]) == 4
    assert tokenizer.decode(tokenizer("a<|im_end|>")["input_ids"], skip_special_tokens=True) == "a"
    # Words are part of the text of an answer, not frame: they stay.
    assert tokenizer.decode(tokenizer("\\boxed{1}")["input_ids"], skip_special_tokens=True) == "\\boxed{1}"


def test_the_chat_frame(tokenizer):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "7+5"}]
    frame = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n7+5<|im_end|>\n"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == frame
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == frame + "<|im_start|>assistant\n"
    answered = [*messages, {"role": "assistant", "content": "12"}]
    whole = tokenizer.apply_chat_template(answered, tokenize=False)
    assert whole == prompt + "12<|im_end|>\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    marked = tokenizer.apply_chat_template(answered, return_dict=True, return_assistant_tokens_mask=True)
    kept = [i for i, on in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(kept) == "12<|im_end|>"


def test_the_end_token_of_the_model_is_that_of_the_tokenizer(folder, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.padding_side == "left"


# One process imports, then four are forked and start each round at the same moment; every round is another model.
FIRST_USE = """
import hashlib, json, multiprocessing
import transformers.models.qwen2.modeling_qwen2
from reasonrl.models import load_policy, load_processor, tiny_path

def use(barrier, answers):
    for seed in range(3):
        name = f"tiny:qwen2:hidden_size=256,seed={seed}"
        barrier.wait(60)
        path = tiny_path(name)
        digest = hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
        model, tokenizer = load_policy(name)
        answers.put([seed, str(path), digest, len(tokenizer)])

fork = multiprocessing.get_context("fork")
barrier, answers = fork.Barrier(4), fork.Queue()
processes = [fork.Process(target=use, args=(barrier, answers)) for _ in range(4)]
for process in processes:
    process.start()
print(json.dumps([answers.get(timeout=60) for _ in range(12)]))
for process in processes:
    process.join()
    assert process.exitcode == 0
"""


def test_four_processes_may_use_a_model_for_the_first_time_at_once(tmp_path):
    environment = {**os.environ, "REASONRL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    answers = {tuple(answer) for answer in json.loads(done.stdout)}
    assert len(answers) == 3, "processes disagree about a model"
    assert len({digest for _, _, digest, _ in answers}) == 3
    folders = {path.rsplit("/", 1)[1] for _, path, _, _ in answers}
    assert {path.name for path in (tmp_path / "cache" / "tiny").iterdir()} == folders


def test_the_cache_is_used_again_and_keeps_models_of_other_sizes_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("REASONRL_CACHE", str(tmp_path))
    path = tiny_path(TINY)
    written = (path / "model.safetensors").stat().st_mtime_ns
    assert tiny_path(TINY) == path and (path / "model.safetensors").stat().st_mtime_ns == written
    # Sizes in another order name the same model.
    head, _, sizes = TINY.rpartition(":")
    assert tiny_path(f"{head}:{','.join(reversed(sizes.split(',')))}") == path
    assert tiny_path(TINY + ",seed=2") != path
    assert len(list((tmp_path / "tiny").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_an_error_and_not_a_path_to_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REASONRL_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file"):
        tiny_path(TINY)


VISION = "tiny:llava:image_size=16,patch_size=4,num_hidden_layers=1"


def test_a_tiny_vision_model_and_its_processor_read_pictures():
    model, processor = load_policy(VISION)[0].eval(), load_processor(VISION)
    image = Image.linear_gradient("L").convert("RGB").resize((30, 40))
    chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is it?"}]}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    inputs = processor.apply_chat_template(chat, **options)
    assert inputs["pixel_values"].shape == (1, 3, 16, 16)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 16 == (16 // 4) ** 2
    with torch.no_grad():
        logits = model(**inputs).logits
        inverted = model(**{**inputs, "pixel_values": -inputs["pixel_values"]}).logits
    assert logits.shape[-1] == len(processor.tokenizer) and (logits - inverted)[0, -1].abs().max() > 1e-3
    plain = [{"role": "user", "content": "What is it?"}]
    assert processor.apply_chat_template(plain, tokenize=False) == build_tokenizer().apply_chat_template(
        plain, tokenize=False
    )
    again = load_policy(VISION)[0].eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, logits)


def test_a_text_model_has_no_processor():
    with pytest.raises(ModelError, match="has no processor, so it reads text only"):
        load_processor(TINY)
