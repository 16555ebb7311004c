"""Everything that `reasonrl/trainers/_trl.py` takes for granted about TRL, held to the TRL that is installed.

A failure here after an upgrade of TRL says what to look at; nothing else in the library touches TRL's private names.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path

import peft
import pytest
import torch
import trl
from helpers import TINY, make_run
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils as trl_utils

import reasonrl.trainers
from reasonrl.models import lm_head, load_policy
from reasonrl.trainers import _trl
from reasonrl.trainers._trl import RolloutHooks
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig

FOLDER = Path(reasonrl.trainers.__path__[0])


def look(at: str, what: str) -> str:
    return f"TRL {trl.__version__}: {what} -> look at reasonrl/trainers/{at}"


@pytest.fixture
def run(tmp_path):
    """A real trainer of ours, whose base class is the installed GRPOTrainer."""
    return make_run(tmp_path)


# --- names and signatures


@pytest.mark.parametrize("name", _trl.PRIVATE_NAMES)
def test_each_private_name_is_there(run, name):
    inherited = hasattr(GRPOTrainer, name) or name in vars(run.trainer)
    assert inherited, look("_trl.py, PRIVATE_NAMES", f"GRPOTrainer has no {name} any more")


def private_names_in(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
    }


def test_the_list_of_private_names_is_complete_and_no_other_file_uses_one(run):
    theirs = {name for name in (*dir(GRPOTrainer), *vars(run.trainer)) if name.startswith("_")}
    ours = set()
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text())
        own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        own |= {
            node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        used = private_names_in(tree) & theirs
        if file.name == "_trl.py":
            unlisted = used - own - set(_trl.PRIVATE_NAMES)
            assert not unlisted, f"_trl.py uses {sorted(unlisted)} of TRL -> add them to PRIVATE_NAMES"
            ours |= used
        else:
            assert not used & set(_trl.PRIVATE_NAMES), f"{file.name} uses {used} of TRL -> only _trl.py may"
    assert {"_generate_and_score_completions", "_metrics"} <= ours


#: What our classes override on purpose.
OVERRIDDEN = {"_calculate_rewards", "_get_train_sampler", "training_step", "train", "evaluate"}
#: Attributes of TRL's and transformers' trainers that ours set on purpose.
REASSIGNED = {"args", "beta", "num_iterations", "control", "mask_truncated_completions"}


def test_our_names_do_not_shadow_names_of_trl_by_accident(tmp_path):
    plain = GRPOTrainer(
        load_policy(TINY)[0],
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
        args=GRPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], num_generations=2),
        train_dataset=make_run(tmp_path).trainer.train_dataset,
        processing_class=load_policy(TINY)[1],
    )
    taken = set(dir(plain))
    for cls, file in ((RolloutHooks, "_trl.py"), (PPOTrainer, "ppo.py")):
        methods = {name for name in vars(cls) if not name.startswith("__") and name != "_abc_impl"}
        (tree,) = (n for n in ast.parse((FOLDER / file).read_text()).body if getattr(n, "name", "") == cls.__name__)
        attributes = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        }
        assert attributes, f"{file} sets no attributes: this test no longer sees them"
        shadowed = (methods & taken - OVERRIDDEN) | (attributes & taken - REASSIGNED)
        assert not shadowed, look(file, f"GRPOTrainer has {sorted(shadowed)} too; ours would replace them: rename ours")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_get_train_sampler", ["self", "dataset"]),
        ("training_step", ["self", "model", "inputs", "num_items_in_batch"]),
    ],
)
def test_hooks_keep_their_parameters(name, parameters):
    theirs = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    at = "ppo.py" if name in ("_get_train_sampler", "training_step") else "_trl.py"
    assert theirs == parameters, look(at, f"{name} takes {theirs}, not {parameters}")
    ours = list(inspect.signature(getattr(PPOTrainer, name)).parameters)
    assert ours == parameters, f"PPOTrainer.{name} takes {ours}, TRL calls it with {parameters}"


HANDED = ["model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class", "callbacks"]


@pytest.mark.parametrize("name", [*HANDED, "peft_config", "rollout_func"])
def test_the_trainer_takes_what_we_hand_it(name):
    theirs = inspect.signature(GRPOTrainer.__init__).parameters
    assert name in theirs, look("_trl.py and ppo.py", f"GRPOTrainer.__init__ takes no {name}")


#: Fields of GRPOConfig that PPOConfig, PPOTrainer and PPOUpdate read or set.
FIELDS = [
    "beta",
    "epsilon",
    "epsilon_high",
    "generation_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "loss_type",
    "max_completion_length",
    "max_grad_norm",
    "max_steps",
    "num_generations",
    "num_generations_eval",
    "num_iterations",
    "per_device_eval_batch_size",
    "per_device_train_batch_size",
    "reward_weights",
    "seed",
    "steps_per_generation",
    "temperature",
    "top_p",
]


def test_the_fields_our_config_builds_on_are_there():
    theirs = {field.name for field in dataclasses.fields(GRPOConfig)}
    assert not set(FIELDS) - theirs, look("ppo_config.py", f"GRPOConfig has no {sorted(set(FIELDS) - theirs)}")
    added = {field.name for field in dataclasses.fields(PPOConfig)} - theirs
    redefined = set(PPOConfig.__annotations__) - added
    # Fields of theirs whose default is ours on purpose.
    redefined -= {"adam_beta2", "lr_scheduler_type"}
    redefined -= {f"vllm_importance_sampling_{name}" for name in ("correction", "mode", "clip_max", "clip_min")}
    assert not redefined, look("ppo_config.py", f"GRPOConfig now has its own {sorted(redefined)}")


def test_every_setting_that_our_trainer_reads_is_a_field():
    known = {field.name for field in dataclasses.fields(PPOConfig)} | {
        name for name in dir(PPOConfig) if not name.startswith("_")
    }
    read = set()
    for file in ("ppo.py", "passes.py", "targets.py", "update.py", "critic.py", "ppo_config.py", "ppo_callbacks.py"):
        for node in ast.walk(ast.parse((FOLDER / file).read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args"):
                read.add(node.attr)
    assert len(read) > 20 and not read - known, f"no field of PPOConfig: {sorted(read - known)}"


def config(tmp_path, cls=PPOConfig, **settings):
    return cls(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], **settings)


def test_trl_still_asks_for_two_samples_a_prompt(tmp_path):
    # The reason why PPOConfig shows TRL another number first; if this no longer raises, that detour can go.
    with pytest.raises(ValueError, match=r"[Gg]eneration"):
        config(tmp_path, GRPOConfig, num_generations=1, per_device_train_batch_size=4)


@pytest.mark.parametrize(("prompts", "samples"), [(6, 1), (4, 2), (3, 5)])
def test_our_config_survives_trl_s_checks_with_its_own_numbers(tmp_path, prompts, samples):
    made = config(tmp_path, prompts_per_step=prompts, num_generations=samples)
    assert (made.num_generations, made.rollout_size) == (samples, prompts * samples)
    assert made.generation_batch_size == made.per_device_train_batch_size == prompts * samples
    assert made.gradient_accumulation_steps == made.steps_per_generation == 1
    assert made.loss_type in ("dapo", "bnpo", "grpo", "dr_grpo"), look("ppo_config.py", f"default {made.loss_type!r}")


# --- a collected batch


@pytest.fixture
def collected(run):
    rows = [dict(row) for row in run.trainer.train_dataset][:4] * 2
    run.trainer.model.train()
    return run.trainer.collect(rows)


def test_a_collected_batch_has_the_keys_and_layout_we_read(run, collected):
    tensors = collected.tensors
    missing = set(_trl.BATCH_KEYS) - tensors.keys()
    assert not missing, look("_trl.py, BATCH_KEYS, and batch.py", f"the batch has no {sorted(missing)}")
    lengths = set()
    for row, sample in enumerate(collected.samples):
        prompt, response = list(sample.request.prompt_ids), list(sample.token_ids)
        n, width = len(prompt), tensors["completion_ids"].shape[1]
        left = look("batch.py, make_batch", "prompts are not padded on the left")
        assert tensors["prompt_ids"][row, -n:].tolist() == prompt, left
        assert tensors["prompt_mask"][row].tolist() == [0] * (tensors["prompt_mask"].shape[1] - n) + [1] * n, left
        right = look("batch.py, make_batch", "responses are not padded on the right, or are cut")
        assert tensors["completion_ids"][row, : len(response)].tolist() == response, right
        mask = [1] * len(response) + [0] * (width - len(response))
        assert tensors["completion_mask"][row].tolist() == mask, right
        lengths.add(len(response))
    assert len(lengths) > 1, "the samples must be ragged for this test to mean anything"


def test_rewards_are_raw_and_in_the_order_of_the_rows(collected):
    assert collected.rewards_per_function.shape == (8, 1), look("_trl.py, collect", "rewards have another shape")
    want = [round(8 * sum(t % 2 == 0 for t in s.token_ids) / len(s.token_ids)) / 8 for s in collected.samples]
    assert collected.rewards_per_function[:, 0].tolist() == want, look(
        "_trl.py, collect", "rewards are not the raw ones"
    )


def test_nothing_piles_up_in_trl_between_rollouts(run, collected):
    assert collected.samples
    trainer = run.trainer
    assert not trainer._metrics["train"] and not trainer._pending_extra_logs and not trainer._pending_metrics, look(
        "_trl.py, collect", "TRL's buffers are not empty after a rollout"
    )


def test_the_rollout_function_is_called_once_with_our_rows(tmp_path):
    run = make_run(tmp_path, rewards=[reporting])
    rows = [dict(row) for row in run.trainer.train_dataset][:4] * 2
    calls = []
    draw = run.trainer.draw_samples
    run.trainer.draw_samples = lambda given: (calls.append([row["id"] for row in given]), draw(given))[1]
    run.trainer.beta, run.trainer.ref_model = 0.5, None
    collected = run.trainer.collect(rows)
    assert calls == [[row["id"] for row in rows]], look("_trl.py, _rollout", "rollout_func is called another way")
    assert run.trainer.beta == 0.5
    # beta was 0 inside, or TRL would have asked the reference model, which is not there, for log-probabilities.
    assert "ref_per_token_logps" not in collected.tensors
    assert collected.extra == {"length": [len(s.token_ids) for s in collected.samples]}
    assert collected.metrics == {"mean_of_two": 2.0}
    assert collected.rewards_per_function[1].isnan().all() and collected.rewards_per_function[0] == 1.0
    scored = run.trainer.score(rows, collected.samples)
    rewards, extra = scored.rewards, scored.extra
    assert torch.equal(rewards.nan_to_num(-1), collected.rewards_per_function.nan_to_num(-1))
    assert extra == collected.extra and not run.trainer._pending_extra_logs


def reporting(prompts, completions, completion_ids, answer, log_extra, log_metric, **columns):
    """A reward that uses all that TRL hands to reward functions, and cannot score the second sample."""
    assert completions[0][0]["role"] == "assistant" and len(answer) == len(prompts)
    log_extra("length", [len(ids) for ids in completion_ids])
    log_metric("mean_of_two", 1.0)
    log_metric("mean_of_two", 3.0)
    return [1.0, None, *[0.0] * (len(prompts) - 2)]


# --- log-probabilities


def inputs_of(tokenizer, rows=3, length=12):
    ids = torch.randint(0, len(tokenizer), (rows, length), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :4] = -100
    labels[1, 9:] = -100
    labels[2] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, labels


def sharp_policy(dtype=torch.float32):
    """A policy whose distributions are far from flat."""
    model, tokenizer = load_policy(TINY, dtype=dtype)
    with torch.no_grad():
        for place, parameter in enumerate(model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
            parameter.add_(0.2 * noise.to(dtype))
    return model, tokenizer


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_our_scores_equal_trl_s_fused_head_in_value_and_gradient(temperature):
    model, tokenizer = sharp_policy()
    inputs, labels = inputs_of(tokenizer)
    weights = torch.randn(3, 11, generator=torch.Generator().manual_seed(1))
    (head,) = lm_head.possible_heads(model)
    with lm_head.reading(head, lm_head.Reading(labels, temperature, True, False)):
        logprobs, entropy = model(**inputs).logits[:, :-1].unbind(-1)
    (weights * logprobs).sum().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    trl_utils.add_fused_lm_head(model, temperature=temperature, outputs=("log_probs", "entropy"))
    output = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)
    (weights * output.log_probs).sum().backward()
    where = look("../models/lm_head.py", "its fused head and ours disagree")
    assert logprobs.abs().max() > 1 and entropy.max() > 0.1
    torch.testing.assert_close(logprobs, output.log_probs, rtol=1e-5, atol=1e-5, msg=lambda m: f"{where}\n{m}")
    torch.testing.assert_close(entropy, output.entropy, rtol=1e-5, atol=1e-5, msg=lambda m: f"{where}\n{m}")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-4, atol=1e-5, msg=lambda m: f"{where}\n{m}")


def test_both_ways_of_the_trainer_s_forward_agree(run, monkeypatch):
    inputs, labels = inputs_of(run.trainer.processing_class)
    model = run.trainer.model
    monkeypatch.setattr(run.trainer.logprob_reader, "temperature", 0.6)
    found = []
    for limit in (1 << 62, 0):
        monkeypatch.setattr(lm_head, "PLAIN_LOGITS", limit)
        widths: list[int] = []
        hook = model.lm_head.register_forward_hook(lambda _, __, out, to=widths: to.append(out.shape[-1]))
        found.append(run.trainer.forward_logprobs(model, labels, **inputs))
        hook.remove()
        assert widths[-1] == (2 if limit == 0 else model.config.vocab_size)
    for plain, tiled in zip(*found, strict=True):
        torch.testing.assert_close(plain, tiled, rtol=1e-5, atol=1e-5)
        assert plain.shape == (3, 11)


def test_entropies_carry_gradient_when_asked_and_the_reference_gives_none(run, monkeypatch):
    inputs, labels = inputs_of(run.trainer.processing_class)
    for limit in (1 << 62, 0):
        monkeypatch.setattr(lm_head, "PLAIN_LOGITS", limit)
        for wanted in (False, True):
            _, entropy = run.trainer.forward_logprobs(run.trainer.model, labels, entropy_grad=wanted, **inputs)
            assert torch.autograd.grad(entropy.sum(), run.trainer.model.lm_head.weight)[0].any() if wanted else True
        monkeypatch.setattr(run.trainer, "ref_model", run.trainer.model)
        assert run.trainer.forward_logprobs(run.trainer.model, labels, **inputs)[1] is None
        monkeypatch.undo()


def test_use_adapter_switches_an_adapter_off_and_on_again():
    model, tokenizer = sharp_policy()
    inputs, _ = inputs_of(tokenizer)
    base = model(**inputs).logits.detach()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=["q_proj"]))
    with_adapter = adapted(**inputs).logits.detach()
    where = look("_trl.py, reference", "use_adapter with adapter_name=None is not the model without its adapter")
    with _trl.use_adapter(adapted, adapter_name=None):
        torch.testing.assert_close(adapted(**inputs).logits, base, msg=lambda m: f"{where}\n{m}")
    torch.testing.assert_close(adapted(**inputs).logits, with_adapter)
    assert not torch.allclose(base, with_adapter, atol=1e-3)
