"""A judge behind an OpenAI-compatible endpoint: all steps of a solution in one question, the right answer given."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from reasonrl.prm.judges.base import Judged, Keep, Task, Usage
from reasonrl.prm.judges.questions import READER_VERSION, StepQuestions, read_steps
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.sampling import judge_sampling, sampling_settings
from reasonrl.rewards.judges.streaming import stream_answers

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig
__all__ = ["READER_VERSION", "EndpointJudge", "judged_of", "read_steps"]


class EndpointJudge:
    """Asks a model for the kind of every step (arXiv:2505.14391, Section 4.2 and Figure 7), with a prompt of ours.

    A reply is held against what is known: a kind a step, no cessation or propagation without an open error, no step
    that is plainly right while one is open, a last step that fits the verdict on the final answer. One that fails is
    asked for again with the reason.

    Args:
        endpoint: settings of the judge's endpoint (`endpoints.EndpointConfig`).
        votes: how often each solution is asked about.
        temperature: None is 0 for one vote, else 1.
        max_tokens: of one reply.
        seed: of the first vote, the others count on from it; None sends no seed.
        re_asks: how often the judge is asked again, with the reason, after a reply without labels.
        reply: how the form of replies is asked of the server: `json_schema`, `exact` (for servers that hold every token
            to a schema, such as vLLM), `json_object`, or `text` (not at all).
        longest_reason: characters, for `exact`.
        prompt: file of a prompt of your own, with places for `problem` and `steps`, and if you like `answer`, `correct`
            and `listing` (all steps, each between lines with the code). A prompt may also ask for `"label": 0 or 1` in
            place of `"kind"`.

    Raises:
        EndpointSettingsError, RewardError: settings that cannot be.
    """

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        *,
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 4096,
        seed: int | None = 0,
        re_asks: int = 2,
        reply: str = "json_schema",
        longest_reason: int = 300,
        prompt: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient

        owner = "step judge"
        self.questions = StepQuestions(owner, prompt, reply, longest_reason)
        self.sampling = judge_sampling(
            owner,
            votes=votes,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            re_asks=re_asks,
            extra=self.questions.extra,
        )
        self.client = EndpointClient(endpoint)
        self.votes = votes
        self.at_once = self.client.config.max_concurrency

    def settings(self) -> dict[str, Any]:
        """What changes the labels."""
        return {
            **sampling_settings(self.client, self.sampling),
            **self.questions.settings(),
            "votes": self.votes,
        }

    def judge(self, tasks: Iterable[Task], keep: Keep) -> Generator[Judged, None, None]:
        """As `Judge.judge`.

        Raises:
            EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked with these settings.
        """
        asked: dict[int, Task] = {}
        kept: deque[Judged] = deque()

        def note(question: Question, answer: Answer) -> None:
            judged = self.judged(asked.pop(question.place), answer)
            keep(judged)
            kept.append(judged)

        for _ in stream_answers(self.client, self._questions(tasks, asked), self.sampling, note):
            yield kept.popleft()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def _questions(self, tasks: Iterable[Task], asked: dict[int, Task]) -> Iterator[Question]:
        for number, task in enumerate(tasks):
            asked[number] = task
            yield self.questions.about(task, number)

    def judged(self, task: Task, answer: Answer) -> Judged:
        """What an answer says of a task, at the endpoint's prices."""
        price = self.client.config.price
        return judged_of(task, answer, price.input, price.output)


def judged_of(task: Task, answer: Answer, input_price: float = 0.0, output_price: float = 0.0) -> Judged:
    """What came of a task, at these prices a million tokens."""
    cost = (answer.prompt_tokens * input_price + answer.completion_tokens * output_price) / 1e6
    usage = Usage(answer.asked, answer.prompt_tokens, answer.completion_tokens, cost)
    if answer.failure:
        return Judged(task, failure=answer.failure, usage=usage)
    labels, reasons, kinds = answer.verdict
    return Judged(task, labels, reasons, kinds, usage=usage)
