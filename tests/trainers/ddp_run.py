"""PPO runs, one after the other, under however many processes `accelerate launch` gives; rank 0 writes the weights.

Used by test_ppo_ranks.py: `ddp_run.py FOLDER SETTINGS [FOLDER SETTINGS …]`.
"""

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from helpers import even_share, make_run, process_reward


def wait_for_the_other(run, out):
    """Rank 0 draws its first sample of a step after rank 1 has drawn its last: between, rank 1 can call nobody. Samples
    come last to first.
    """
    stream, rank = run.trainer.engine.stream, run.trainer.accelerator.process_index
    others = run.trainer.accelerator.num_processes > 1

    def one_after_the_other(requests, params):
        done = out / f"drawn-{run.trainer.state.global_step}"
        started = time.monotonic()
        while others and rank == 0 and not done.exists():
            assert time.monotonic() - started < 120, "rank 1 waits for rank 0 while it draws"
            time.sleep(0.01)
        yield from list(stream(requests, params))[::-1]
        if rank == 1:
            done.touch()

    run.trainer.engine.stream = one_after_the_other


def run_in(out, settings):
    one_at_a_time = settings.pop("one_rank_after_the_other", False)
    resume = settings.pop("resume", None)

    def some(completions, completion_ids, log_metric, **columns):
        """Some answers cannot be scored: the ranks then hold different numbers of counting tokens."""
        log_metric("first_token", sum(ids[0] for ids in completion_ids) / len(completion_ids))
        scores = even_share(completions, completion_ids)
        return [None if ids[0] % 7 == 0 else score for ids, score in zip(completion_ids, scores, strict=True)]

    shaped = [process_reward(torch.float64, weight=0.3)] if settings.pop("process_reward", False) else []
    run = make_run(out / "run", rewards=[some, *shaped], dtype=torch.float64, **settings)
    if one_at_a_time:
        wait_for_the_other(run, out)
    run.trainer.train(resume)
    if run.trainer.accelerator.is_main_process:
        unwrap = run.trainer.accelerator.unwrap_model
        torch.save(
            {
                "policy": unwrap(run.trainer.model).state_dict(),
                "critic": run.trainer.critic.unwrapped.state_dict() if run.trainer.critic else {},
                "start": run.start,
                "critic_start": run.critic_start,
            },
            out / "weights.pt",
        )
        (out / "metrics.json").write_text(json.dumps(run.metrics))


if __name__ == "__main__":
    for folder, settings in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        run_in(Path(folder), json.loads(settings))
