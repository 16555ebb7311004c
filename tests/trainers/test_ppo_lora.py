"""LoRA policy and critic: what is trained, the reference, checkpoints, whole weights."""

from __future__ import annotations

import pytest
import torch
from helpers import TINY, make_run, movement_gap
from peft import PeftModel

from reasonrl.errors import ModelError
from reasonrl.models import ScalarHeadModel, load_policy
from reasonrl.models.lora import Lora, add_lora, save_adapter, trained_state, whole_state

LORA = Lora(r=4, lora_alpha=8)
SETTINGS = {"learning_rate": 1e-2, "critic_learning_rate": 1e-2}


def test_only_adapters_and_the_head_are_trained_and_the_critic_head_learns(tmp_path):
    run = make_run(tmp_path, lora=LORA, critic_lora=LORA, max_steps=2, **SETTINGS)
    run.trainer.train()
    for model, start in ((run.trainer.model, run.start), (run.critic, run.critic_start)):
        moved = {
            name: float((now - start[name]).abs().max())
            for name, now in model.state_dict().items()
            if not torch.equal(now, start[name])
        }
        kinds = {name.split(".")[-3] if "lora_" in name else name for name in moved}
        assert kinds == ({"lora_A", "lora_B"} if model is run.trainer.model else {"lora_A", "lora_B", "head.weight"})


def test_the_start_is_the_references_and_the_adapter_is_off_for_it(tmp_path):
    run = make_run(tmp_path, lora=LORA, max_steps=3, beta=0.1, **SETTINGS)
    assert run.trainer.ref_model is None
    run.trainer.train()
    assert run.metrics[0]["kl"] == pytest.approx(0, abs=1e-7)
    assert abs(run.metrics[2]["kl"]) > 1e-4


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "gradient checkpointing"])
def test_a_resumed_run_is_the_unbroken_one(tmp_path, checkpointing):
    settings = {**SETTINGS, "lora": LORA, "critic_lora": LORA, "critic_steps": 2, "save_strategy": "steps"}
    settings |= {"gradient_checkpointing": checkpointing, "save_steps": 2}
    whole = make_run(tmp_path / "whole", max_steps=4, **settings)
    whole.trainer.train()
    again = make_run(tmp_path / "again", max_steps=4, **settings)
    again.trainer.train(tmp_path / "whole" / "checkpoint-2")
    for one, two in ((whole.trainer.model, again.trainer.model), (whole.critic, again.critic)):
        there = two.state_dict()
        assert all(torch.equal(there[name], tensor) for name, tensor in one.state_dict().items())
    same = [name for name in whole.metrics[3] if not name.startswith(("time/", "memory", "tokens_per", "throughput"))]
    assert {n: again.metrics[-1][n] for n in ("reward", "policy_loss", "value_loss", "grad_norm")} == {
        n: whole.metrics[3][n] for n in ("reward", "policy_loss", "value_loss", "grad_norm")
    }, same


def test_gradient_checkpointing_changes_nothing(tmp_path):
    runs = []
    for name, on in (("off", False), ("on", True)):
        run = make_run(tmp_path / name, lora=LORA, critic_lora=LORA, max_steps=3, gradient_checkpointing=on, **SETTINGS)
        run.trainer.train()
        runs.append(run)
    off, on = ({**trained_state(run.trainer.model), **trained_state(run.critic)} for run in runs)
    start = {name: run_start for name, run_start in {**runs[0].start, **runs[0].critic_start}.items() if name in off}
    assert movement_gap(start, on, off) <= 1e-3


def test_merged_weights_give_the_adapters_logits_as_a_plain_checkpoint(tmp_path):
    policy, tokenizer = load_policy(TINY)
    adapted = add_lora(policy, LORA, seed=1)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    ids = torch.arange(5, 25).unsqueeze(0)
    wanted = adapted(input_ids=ids).logits
    adapted.get_base_model().save_pretrained(tmp_path / "model", state_dict=whole_state(adapted))
    tokenizer.save_pretrained(tmp_path / "model")
    plain, _ = load_policy(str(tmp_path / "model"))
    assert not [name for name, _ in plain.named_parameters() if "lora" in name]
    assert torch.allclose(plain(input_ids=ids).logits, wanted, atol=1e-5, rtol=0)
    start, _ = load_policy(TINY)
    assert not torch.allclose(start(input_ids=ids).logits, wanted, atol=1e-2, rtol=0)
    save_adapter(adapted, trained_state(adapted), tmp_path / "adapter")
    again = PeftModel.from_pretrained(start, tmp_path / "adapter")
    assert torch.allclose(again(input_ids=ids).logits, wanted, atol=1e-6, rtol=0)


def test_a_merged_critic_gives_its_values_as_a_plain_checkpoint(tmp_path):
    critic = ScalarHeadModel.from_pretrained(TINY, seed=3)
    critic.add_lora(LORA, seed=1)
    for name, parameter in critic.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.arange(5, 25).unsqueeze(0)
    (tmp_path / "critic").mkdir()
    critic.save_pretrained(tmp_path / "critic", critic.whole_state())
    plain = ScalarHeadModel.from_pretrained(tmp_path / "critic")
    assert torch.allclose(plain(input_ids=ids), critic(input_ids=ids), atol=1e-5, rtol=0)


def test_another_adapter_is_not_resumed(tmp_path):
    settings = {**SETTINGS, "save_strategy": "steps", "save_steps": 1, "lora": LORA}
    make_run(tmp_path / "one", max_steps=1, critic_lora=LORA, **settings).trainer.train()
    other = make_run(tmp_path / "two", max_steps=2, critic_lora=Lora(r=2), **settings)
    with pytest.raises(ModelError, match="resume with the lora settings"):
        other.trainer.train(tmp_path / "one" / "checkpoint-1")


def test_what_no_layer_is_called(tmp_path):
    with pytest.raises(ModelError, match="target_modules"):
        add_lora(load_policy(TINY)[0], Lora(target_modules=("nothing",)), seed=0)
