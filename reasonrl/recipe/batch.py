"""Batch arithmetic: from prompts and samples to the optimizer steps of one PPO step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonrl.recipe.fields import Issue


@dataclass(frozen=True)
class BatchPlan:
    """What one PPO step does.

    Attributes:
        prompts, samples_per_prompt, samples: the rollout batch over all processes (samples = prompts x
            samples_per_prompt).
        num_processes, samples_per_process: how the batch is spread.
        critic_steps, samples_per_critic_step: optimizer steps of the critic, and the samples each sees over all
            processes.
        actor_steps, num_iterations, samples_per_actor_step: mini-batches of the policy, passes over them, and the
            samples each sees.
        actor_optimizer_steps: actor_steps x num_iterations.
    """

    prompts: int
    samples_per_prompt: int
    num_processes: int
    critic_steps: int
    actor_steps: int
    num_iterations: int
    has_critic: bool = True

    @property
    def samples(self) -> int:
        return self.prompts * self.samples_per_prompt

    @property
    def samples_per_process(self) -> int:
        return self.samples // self.num_processes

    @property
    def samples_per_critic_step(self) -> int:
        return self.samples // self.critic_steps

    @property
    def samples_per_actor_step(self) -> int:
        return self.samples // self.actor_steps

    @property
    def actor_optimizer_steps(self) -> int:
        return self.actor_steps * self.num_iterations

    def __str__(self) -> str:
        critic = (
            f"{self.critic_steps} critic step{_s(self.critic_steps)} of {self.samples_per_critic_step} samples"
            if self.has_critic
            else "no critic"
        )
        passes = f" x {self.num_iterations} passes" if self.num_iterations > 1 else ""
        return (
            f"{self.prompts} prompts x {self.samples_per_prompt} samples = {self.samples} samples a step"
            f" / {self.num_processes} process{'es' if self.num_processes > 1 else ''} = {self.samples_per_process} each"
            f" -> {critic}, {self.actor_steps} policy step{_s(self.actor_steps)}"
            f" of {self.samples_per_actor_step} samples{passes}"
        )


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def plan_batch(
    prompts_per_step: int,
    num_generations: int = 1,
    *,
    num_processes: int = 1,
    critic_steps: int = 1,
    actor_steps: int = 1,
    num_iterations: int = 1,
    has_critic: bool = True,
) -> BatchPlan:
    """The plan of one PPO step.

    Raises:
        ValueError: the samples cannot be divided evenly; the message names both numbers.
    """
    plan = BatchPlan(
        prompts_per_step, num_generations, num_processes, critic_steps, actor_steps, num_iterations, has_critic
    )
    issues = batch_problems({**vars(plan), "prompts_per_step": prompts_per_step, "num_generations": num_generations})
    if issues:
        raise ValueError("; ".join(f"{issue.key}: {issue.message}" for issue in issues))
    return plan


def batch_problems(given: Mapping[str, Any]) -> list[Issue]:
    """Which divisors do not divide the samples of a step; keys that are missing or no positive whole number are passed
    over.

    `given` holds a PPO stage's raw values: prompts_per_step, num_generations, actor_steps, critic_steps, and
    num_processes (or launch).
    """
    prompts, samples = _count(given.get("prompts_per_step")), _count(given.get("num_generations"))
    if prompts is None or samples is None:
        return []
    launch = given.get("launch")
    processes = (
        launch.get("num_processes")
        if isinstance(launch, Mapping)
        else getattr(launch, "num_processes", given.get("num_processes"))
    )
    total = prompts * samples
    issues = []
    for key, divisor in (
        ("actor_steps", _count(given.get("actor_steps"))),
        ("critic_steps", _count(given.get("critic_steps"))),
        ("num_processes", _count(processes)),
    ):
        if divisor is not None and total % divisor:
            close = [count for count in range(1, total + 1) if total % count == 0]
            nearest = min(close, key=lambda count: abs(count - divisor))
            product = f"prompts_per_step {prompts} x num_generations {samples} = {total}"
            message = f"is {divisor}, which does not divide the samples of a step: {product}"
            fix = f"use {nearest}, or prompts_per_step: {_round_up(prompts, samples, divisor)}"
            issues.append(Issue("launch.num_processes" if key == "num_processes" else key, message, fix))
    return issues


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _round_up(prompts: int, samples: int, divisor: int) -> int:
    while prompts * samples % divisor:
        prompts += 1
    return prompts
