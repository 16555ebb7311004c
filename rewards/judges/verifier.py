"""A judge that is given the reference answer and says whether a response is right."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.columns import GOLD_COLUMNS, column_named
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.base import Case, JudgeReward, enough, imitated
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for
from reasonrl.rewards.judges.verdicts import read_word

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig
    from reasonrl.rewards.verdict import Verdict

_WORDS = ("CORRECT", "WRONG")
_RULES = ("majority", "mean")
_WHOLE_NUMBER = re.compile(r"[-+−]?\d{1,15}")


class LLMVerifierReward(JudgeReward):
    """1 for a response that the judge finds right, 0 for one that it finds wrong.

    The judge compares the final answer with the reference first, then looks at the process, the form, and whether every
    sub-question is answered (Step 3.5 Flash, arXiv:2602.10604, section 5: model verifier).

    Args:
        vote_rule: `majority` of the votes (a tie is wrong), or their `mean`. Votes that failed do not count; if only
            half of them or fewer came, there is no reward.
        gold: column with the reference answers; None takes `answer`, else `solution`.
        reject_unsupported: a right answer whose reasoning does not support it is wrong.
        rule_first: ask no judge where the rules of `math` are certain: `correct` under the policy `strict` (not with
            `reject_unsupported`), or both sides whole numbers that differ.
        prompt: file of a prompt of your own, with places for `problem`, `gold` and `response`, and if you like
            `reject_unsupported`.
        endpoint, votes, temperature, max_tokens, seed, re_asks, keep_thinking, problem: see `JudgeReward`.
    """

    name = "llm_verifier"
    verdict_pattern = r"verdict\W+(?:\w+\W+)?(?:correct|wrong)"

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        votes: int = 1,
        vote_rule: str = "majority",
        gold: str | None = None,
        reject_unsupported: bool = False,
        rule_first: bool = False,
        prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        keep_thinking: bool = False,
        problem: str | None = None,
    ) -> None:
        super().__init__(endpoint, votes, temperature, max_tokens, seed, re_asks, keep_thinking, problem)
        if vote_rule not in _RULES:
            raise RewardError(f"reward 'llm_verifier': vote_rule {vote_rule!r} is unknown{near(vote_rule, _RULES)}")
        self.vote_rule = vote_rule
        self.gold = gold
        self.reject_unsupported = reject_unsupported
        self.rule_first = rule_first
        self.prompt = JudgePrompt(prompt, "verifier.j2", ("problem", "gold", "response"), ("reject_unsupported",))

    def _standards(self, columns: Mapping[str, Any], count: int) -> list[str | None]:
        column = column_named(self.name, self.gold, GOLD_COLUMNS, columns)
        golds = self._column(column, columns, count)
        return [gold if isinstance(gold, str) and gold.strip() else None for gold in golds]

    def _questions(self, case: Case) -> list[Question]:
        code = code_for(self.prompt.text, case.problem, case.standard, case.text)
        values = {
            "problem": case.problem,
            "gold": case.standard,
            "response": case.text,
            "reject_unsupported": self.reject_unsupported,
        }
        prompt = self.prompt.fill(code, values)
        read = functools.partial(read_word, words=_WORDS, code=code, code_needed=case.code_needed)
        return [Question(case.place, prompt, read, vote) for vote in range(self.votes)]

    def _score(self, case: Case, answers: Sequence[Answer]) -> float | None:
        words = enough(answers)
        if words is None:
            return 0.0 if imitated(answers, case.code_needed) else None
        share = sum(word == "CORRECT" for word in words) / len(words)
        return share if self.vote_rule == "mean" else float(share > 0.5)

    def _known(self, pairs: Mapping[int, tuple[str, Any]]) -> dict[int, float]:
        """Where the rules of `math` are certain."""
        if not self.rule_first or not pairs:
            return {}
        from reasonrl.rewards.functions import MathReward

        golds, completions = zip(*pairs.values(), strict=True)
        verdicts = MathReward(policy="strict").verdicts(completions, answer=golds)
        scores = {place: self._by_rule(verdict) for place, verdict in zip(pairs, verdicts, strict=True)}
        return {place: score for place, score in scores.items() if score is not None}

    def _decide(self, standard: Any, completion: Any) -> Future[float | None] | None:
        if not self.rule_first:
            return None
        from reasonrl.rewards.pool import shared_pool

        verdict = shared_pool().offer(standard, text_of(completion), "strict")
        if verdict is None:  # no room: the call decides
            return None
        decided: Future[float | None] = Future()

        def pass_on(made: Future[Verdict]) -> None:
            try:
                decided.set_result(self._by_rule(made.result()))
            except BaseException as problem:
                decided.set_exception(problem)

        verdict.add_done_callback(pass_on)
        return decided

    def _by_rule(self, verdict: Verdict) -> float | None:
        """The score, where the rules of `math` are certain."""
        sides = (verdict.gold.strip(), (verdict.extracted or "").strip())
        if verdict.status == "correct" and not self.reject_unsupported:
            return 1.0
        return 0.0 if verdict.status == "wrong" and all(_WHOLE_NUMBER.fullmatch(side) for side in sides) else None
