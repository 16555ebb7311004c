"""One PPO run under however many processes are started, plain or under ZeRO; rank 0 writes whole weights and metrics.
Used by test_ppo_ranks_zero.py.

Arguments: an output folder, and settings as JSON: `zero` (zero1, zero2, zero3, or FSDP's full_shard,
shard_grad_op), `lora` (settings of an adapter for
policy and critic), `fault` (what is planted), `resume`, `vision` (a kind of vision-language model, which is then
trained on pictures and text), `process_reward` (true: tokens are rewarded by one too); the rest are PPOConfig's.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from helpers import even_share, make_run, process_reward
from vision_runs import make_vision_run

from reasonrl.models.lora import Lora, trained_state, whole_state
from reasonrl.trainers import update
from reasonrl.trainers.fsdp import RESHARDS, fsdp_arguments, is_split, under_fsdp
from reasonrl.trainers.zero import deepspeed_settings, zero_stage


def some(completions, completion_ids, **columns):
    """Some answers cannot be scored: the ranks then hold different numbers of counting tokens."""
    scores = even_share(completions, completion_ids)
    return [None if ids[0] % 7 == 0 else score for ids, score in zip(completion_ids, scores, strict=True)]


def plant(fault):
    """Break one thing: what the second rank found for the policy is lost."""
    if fault == "a rank is lost":
        plain = update.backward
        update.backward = lambda accelerator, model, loss: plain(
            accelerator, model, loss * (accelerator.process_index == 0)
        )


def main():
    out, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    zero, resume, lora, vision = (settings.pop(name, None) for name in ("zero", "resume", "lora", "vision"))
    # Before DeepSpeed's settings are made, as the stage does it.
    shaped = [process_reward(weight=0.3)] if settings.pop("process_reward", False) else []
    plant(settings.pop("fault", None))
    if zero in RESHARDS:
        settings |= fsdp_arguments(zero)
    elif zero:
        settings["deepspeed"] = deepspeed_settings(zero)
    if lora is not None:
        settings["lora"] = settings["critic_lora"] = Lora(**lora)
    if vision:
        run = make_vision_run(out / "run", vision, rewards=[some, *shaped], **settings)
    else:
        run = make_run(out / "run", rewards=[some, *shaped], **settings)
    trainer = run.trainer
    start = {"policy": whole_state(trainer.model), "critic": run.critic.whole_state()}
    trainer.train(resume)
    policy, critic = trainer.accelerator.unwrap_model(trainer.model), trainer.critic.unwrapped
    weights = {"policy": whole_state(policy), "critic": critic.whole_state()}
    trained = {"policy": trained_state(policy), "critic": trained_state(critic)}
    if trainer.accelerator.is_main_process:
        stage, split = zero_stage(trainer.accelerator), under_fsdp(trainer.accelerator)
        assert (stage, split) == ((0, True) if zero in RESHARDS else (int(zero[-1]) if zero else 0, False))
        assert is_split(trainer.model) == split == is_split(trainer.critic.model)
        torch.save({"start": start, "end": weights, "trained": trained}, out / "weights.pt")
        (out / "metrics.json").write_text(json.dumps(run.metrics))


if __name__ == "__main__":
    main()
