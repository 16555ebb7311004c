"""A trained process reward model as a judge."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, RewardError
from reasonrl.prm.judges.base import Judged, Keep, Task
from reasonrl.prm.steps import spans_of

if TYPE_CHECKING:
    from reasonrl.prm.scoring import StepScorer

NO_STEP = "no step ends within max_length: the solution is longer than the model may read"


class PRMJudge:
    """Calls a step right where a process reward model's P(right) reaches a threshold (arXiv:2505.14403, Eqs. 3 to 5:
    the discriminative judge with its threshold lambda); P(right) itself stands in `soft`.

    The model reads what stands before a step and the step, never what follows, and not the right answer. Steps that end
    beyond `max_length` stay open (null, in `soft` too); a solution none of whose steps ends before it is a failure.

    Args:
        model: the folder of a process reward model, as a stage of kind `prm` makes it.
        threshold: from which P(right) on a step is called right.
        max_length: tokens of prompt and solution that are read; None reads all.
        tokens_per_microbatch: tokens that go through the model at once.
        at_once: solutions that are scored together.
        dtype: of the weights; `auto` takes bfloat16 on an accelerator and float32 without one.

    Raises:
        RewardError: a threshold that cannot be.
        ModelError: there is no such model, or it has no trained head.
    """

    votes = 1

    def __init__(
        self,
        model: str,
        *,
        threshold: float = 0.5,
        max_length: int | None = None,
        tokens_per_microbatch: int = 16384,
        at_once: int = 128,
        dtype: str = "auto",
    ) -> None:
        from reasonrl.prm.scoring import trained_folder

        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold < 1:
            raise RewardError(f"prm judge: threshold={threshold!r} -> give a number between 0 and 1")
        for name, value in (
            ("max_length", max_length),
            ("tokens_per_microbatch", tokens_per_microbatch),
            ("at_once", at_once),
        ):
            fits = isinstance(value, int) and not isinstance(value, bool) and value > 0
            if not fits and not (name == "max_length" and value is None):
                raise RewardError(f"prm judge: {name}={value!r} -> give a whole number above 0")
        self.folder = trained_folder(model)
        self.name, self.threshold, self.max_length = model, float(threshold), max_length
        self.tokens, self.at_once, self.dtype = tokens_per_microbatch, at_once, dtype
        self._scorer: StepScorer | None = None

    def settings(self) -> dict[str, Any]:
        """What changes the labels; the model by its weights, not by where it lies."""
        from reasonrl.fingerprint import model_fingerprint

        return {
            "judge": "prm",
            "prompt_hash": None,
            "model": model_fingerprint(self.folder),
            "threshold": self.threshold,
            "max_length": self.max_length,
        }

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`; solutions are scored `at_once` at a time."""
        waiting = iter(tasks)
        while some := list(itertools.islice(waiting, self.at_once)):
            judged = self._judged(some)
            for one in judged:
                keep(one)
            yield from judged

    def close(self) -> None:
        """Let go of the model."""
        self._scorer = None

    def _judged(self, tasks: Sequence[Task]) -> list[Judged]:
        if self._scorer is None:
            from reasonrl.prm.scoring import load_scorer

            self._scorer = load_scorer(
                self.name, tokens_per_microbatch=self.tokens, max_length=self.max_length, dtype=self.dtype
            )
        found: dict[int, Judged] = {}
        encoded = {}
        for number, task in enumerate(tasks):
            try:
                encoded[number] = self._scorer.encoder(_record(task))
            except DataError as problem:
                found[number] = Judged(task, failure=str(problem))
        scores = self._scorer.score_encoded(list(encoded.values()))
        for number, of_steps in zip(encoded, scores, strict=True):
            found[number] = self._labelled(tasks[number], of_steps)
        return [found[number] for number in range(len(tasks))]

    def _labelled(self, task: Task, scores: Sequence[float | None]) -> Judged:
        if all(score is None for score in scores):
            return Judged(task, failure=NO_STEP)
        labels = tuple(None if score is None else int(score >= self.threshold) for score in scores)
        soft = tuple(None if score is None else round(score, 6) for score in scores)
        return Judged(task, labels, soft=soft)


def _record(task: Task) -> Mapping[str, Any]:
    solution = task.solution
    known = {"id": solution.id, "text": solution.text, "steps": spans_of(solution.steps)}
    return {**solution.row, "problem": solution.problem, **known}
