"""The run of a training: warm-up, validation, checkpoints, stopping, baselines without a critic."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from helpers import TINY, even_share, make_run, movement_gap
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout.transfer import decodes_with
from reasonrl.rollout.transformers_engine import TransformersEngine
from reasonrl.trainers.checkpoints import complete_checkpoints, latest_complete, prune
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.sampler import PromptStream


def test_every_parameter_learns(tmp_path):
    run = make_run(tmp_path)
    run.trainer.train()
    assert all(distance > 0 for distance in run.moved().values())
    now = run.critic.state_dict()
    still = [name for name, tensor in run.critic_start.items() if torch.equal(now[name], tensor)]
    assert not still


def test_the_critic_warms_up_alone(tmp_path):
    run = make_run(tmp_path, max_steps=3, critic_warmup_steps=2)
    seen = []
    run.trainer._on_completions = lambda step, samples: seen.append(max(run.moved().values()))
    run.trainer.train()
    assert seen == [0.0, 0.0, 0.0]
    assert max(run.moved().values()) > 0
    assert ["policy_loss" in line for line in run.metrics] == [False, False, True]
    assert all(line["critic_grad_norm"] > 0 for line in run.metrics)


def test_validation_and_the_best_checkpoint(tmp_path):
    """The reward of a row grows and falls with the step, so the best checkpoint is not the last."""
    height = {1: 0.0, 2: 1.0, 3: 0.0}

    def staged(completions, trainer_state=None, **columns):
        return [height[trainer_state.global_step] if trainer_state.global_step else 0.5] * len(completions)

    run = make_run(
        tmp_path,
        rewards=[staged, even_share],
        eval_rows=3,
        max_steps=3,
        num_generations_eval=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=3,  # the best step is saved because it was validated
        load_best_model_at_end=True,
        metric_for_best_model="eval_reward",
        greater_is_better=True,
    )
    run.trainer.keep_checkpoints = 1
    run.trainer.train()
    validated = [line["eval/reward"] for line in run.metrics]
    assert validated[1] > max(validated[0], validated[2])
    assert all(
        0 <= line["eval/accuracy_low"] <= line["eval/accuracy"] <= line["eval/accuracy_high"] <= 1
        for line in run.metrics
    )
    assert run.trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert list(complete_checkpoints(tmp_path)) == [2, 3], "the best one is kept besides the last"
    best, _ = load_policy(str(tmp_path / "checkpoint-2"))
    now = run.policy.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in best.state_dict().items())


@pytest.mark.parametrize("kind", ["linear", "constant_with_warmup", "cosine"])
def test_the_critics_schedule_is_the_policys(tmp_path, kind):
    run = make_run(
        tmp_path,
        max_steps=5,
        warmup_steps=2,
        lr_scheduler_type=kind,
        learning_rate=1e-3,
        critic_learning_rate=5e-3,
        critic_steps=2,
        actor_steps=2,
    )
    run.trainer.train()
    policy, critic = ([line[name] for line in run.metrics] for name in ("learning_rate", "critic_learning_rate"))
    assert critic == pytest.approx([5 * rate for rate in policy])
    assert policy[0] == 0 and max(policy) > 0


def test_rows_of_equal_ids_keep_their_own_prompts(tmp_path):
    run = make_run(tmp_path, eval_rows=4, max_steps=1)
    run.trainer.eval_dataset = run.trainer.eval_dataset.map(lambda row, place: {"id": str(place)}, with_indices=True)
    asked = []
    stream = run.trainer.engine.stream

    def keep(requests, params):
        asked.append([request.prompt_ids for request in requests])
        return stream(requests, params)

    run.trainer.engine.stream = keep
    run.trainer.eval_dataset = run.trainer.eval_dataset.map(
        lambda row: {"prompt": [{"role": "user", "content": "!" + row["prompt"][0]["content"]}]}
    )
    run.trainer.train()
    run.trainer.evaluate()
    trained, validated = ({run.trainer.processing_class.decode(ids) for ids in prompts} for prompts in asked)
    assert all("!" not in text for text in trained) and all("!" in text for text in validated)


def test_a_stop_saves_and_a_resume_goes_on_exactly(tmp_path):
    settings = {"max_steps": 5, "save_strategy": "steps", "save_steps": 100, "actor_steps": 2, "critic_steps": 2}
    whole = make_run(tmp_path / "whole", **settings)
    whole.trainer.train()
    asked = {"after": 2}
    first = make_run(tmp_path / "parts", stop=lambda: first.trainer.state.global_step >= asked["after"], **settings)
    first.trainer.train()
    step, checkpoint = latest_complete(tmp_path / "parts")
    assert step == 2
    second = make_run(tmp_path / "parts", **settings)
    second.trainer.train(resume_from_checkpoint=str(checkpoint))
    timeless = [
        [{k: v for k, v in line.items() if not k.startswith(("time/", "rate/", "memory/"))} for line in lines]
        for lines in (whole.metrics, first.metrics + second.metrics)
    ]
    assert timeless[0] == timeless[1]
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), second.policy.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.critic.parameters(), second.critic.parameters(), strict=True))


def test_true_resumes_from_the_latest_whole_checkpoint(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    first = make_run(tmp_path, max_steps=2, **settings)
    with pytest.raises(ModelError, match="no whole checkpoint"):
        first.trainer.train(resume_from_checkpoint=True)
    first.trainer.train()
    second = make_run(tmp_path, max_steps=3, **settings)
    second.trainer.train(resume_from_checkpoint=True)
    assert [line["step"] for line in second.metrics] == [3]
    assert not any(
        torch.equal(now, start)
        for now, start in zip(second.critic.parameters(), first.critic.parameters(), strict=True)
    )


def test_a_checkpoint_without_its_critic_is_refused(tmp_path):
    run = make_run(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    run.trainer.train()
    shutil.rmtree(tmp_path / "checkpoint-1" / "critic")
    again = make_run(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    with pytest.raises(ModelError, match="has no critic"):
        again.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_torn_checkpoints_are_passed_over_and_removed(tmp_path):
    for step, whole in ((1, True), (2, True), (3, True), (4, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "complete.json").write_text("{}")
    assert latest_complete(tmp_path) == (3, tmp_path / "checkpoint-3")
    prune(tmp_path, keep_last=1, keep={tmp_path / "checkpoint-1"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]


@pytest.mark.parametrize("advantage", ["group", "rloo"])
def test_baselines_without_a_critic_learn(tmp_path, advantage):
    run = make_run(tmp_path, advantage=advantage, num_generations=4)
    run.trainer.train()
    assert "value_loss" not in run.metrics[0]
    assert max(run.moved().values()) > 0


def test_group_advantages_equal_trls_grpo(tmp_path):
    """One step on the same samples as TRL's GRPOTrainer, which is the oracle of the modes it has."""
    common = {
        "learning_rate": 0.5,
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
    }
    ours = make_run(tmp_path / "a", advantage="group", num_generations=4, dtype=torch.float32, **common)
    ours.trainer.train()
    recorded = ours.trainer._samples

    def replay(prompts, trainer):
        return {
            "prompt_ids": [list(s.request.prompt_ids) for s in recorded],
            "completion_ids": [list(s.token_ids) for s in recorded],
            "logprobs": [list(s.logprobs_sampled) for s in recorded],
        }

    policy, tokenizer = load_policy(TINY)
    start = copy.deepcopy(policy.state_dict())
    oracle = GRPOTrainer(
        policy,
        reward_funcs=[even_share],
        args=GRPOConfig(
            output_dir=str(tmp_path / "b"),
            per_device_train_batch_size=16,
            num_generations=4,
            max_completion_length=12,
            loss_type="dapo",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            shuffle_dataset=False,
            **common,
        ),
        train_dataset=ours.trainer.train_dataset,
        processing_class=tokenizer,
        rollout_func=replay,
    )
    oracle.train()
    assert movement_gap(start, ours.policy.state_dict(), policy.state_dict()) <= 1e-3


def test_settings_that_do_not_fit_are_refused(tmp_path):
    for settings, message in [
        ({"actor_steps": 3}, "actor_steps = 3 does not divide"),
        ({"critic_steps": 5}, "critic_steps = 5 does not divide"),
        ({"advantage": "group", "num_generations": 1}, "num_generations is 1"),
        ({"gamma": 1.5}, "gamma is 1.5; allowed: 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, prompts_per_step=4, **settings)


def test_the_prompt_stream_has_no_seams():
    stream = list(PromptStream(5, prompts_per_step=3, num_generations=2, steps=5, seed=1))
    assert len(stream) == 30
    prompts = stream[::2]
    assert stream[1::2] == prompts, "samples of a prompt stand together"
    assert sorted(prompts[:5]) == sorted(prompts[5:10]) == sorted(prompts[10:]) == list(range(5))
    longer = list(PromptStream(5, prompts_per_step=3, num_generations=2, steps=9, seed=1))
    assert longer[:30] == stream


def test_rows_with_pictures_are_refused(tmp_path):
    policy, tokenizer = load_policy("tiny:qwen2")
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": "?"}], "images": ["a.png"]} for i in range(4)]
    args = PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], advantage="group")
    with pytest.raises(ModelError, match=r"row 0 has 1 pictures, and the model reads text only -> .*vision-language"):
        PPOTrainer(
            policy, args, Dataset.from_list(rows), [], prompt_ids=lambda messages: [1], processing_class=tokenizer
        )


def test_the_model_under_an_adapter_is_the_policy():
    policy, tokenizer = load_policy("tiny:qwen2")
    engine = TransformersEngine(policy, tokenizer)
    adapted = get_peft_model(policy, LoraConfig(target_modules=["q_proj"]))
    assert decodes_with(engine, policy) and decodes_with(engine, adapted)
    assert not decodes_with(engine, copy.deepcopy(policy))
