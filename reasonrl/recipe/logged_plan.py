"""The arithmetic of training on logged samples: from problems to optimizer steps, before anything is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LoggedPlan:
    """What a stage would train on if every problem were kept and every sample as long as it may be.

    Attributes:
        problems, n, max_tokens: problems, samples of each, and the most tokens of one.
        epochs: passes over the samples; None where `max_steps` rules.
        max_steps: optimizer steps, where they are given.
        samples_per_step, processes: of an optimizer step.
    """

    problems: int
    n: int
    max_tokens: int
    epochs: float | None
    max_steps: int | None
    samples_per_step: int
    processes: int

    @property
    def samples(self) -> int:
        """Rows."""
        return self.problems * self.n

    @property
    def tokens(self) -> int:
        """Tokens of all responses."""
        return self.samples * self.max_tokens

    @property
    def draws(self) -> int:
        """Samples seen in all."""
        if self.max_steps is not None:
            return self.max_steps * self.samples_per_step
        return math.floor((self.epochs or 1.0) * self.samples)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.max_steps if self.max_steps is not None else math.ceil(self.draws / self.samples_per_step)

    def __str__(self) -> str:
        how_long = f"{self.steps:,} steps x {self.samples_per_step:,} samples = {self.draws:,} draws"
        if self.max_steps is None:
            how_long = (
                f"{self.epochs or 1.0:g} epochs x {self.samples:,} samples = {self.draws:,} draws,"
                f" / {self.samples_per_step:,} = {self.steps:,} steps"
            )
        return (
            f"at most {self.problems:,} problems x {self.n} = {self.samples:,} samples, x {self.max_tokens:,} ="
            f" {self.tokens:,} tokens; {how_long}; {self.samples_per_step / self.processes:g} samples a step on each of"
            f" {self.processes} process{'es' if self.processes > 1 else ''}"
        )
