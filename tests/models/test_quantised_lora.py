"""LoRA over quantised weights; without bitsandbytes it is refused with a message."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.models import ScalarHeadModel, load_policy
from reasonrl.models.lora import Lora, add_lora, merged_over, trained_state

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"
INSTALLED = importlib.util.find_spec("bitsandbytes") is not None


@pytest.mark.skipif(INSTALLED, reason="bitsandbytes is installed")
@pytest.mark.parametrize("which", ["load_in_4bit", "load_in_8bit"])
def test_what_is_not_installed_is_named(which):
    with pytest.raises(ModelError, match=rf"lora\.{which} = true needs the package bitsandbytes.*-> pip install"):
        Lora(**{which: True}).loading_options(torch.float32)


@pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed (pip install '.[quantization]')")
@pytest.mark.parametrize("which", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_learns_over_quantised_weights_and_is_merged_into_whole_ones(which):
    lora = Lora(r=4, **{which: True})
    policy, _ = load_policy(TINY, **lora.loading_options(torch.float32))
    plain, _ = load_policy(TINY)
    layer = policy.model.layers[0].mlp.down_proj
    assert layer.weight.dtype in (torch.uint8, torch.int8), "nothing was quantised"
    adapted = add_lora(policy, lora, seed=1)
    ids = torch.arange(5, 25).unsqueeze(0)
    loss = torch.nn.functional.cross_entropy(adapted(input_ids=ids).logits[0, :-1], ids[0, 1:])
    loss.backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert all(g is not None for g in gradients) and max(float(g.abs().max()) for g in gradients) > 0
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    state = merged_over(adapted, load_policy(TINY)[0], trained_state(adapted))
    merged, _ = load_policy(TINY)
    merged.load_state_dict(state, strict=False)
    ours, theirs, start = (m(input_ids=ids).logits for m in (merged, adapted, plain))
    # What is left between them is the rounding of the quantised base.
    assert (ours - theirs).abs().mean() < 0.2 * (start - theirs).abs().mean()


@pytest.mark.skipif(not INSTALLED, reason="bitsandbytes is not installed (pip install '.[quantization]')")
def test_a_critic_over_quantised_weights_reads_values_and_is_merged():
    lora = Lora(r=4, load_in_4bit=True)
    critic = ScalarHeadModel.from_pretrained(TINY, seed=3, **lora.loading_options(torch.float32))
    critic.add_lora(lora, seed=1)
    ids = torch.arange(5, 25).unsqueeze(0)
    critic(input_ids=ids).square().sum().backward()
    assert critic.head.weight.grad.abs().max() > 0
