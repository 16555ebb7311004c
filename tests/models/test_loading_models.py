"""Policies and scalar-head models from checkpoints: what loads, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from reasonrl.errors import ModelError
from reasonrl.models import ScalarHeadModel, build_tiny, build_tokenizer, load_policy, load_tokenizer

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny(TINY, tmp_path_factory.mktemp("checkpoint") / "model")


def ids(rows=3, length=7, seed=0):
    return torch.randint(0, 250, (rows, length), generator=torch.Generator().manual_seed(seed))


# --- policies


def test_a_policy_comes_with_its_tokenizer_in_the_dtype_asked_for(folder):
    model, tokenizer = load_policy(str(folder))
    assert model.dtype == torch.float32 and tokenizer.pad_token == "<|endoftext|>"
    assert load_policy(str(folder), dtype=torch.float64)[0].dtype == torch.float64
    assert load_policy(str(folder), dtype="bfloat16")[0].dtype == torch.bfloat16
    assert torch.equal(load_policy(TINY)[0](input_ids=ids()).logits, model(input_ids=ids()).logits)


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(folder, tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(folder / "config.json", tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token == "<|im_end|>"


@pytest.mark.parametrize("name", ["{tmp}/missing", "./missing", "~/missing-model", "runs/a/model"])
def test_a_missing_folder_is_refused_at_once(name, tmp_path):
    name = name.format(tmp=tmp_path)
    for load in (load_policy, load_tokenizer, ScalarHeadModel.from_pretrained):
        with pytest.raises(ModelError, match=r"there is no folder.*-> give a folder"):
            load(name)


def test_a_name_that_is_neither_folder_nor_reachable_hub_id_says_both(tmp_path):
    script = "from reasonrl.models import load_policy; load_policy('runs/missing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    last = done.stderr[done.stderr.rindex("reasonrl.errors.ModelError") :]
    assert "'runs/missing' cannot be loaded (there is no such folder, so as a hub id)" in last


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def wider(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 128}))


def without_a_layer(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "mlp" not in k}, folder / "model.safetensors", {"format": "pt"})


BOTH, POLICY_ONLY = (load_policy, ScalarHeadModel.from_pretrained), (load_policy,)
DAMAGE = {
    "no tokenizer": (without_tokenizer, POLICY_ONLY, "has no tokenizer"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), BOTH, "no file named model.safetensors"),
    "cut weights": (cut_short, BOTH, "header"),
    "no config": (lambda folder: (folder / "config.json").unlink(), BOTH, "config.json"),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), BOTH, "not a valid JSON"),
    "other sizes": (wider, BOTH, "cannot be loaded"),
    "lacks weights": (without_a_layer, BOTH, r"lacks 3 weights of Qwen2.*mlp\.down_proj\.weight"),
    "broken tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{"), POLICY_ONLY, "tokenizer of"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused(damage, folder, tmp_path):
    harm, loaders, message = DAMAGE[damage]
    copy = shutil.copytree(folder, tmp_path / "copy")
    harm(copy)
    for load in loaders:
        with pytest.raises(ModelError, match=message) as raised:
            load(str(copy))
        assert str(copy) in str(raised.value)


def test_a_critic_is_not_taken_for_a_policy_with_a_random_output_layer(folder, tmp_path):
    settings = AutoModelForCausalLM.from_pretrained(folder).config.to_dict()
    untied = Qwen2ForCausalLM(Qwen2Config(**{**settings, "tie_word_embeddings": False}))
    ScalarHeadModel(untied.model).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lacks 1 weights of Qwen2ForCausalLM: lm_head\.weight"):
        load_policy(str(tmp_path))
    assert ScalarHeadModel.from_pretrained(tmp_path).head.out_features == 1


# --- scalar heads


def test_values_have_the_shape_of_the_tokens(folder):
    assert ScalarHeadModel.from_pretrained(folder)(input_ids=ids()).shape == (3, 7)
    assert ScalarHeadModel.from_pretrained(folder, n_outputs=4)(input_ids=ids()).shape == (3, 7, 4)


def test_a_value_is_the_head_s_product_with_the_policy_s_hidden_state(folder):
    policy, _ = load_policy(str(folder))
    critic = ScalarHeadModel.from_pretrained(folder, n_outputs=2, seed=4)
    with torch.no_grad():
        hidden = policy(input_ids=ids(), output_hidden_states=True).hidden_states[-1]
        values = critic(input_ids=ids())
    torch.testing.assert_close(values, torch.einsum("bth,oh->bto", hidden, critic.head.weight))
    assert values.abs().max() > 0


def test_a_normal_head_is_drawn_with_standard_deviation_one_over_hidden_plus_one(folder):
    draws = ScalarHeadModel.from_pretrained(folder, n_outputs=2000, seed=1).head.weight.detach()
    count, std = draws.numel(), 1 / 65
    # Five standard errors of the mean and of the standard deviation.
    assert abs(draws.mean()) < 5 * std / count**0.5
    assert abs(draws.std() / std - 1) < 5 / (2 * count) ** 0.5
    kurtosis = ((draws / draws.std()) ** 4).mean()
    assert abs(kurtosis - 3) < 5 * (24 / count) ** 0.5


def test_the_head_s_seed_alone_decides_its_start(folder):
    torch.manual_seed(5)
    heads = [ScalarHeadModel.from_pretrained(folder, seed=seed).head.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    double = ScalarHeadModel.from_pretrained(folder, seed=1, dtype=torch.float64).head.weight
    assert double.dtype == torch.float64 and torch.equal(double, heads[0].double())
    half = ScalarHeadModel.from_pretrained(folder, seed=1, dtype=torch.bfloat16).head.weight
    assert torch.equal(half, heads[0].bfloat16())


def test_a_zero_head_reads_zero_and_learns(folder):
    critic = ScalarHeadModel.from_pretrained(folder, init="zeros")
    values = critic(input_ids=ids())
    assert (values == 0).all()
    (values - 1).square().sum().backward()
    assert critic.head.weight.grad.abs().sum() > 0


def test_gradients_reach_head_and_backbone(folder):
    critic = ScalarHeadModel.from_pretrained(folder)
    critic(input_ids=ids()).square().sum().backward()
    lacking = [name for name, parameter in critic.named_parameters() if parameter.grad is None]
    assert lacking == []
    assert critic.backbone.get_input_embeddings().weight.grad.abs().sum() > 0


def test_padding_on_the_right_does_not_reach_the_values(folder):
    critic = ScalarHeadModel.from_pretrained(folder, dtype=torch.float64)
    plain = critic(input_ids=ids())
    padded = torch.nn.functional.pad(ids(), (0, 4), value=3)
    mask = torch.nn.functional.pad(torch.ones(3, 7, dtype=torch.long), (0, 4))
    torch.testing.assert_close(critic(input_ids=padded, attention_mask=mask)[:, :7], plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_saved_and_loaded_it_is_exactly_the_same(folder, tmp_path, dtype, n_outputs):
    critic = ScalarHeadModel.from_pretrained(folder, n_outputs=n_outputs, dtype=dtype)
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).to(dtype) / 100)
    critic.save_pretrained(tmp_path)
    # What is asked of a fresh head does not matter to a saved one.
    again = ScalarHeadModel.from_pretrained(tmp_path, n_outputs=n_outputs, dtype=dtype, init="zeros", seed=99)
    assert again.state_dict().keys() == critic.state_dict().keys()
    for name, tensor in critic.state_dict().items():
        assert again.state_dict()[name].dtype == dtype and torch.equal(again.state_dict()[name], tensor)
    assert torch.equal(again(input_ids=ids()), critic(input_ids=ids()))


def test_a_head_of_another_shape_or_damaged_is_refused(folder, tmp_path):
    ScalarHeadModel.from_pretrained(folder, n_outputs=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"scalar_head\.safetensors: the head is \(2, 64\), expected \(1, 64\)"):
        ScalarHeadModel.from_pretrained(tmp_path)
    (tmp_path / "scalar_head.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"scalar_head\.safetensors: the head cannot be read"):
        ScalarHeadModel.from_pretrained(tmp_path, n_outputs=2)


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients = []
    for checkpointing in (False, True):
        critic = ScalarHeadModel.from_pretrained(folder, dtype=torch.float64)
        critic.train()
        if checkpointing:
            critic.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert critic.backbone.is_gradient_checkpointing
        critic(input_ids=ids()).square().sum().backward()
        gradients.append([parameter.grad for parameter in critic.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)
