"""Scores of a process reward model as rewards of single tokens: each step's on the token that it ends with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from reasonrl.data_tools.pictures import COLUMNS
from reasonrl.errors import DataError
from reasonrl.prm.steps import Step, spans_of, token_ends
from reasonrl.prm.token_steps import token_spans

if TYPE_CHECKING:
    from reasonrl.models.scalar_head import ScalarHeadModel
    from reasonrl.prm.scoring import StepScorer

Form = Literal["score", "change"]


class ProcessReward:
    """A reward of tokens (`token_level`) for a trainer: what a process reward model says of each step of a response.

    The response's text is cut into steps and read in one pass, as in training and scoring; the tokens that were drawn
    may be others than the ones the model's tokenizer makes of the text, so a step's end is looked for among them by
    characters. Of P(right) p_1..p_K a step's reward is

    * `score`: p_k - offset: what is likely wrong is punished, and every step counts.
    * `change`: p_k - p_(k-1), with p_0 = offset: the steps' rewards add up to p_K - offset however many they are, so
      that nothing is earned by writing more of them (potential-based shaping, Ng, Harada and Russell 1999).

    It is held within +-`clip`, divided by K where `average` says so, and multiplied by `weight`.

    Args:
        model: the process reward model; it is not trained, and goes to the accelerator with the first call.
        tokenizer: the model's.
        policy_tokenizer: of the tokens that are rewarded.
        segmenter: from a text to its steps.
        weight, form, offset, clip, average: as above.
        max_length: longest prompt and response that the model reads; steps that end beyond have no reward, and are
            counted.
        tokens_per_microbatch: tokens that go through the model at once.
    """

    token_level = True
    __name__ = "process_reward"

    def __init__(
        self,
        model: ScalarHeadModel,
        tokenizer: Any,
        policy_tokenizer: Any,
        segmenter: Callable[[str], list[Step]],
        *,
        weight: float = 1.0,
        form: Form = "score",
        offset: float = 0.5,
        clip: float | None = None,
        average: bool = False,
        max_length: int | None = None,
        tokens_per_microbatch: int = 16384,
    ) -> None:
        self.model, self.tokenizer, self.segmenter = model, tokenizer, segmenter
        self.policy_tokenizer = getattr(policy_tokenizer, "tokenizer", policy_tokenizer)  # of a processor
        self.weight, self.form, self.offset, self.clip, self.average = weight, form, offset, clip, average
        self.max_length, self.tokens = max_length, tokens_per_microbatch
        self._scorer: StepScorer | None = None
        self._figures: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[list[float]]:
        """[B][T] rewards of the response tokens."""
        records, places = [], []
        for number, (prompt, text) in enumerate(zip(prompts, completions, strict=True)):
            if steps := self.segmenter(text):
                asked = {"problem": prompt} if isinstance(prompt, str) else {"prompt": prompt}
                seen = {name: columns[name][number] for name in COLUMNS if name in columns}
                records.append({"id": str(number), **asked, **seen, "text": text, "steps": spans_of(steps)})
                places.append(number)
        scores = self._ready()(records)
        rewards = [[0.0] * len(ids) for ids in completion_ids]
        for number, record, of_steps in zip(places, records, scores, strict=True):
            steps = [Step(*span) for span in record["steps"]]
            self._place(rewards[number], completion_ids[number], completions[number], steps, of_steps)
        self._count("steps", sum(len(record["steps"]) for record in records), len(completions))
        self._count("sum", sum(map(sum, rewards)), len(completions))
        return rewards

    def take_figures(self) -> dict[str, tuple[float, float]]:
        """Sum and count of each figure since the last time it was asked."""
        taken = {f"process_reward/{name}": (total, count) for name, (total, count) in self._figures.items()}
        self._figures.clear()
        return taken

    def of_steps(self, scores: Sequence[float | None]) -> list[float | None]:
        """[K] rewards of the steps from their P(right); None where there is none."""
        rewards: list[float | None] = []
        before = self.offset
        for score in scores:
            if score is None:
                rewards.append(None)
                continue
            reward = score - (self.offset if self.form == "score" else before)
            before = score
            if self.clip is not None:
                reward = min(self.clip, max(-self.clip, reward))
            rewards.append(self.weight * reward / (len(scores) if self.average else 1))
        return rewards

    def _place(
        self, row: list[float], ids: Sequence[int], text: str, steps: Sequence[Step], scores: Sequence[float | None]
    ) -> None:
        known = [score for score in scores if score is not None]
        self._count("score", sum(known), len(known))
        self._count("unread_steps_fraction", len(scores) - len(known), len(scores))
        if known:
            self._count("last_score", known[-1], 1)
        try:
            spans = token_spans(self.policy_tokenizer, ids, text)
        except DataError:  # another's text: no token of it is known
            self._count("unplaced_fraction", 1, 1)
            return
        self._count("unplaced_fraction", 0, 1)
        offsets = [span or (0, 0) for span in spans]
        for end, reward in zip(token_ends(steps, offsets, text), self.of_steps(scores), strict=True):
            if reward is not None and end >= 0:
                row[end] += reward

    def _ready(self) -> StepScorer:
        if self._scorer is None:
            import torch

            from reasonrl.prm.scoring import StepScorer

            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None
            model = self.model if device is None else self.model.to(device)
            self._scorer = StepScorer(
                model.eval(), self.tokenizer, tokens_per_microbatch=self.tokens, max_length=self.max_length
            )
        return self._scorer

    def _count(self, name: str, total: float, count: float) -> None:
        figure = self._figures[name]
        figure[0] += total
        figure[1] += count
