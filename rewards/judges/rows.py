"""A judge behind an endpoint that says yes or no to a question about a row of data, its pictures beside it."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling, sampling_settings
from reasonrl.rewards.judges.streaming import stream_answers
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for, imitates
from reasonrl.rewards.judges.verdicts import read_word

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

OWN = {"checkable": "row_checkable.j2", "relevance": "row_relevance.j2"}
"""Questions with a prompt of ours."""


@dataclass(frozen=True)
class RowQuestion:
    """What is asked about.

    Attributes:
        place: the asker's own.
        problem, answer: of the row.
        pictures: as URLs (`data:image/png;base64,…`).
    """

    place: int
    problem: str
    answer: str
    pictures: tuple[str, ...] = ()


class RowJudge:
    """Asks a model about rows, several votes each.

    Args:
        question: `checkable` (STEP3-VL, arXiv 2601.09668, 3.2.3: each prompt verified four times, unanimous ones
            stay), `relevance` (do image and question need each other, likewise), or any name with a `prompt`.
        endpoint: the model's server.
        votes, temperature, max_tokens, seed, re_asks: as of
            all judges; without a temperature it is 0 for one vote, else 1.
        prompt: file of a prompt of your own, with a place for `problem`, and if you like `answer`.

    Raises:
        EndpointSettingsError, RewardError: settings that cannot be.
    """

    def __init__(
        self,
        question: str,
        endpoint: EndpointConfig | Mapping[str, Any],
        *,
        votes: int = 4,
        temperature: float | None = None,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        prompt: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient

        self.sampling = judge_sampling(
            f"judge of rows ({question})",
            votes=votes,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            re_asks=re_asks,
        )
        self.votes = votes
        self.prompt = JudgePrompt(prompt, OWN.get(question, ""), ("problem",), ("answer",))
        self.client = EndpointClient(endpoint)

    def settings(self) -> dict[str, Any]:
        """What changes the votes."""
        prompt = hashlib.sha256(self.prompt.text.encode()).hexdigest()[:16]
        return {**sampling_settings(self.client, self.sampling), "votes": self.votes, "prompt": prompt}

    def ask(
        self, rows: Iterable[RowQuestion], keep: Callable[[int, int, Answer], None] | None = None
    ) -> Iterator[tuple[int, int, Answer]]:
        """(place, vote, answer) as they come, in no order; the verdict is True, False or None where there is none.

        Raises:
            EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked with these settings.
        """

        def note(question: Question, answer: Answer) -> None:
            if keep is not None:
                keep(question.place, question.vote, answer)

        for question, answer in stream_answers(self.client, self._questions(rows), self.sampling, note):
            yield question.place, question.vote, answer

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _questions(self, rows: Iterable[RowQuestion]) -> Iterator[Question]:
        for row in rows:
            code = code_for(self.prompt.text, row.problem, row.answer)
            needed = imitates(r"VERDICT", row.problem, row.answer, words=("verdict",))
            text = self.prompt.fill(code, {"problem": row.problem, "answer": row.answer})
            read = functools.partial(_read, code=code, code_needed=needed)
            shown: Sequence[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": one}} for one in row.pictures]
            for vote in range(self.votes):
                yield Question(row.place, text, read, vote, media=tuple(shown))


def _read(reply: str, code: str, code_needed: bool) -> bool:
    return read_word(reply, ("YES", "NO"), code, code_needed) == "YES"
