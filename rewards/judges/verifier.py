"""A judge that is given the reference answer and says whether a response is right."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.base import JudgeReward, Log, enough, imitated
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for
from reasonrl.rewards.judges.verdicts import read_word

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

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
        """Scores in [0, 1]; None where the gold is missing or the judge failed."""
        count = len(completions)
        texts = self._texts(completions)
        problems = self._problems(prompts, columns, count)
        golds = [gold if isinstance(gold, str) and gold.strip() else None for gold in self._golds(columns, count)]
        scores: list[float | None] = [0.0 if gold is not None else None for gold in golds]
        wanted = [place for place in range(count) if golds[place] is not None and texts[place]]
        known = self._by_rule(wanted, golds, completions) if self.rule_first else {}
        asked: dict[int, bool] = {}
        questions: list[Question] = []
        for place in wanted:
            if place in known:
                scores[place] = known[place]
                continue
            asked[place] = self._code_needed(texts[place], problems[place])
            questions += self._questions(place, problems[place], golds[place] or "", texts[place], asked[place])
        answers, tally = self._ask(questions, count)
        for place, code_needed in asked.items():
            scores[place] = self._score(answers[place], code_needed)
        self._log(
            scores,
            answers,
            tally,
            log_extra,
            log_metric,
            by_rule=len(known) / max(count, 1),
            empty=sum(not text for text in texts) / max(count, 1),
            imitated=sum(imitated(answers[place], need) for place, need in asked.items()) / max(count, 1),
        )
        return scores

    def _questions(self, place: int, problem: str, gold: str, text: str, code_needed: bool) -> list[Question]:
        code = code_for(self.prompt.text, problem, gold, text)
        values = {
            "problem": problem,
            "gold": gold,
            "response": text,
            "reject_unsupported": self.reject_unsupported,
        }
        prompt = self.prompt.fill(code, values)
        read = functools.partial(read_word, words=_WORDS, code=code, code_needed=code_needed)
        return [Question(place, prompt, read, vote) for vote in range(self.votes)]

    def _score(self, answers: Sequence[Answer], code_needed: bool) -> float | None:
        words = enough(answers)
        if words is None:
            return 0.0 if imitated(answers, code_needed) else None
        share = sum(word == "CORRECT" for word in words) / len(words)
        return share if self.vote_rule == "mean" else float(share > 0.5)

    def _by_rule(
        self, places: Sequence[int], golds: Sequence[str | None], completions: Sequence[Any]
    ) -> dict[int, float]:
        """Place -> score, where the rules are certain."""
        from reasonrl.rewards.functions import MathReward

        verdicts = MathReward(policy="strict").verdicts(
            [completions[place] for place in places], answer=[golds[place] for place in places]
        )
        known = {}
        for place, verdict in zip(places, verdicts, strict=True):
            sides = (verdict.gold.strip(), (verdict.extracted or "").strip())
            if verdict.status == "correct" and not self.reject_unsupported:
                known[place] = 1.0
            elif verdict.status == "wrong" and all(_WHOLE_NUMBER.fullmatch(side) for side in sides):
                known[place] = 0.0
        return known

    def _golds(self, columns: Mapping[str, Any], count: int) -> Sequence[Any]:
        if self.gold is None and columns.get("answer") is None and columns.get("solution") is not None:
            return self._column("solution", columns, count)
        return self._column(self.gold or "answer", columns, count)
