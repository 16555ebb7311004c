"""An answer that a pattern finds, compared with the gold as text: for forms of one's own, such as a last line `#6`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.columns import GOLD_COLUMNS, column_named
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.verdict import Verdict, scores_told

Log = Callable[[str, Any], None]


class ExactReward:
    r"""1 if what a pattern finds last in a response is the gold, white space around both aside; 0 for another or none.

    Args:
        pattern: a regular expression of Python's `re` (`^` and `$` at lines, `\A` and `\Z` at the response); what its
            first group matches is the answer, the whole match without a group.
        gold: the column with the golds; None takes `answer`, or `solution` where there is no `answer`.
        groups: `first`, or `all`: the answer is then what all groups match, one after the other.

    Raises:
        RewardError: the pattern is none.
    """

    token_level = False
    instant = True

    def __init__(self, pattern: str, gold: str | None = None, groups: str = "first") -> None:
        try:
            self.pattern = re.compile(pattern, re.MULTILINE)
        except (re.error, TypeError) as problem:
            fix = "write a regular expression, such as '^#(\\d)\\Z'"
            raise RewardError(f"reward 'exact': pattern {pattern!r} is none: {problem} -> {fix}") from problem
        if groups not in ("first", "all"):
            raise RewardError(f"reward 'exact': groups = {groups!r}; allowed: all, first")
        self.__name__ = "exact"
        self.gold, self.groups = gold, groups

    def verdicts(self, completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        """One verdict a completion."""
        golds = columns[column_named("exact", self.gold, GOLD_COLUMNS, columns)]
        return [self._verdict(text_of(said), gold) for said, gold in zip(completions, golds, strict=True)]

    def _verdict(self, text: str, gold: Any) -> Verdict:
        if not isinstance(gold, (str, int)) or isinstance(gold, bool) or not str(gold).strip():
            return Verdict("bad_gold", None, None, repr(gold)[:200], f"the gold is a {type(gold).__name__}, not text")
        wanted, found = str(gold).strip(), None
        for match in self.pattern.finditer(text):
            found = match
        if found is None:
            return Verdict("no_answer", 0.0, None, wanted, "the pattern matches nothing")
        answer = (found[1] if self.pattern.groups else found[0]) or ""
        if self.groups == "all" and self.pattern.groups:
            answer = "".join(found.groups(""))
        right = answer.strip() == wanted
        return Verdict("correct" if right else "wrong", float(right), answer.strip(), wanted, "compared as text")

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
        """Scores; the columns `verdict` and `extracted` go to `log_extra`, the share of each status to `log_metric`."""
        verdicts = self.verdicts(completions, **columns)
        return scores_told(verdicts, log_extra, log_metric)
