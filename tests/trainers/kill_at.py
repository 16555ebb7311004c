"""Run a recipe in this process and die by SIGKILL at a named point; used by test_ppo_kill.py as a real process.

Usage: kill_at.py POINT COUNT RECIPE [a.b=c …]: die at the COUNT-th time POINT is reached.
"""

import os
import signal
import sys

from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe


def die_at(owner, name, count, matches=lambda *args: True, before=True):
    """Replace a function by one that kills this process at its `count`-th matching call."""
    original = getattr(owner, name)
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        if matches(*args):
            calls += 1
            if calls == count:
                if not before:
                    original(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, wrapped)


def plant(point, count):
    from reasonrl.observe import CompletionsWriter, MetricsWriter
    from reasonrl.pipeline import files
    from reasonrl.rollout.transformers_engine import TransformersEngine
    from reasonrl.trainers import ppo_callbacks
    from reasonrl.trainers._trl import RolloutHooks
    from reasonrl.trainers.critic import CriticEngine

    if point == "generation":
        die_at(TransformersEngine, "_advance", count)
    elif point == "scoring":
        die_at(RolloutHooks, "_calculate_rewards", count)
    elif point == "critic update":
        die_at(CriticEngine, "step", count)
    elif point == "policy update":
        from reasonrl.trainers.update import PPOUpdate

        die_at(PPOUpdate, "_policy_minibatch", count)
    elif point == "saving the critic":
        die_at(CriticEngine, "save", count)
    elif point == "writing samples drawn ahead":
        from reasonrl.trainers import drawn_files

        die_at(drawn_files, "write_parquet", count)
    elif point == "marking the checkpoint":
        die_at(ppo_callbacks, "mark_complete", count)
    elif point == "after the metrics line":
        die_at(MetricsWriter, "write", count, before=False)
    elif point == "after the completions":
        die_at(CompletionsWriter, "write", count, before=False)
    elif point == "supervised step":
        from reasonrl.trainers.sft import SFTCallback

        die_at(SFTCallback, "on_step_end", count)
    elif point == "done.json half written":
        original = os.replace

        def replace(source, target, **kwargs):
            if str(target).endswith("done.json"):
                os.kill(os.getpid(), signal.SIGKILL)
            original(source, target, **kwargs)

        files.os.replace = replace
    else:
        raise SystemExit(f"unknown point {point!r}")


if __name__ == "__main__":
    plant(sys.argv[1], int(sys.argv[2]))
    train(load_recipe(sys.argv[3], sys.argv[4:]))
    raise SystemExit("the run ended without reaching the point")
