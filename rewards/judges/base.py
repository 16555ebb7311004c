"""What the judge rewards have in common: the endpoint, the prompt, the questions, and what is logged."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.early import Begun
from reasonrl.rewards.judges.asking import Answer, Question, ask_all, ask_early
from reasonrl.rewards.judges.sampling import judge_sampling
from reasonrl.rewards.judges.texts import imitates, problem_of, visible

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointClient, EndpointConfig

Log = Callable[..., None]
_SAID = 500


@dataclass(frozen=True)
class Case:
    """One completion to be judged.

    Attributes:
        place: its place in the batch.
        problem: what was asked of the policy.
        text: what of the completion is judged.
        standard: what it is judged by: a gold, a reference response, a rubric.
        code_needed: it holds words that look like a verdict; a true one carries the question's code.
    """

    place: int
    problem: str
    text: str
    standard: Any
    code_needed: bool


class JudgeReward(ABC):
    """A reward that asks a judge model. Subclasses say what is asked and what follows from the answers.

    `None` is given where the judge failed for reasons that are not the response's: it is counted, and the sample is
    left out. A response with nothing outside its think block gets 0 unasked, and so does one that imitates a verdict
    when the judge then gives none that can be told from the imitation.

    Args:
        endpoint: settings of the judge's endpoint (`endpoints.EndpointConfig`).
        votes: how often each question is asked.
        temperature: None is 0 for one vote, else 1.
        max_tokens: of one reply of the judge.
        seed: of the first vote, the others count on from it; None sends no seed.
        re_asks: how often the judge is asked again, with the reason, after a reply without a verdict.
        keep_thinking: judge the think block too.
        problem: column with the problem; None takes it from the prompt (the user's last turn).
    """

    token_level = False
    name = "judge"
    verdict_pattern = ""
    """What a verdict without a code looks like: a response in which it is found needs the code in its verdict."""

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        keep_thinking: bool = False,
        problem: str | None = None,
    ) -> None:
        from reasonrl.endpoints import EndpointClient, EndpointSettingsError

        self.__name__ = self.name
        self.sampling = judge_sampling(
            f"reward {self.name!r}",
            votes=votes,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            re_asks=re_asks,
        )
        try:
            self.client: EndpointClient = EndpointClient(endpoint)
        except EndpointSettingsError as problem_found:
            raise RewardError(f"reward {self.name!r}: {problem_found}") from None
        self.votes = votes
        self.keep_thinking = keep_thinking
        self.problem = problem
        self._begun: Begun[Answer] = Begun()
        self._deciding: Begun[None] = Begun()

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Log | None = None,
        log_metric: Log | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores in [0, 1]; None where a row has nothing to judge by, or the judge failed. What it said goes to
        `log_extra`, shares and costs to `log_metric`.
        """
        count = len(completions)
        texts, scores, known, cases = self._cases(prompts, completions, columns)
        self._join(completions)
        answers, tally = self._ask([question for case in cases for question in self._questions(case)], count)
        for case in cases:
            scores[case.place] = self._score(case, answers[case.place])
        shares = {
            "empty": sum(not text for text in texts) / max(count, 1),
            "imitated": sum(imitated(answers[case.place], case.code_needed) for case in cases) / max(count, 1),
            "by_rule": len(known) / max(count, 1),
            **self._shares([answers[case.place] for case in cases], count),
        }
        self._log(scores, answers, tally, log_extra, log_metric, shares)
        return scores

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin to ask about one sample; see `early`."""
        if self._begun.since is None:
            self._begun.since = self.client.counters()
        with contextlib.suppress(RewardError):  # whatever is wrong, the call says it
            columns = {key: [value] for key, value in row.items()}
            standard, completions = self._standards(columns, 1)[0], [completion]
            wanted = standard is not None and self._texts(completions)[0]
            decision = self._decide(standard, completion) if wanted else None
            if decision is None:
                self._ask_now([prompt], completions, columns, {})
                return
            # Whoever draws samples waits for no verdict, and a call only for those on its own samples.
            done: concurrent.futures.Future[None] = concurrent.futures.Future()
            self._deciding.put(text_of(completion), done)
            decision.add_done_callback(functools.partial(self._decided, [prompt], completions, columns, done))

    def drop(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Give up what was begun about one sample; see `early`."""
        self._join([completion])
        with contextlib.suppress(RewardError):
            columns = {key: [value] for key, value in row.items()}
            _, _, _, cases = self._cases([prompt], [completion], columns, {})
            for question in (question for case in cases for question in self._questions(case)):
                if (begun := self._begun.take((question.prompt, question.vote))) is not None:
                    begun.cancel()

    def forget(self) -> None:
        """Give up all that was begun; see `early`."""
        self._deciding.clear()
        self._begun.clear()

    def _decided(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Any],
        done: concurrent.futures.Future[None],
        decision: concurrent.futures.Future[float | None],
    ) -> None:
        """Ask, where the rules leave it open."""
        try:
            score = decision.result()
            self._ask_now(prompts, completions, columns, {} if score is None else {0: score})
        except Exception:  # what is wrong is found again in the call, which says it
            pass
        finally:
            if not done.cancelled():  # given up meanwhile
                done.set_result(None)

    def _ask_now(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Any],
        known: Mapping[int, float],
    ) -> None:
        _, _, _, cases = self._cases(prompts, completions, columns, known)
        for case in cases:
            ask_early(self.client, self._questions(case), self.sampling, self._begun)

    def _join(self, completions: Sequence[Any]) -> None:
        """Wait until what `begin` had to decide about these completions is decided, and asked."""
        for completion in completions:
            if (deciding := self._deciding.take(text_of(completion))) is not None:
                concurrent.futures.wait([deciding])

    def _cases(
        self,
        prompts: Sequence[Any] | None,
        completions: Sequence[Any],
        columns: Mapping[str, Any],
        known: Mapping[int, float] | None = None,
    ) -> tuple[list[str], list[float | None], Mapping[int, float], list[Case]]:
        """What is judged of each completion, the scores that stand before a judge is asked, those of them that rules
        gave, and what the judge is to be asked about.
        """
        count = len(completions)
        texts = self._texts(completions)
        problems = self._problems(prompts, columns, count)
        standards = self._standards(columns, count)
        scores: list[float | None] = [None if standard is None else 0.0 for standard in standards]
        wanted = [place for place in range(count) if standards[place] is not None and texts[place]]
        if known is None:
            known = self._known({place: (standards[place], completions[place]) for place in wanted})
        cases = []
        for place in wanted:
            if place in known:
                scores[place] = known[place]
                continue
            problem, text, standard = problems[place], texts[place], standards[place]
            code_needed = imitates(self.verdict_pattern, text, problem, *self._untrusted(standard))
            cases.append(Case(place, problem, text, standard, code_needed))
        return texts, scores, known, cases

    @abstractmethod
    def _standards(self, columns: Mapping[str, Any], count: int) -> Sequence[Any]:
        """What each completion is judged by; None where its row has none."""

    @abstractmethod
    def _questions(self, case: Case) -> list[Question]:
        """What the judge is asked about one completion."""

    @abstractmethod
    def _score(self, case: Case, answers: Sequence[Answer]) -> float | None:
        """What follows from the answers, in the order of the questions."""

    def _known(self, pairs: Mapping[int, tuple[Any, Any]]) -> Mapping[int, float]:
        """Scores by place that need no judge; `pairs` are standards and completions by place."""
        return {}

    def _decide(self, standard: Any, completion: Any) -> concurrent.futures.Future[float | None] | None:
        """`_known` of one completion, without waiting: its score or None; None where that takes no time, or the call
        has to do it.
        """
        return None

    def _untrusted(self, standard: Any) -> tuple[str, ...]:
        """Texts of a standard that may hold words of a verdict."""
        return ()

    def _shares(self, answers: Sequence[Sequence[Answer]], count: int) -> Mapping[str, float]:
        """What else is logged: name -> value, of the answers to each case and the number of completions."""
        return {}

    def _texts(self, completions: Sequence[Any]) -> list[str]:
        texts = [text_of(completion) for completion in completions]
        return texts if self.keep_thinking else [visible(text) for text in texts]

    def _problems(self, prompts: Sequence[Any] | None, columns: Mapping[str, Any], count: int) -> list[str]:
        if self.problem is not None:
            return [str(value) for value in self._column(self.problem, columns, count)]
        if prompts is None:
            return [""] * count
        if len(prompts) != count:
            raise RewardError(f"reward {self.name!r}: {count} completions, but {len(prompts)} prompts")
        return [problem_of(prompt) for prompt in prompts]

    def _column(self, name: str, columns: Mapping[str, Any], count: int) -> Sequence[Any]:
        values = columns.get(name)
        if values is None:
            there = ", ".join(sorted(columns)) or "none"
            raise RewardError(
                f"reward {self.name!r}: there is no column {name!r}; columns: {there} -> map it with data.columns"
            )
        if len(values) != count:
            raise RewardError(f"reward {self.name!r}: {count} completions, but {len(values)} values of {name!r}")
        listed: Sequence[Any] = values
        return listed

    def _ask(self, questions: Sequence[Question], count: int) -> tuple[list[list[Answer]], Tally]:
        """The answers to each of `count` completions in the order of its questions, and the counts so far."""
        before = self._begun.since or self.client.counters()
        self._begun.since = None
        of_place: list[list[Answer]] = [[] for _ in range(count)]
        answers = ask_all(self.client, questions, self.sampling, self._begun)
        for question, answer in zip(questions, answers, strict=True):
            of_place[question.place].append(answer)
        after = self.client.counters()
        tally = Tally(
            asked=sum(map(bool, of_place)),
            questions=len(answers),
            failed=sum(bool(answer.failure) and not answer.unreadable for answer in answers),
            unreadable=sum(answer.unreadable for answer in answers),
            re_asked=sum(answer.asked - 1 for answer in answers),
            cost=after.cost - before.cost,
            tokens=after.prompt_tokens + after.completion_tokens - before.prompt_tokens - before.completion_tokens,
            first_failure=next((answer.failure for answer in answers if answer.failure), ""),
        )
        return of_place, tally

    def _log(
        self,
        scores: Sequence[float | None],
        answers: Sequence[Sequence[Answer]],
        tally: Tally,
        log_extra: Log | None,
        log_metric: Log | None,
        shares: Mapping[str, float],
    ) -> None:
        if log_extra is not None:
            log_extra(f"{self.name}_said", [_said(of_place) for of_place in answers])
        if log_metric is None or not scores:
            return
        log_metric(f"{self.name}/asked", tally.asked / len(scores))
        log_metric(f"{self.name}/unscored", sum(score is None for score in scores) / len(scores))
        log_metric(f"{self.name}/tokens", float(tally.tokens))
        log_metric(f"{self.name}/cost", tally.cost)
        if tally.questions:
            log_metric(f"{self.name}/failed", tally.failed / tally.questions)
            log_metric(f"{self.name}/unreadable", tally.unreadable / tally.questions)
            log_metric(f"{self.name}/re_asked", tally.re_asked / tally.questions)
        for name, value in shares.items():
            log_metric(f"{self.name}/{name}", value)


@dataclass(frozen=True)
class Tally:
    """What was counted while a batch was judged."""

    asked: int
    questions: int
    failed: int
    unreadable: int
    re_asked: int
    cost: float
    tokens: int
    first_failure: str


def enough(answers: Sequence[Answer]) -> list[Any] | None:
    """The verdicts of one completion's votes, if they are more than half of those asked for; else None."""
    verdicts = [answer.verdict for answer in answers if not answer.failure]
    return verdicts if 2 * len(verdicts) > len(answers) else None


def imitated(answers: Sequence[Answer], code_needed: bool) -> bool:
    """True where the response holds words of a verdict and the judge, which did reply, gave none with the code.

    To leave such a response out would let it escape a bad verdict by writing one itself.
    """
    return code_needed and any(answer.unreadable for answer in answers)


def _said(answers: Sequence[Answer]) -> str:
    """The judge's first vote in brief, or why there is none."""
    if not answers:
        return ""
    first = answers[0]
    return (f"FAILED: {first.failure}" if first.failure else first.reply.strip())[-_SAID:]
