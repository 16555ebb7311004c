r"""Verdicts on mathematical answers.

verify(r"\frac{1}{2}", r"... so the answer is \boxed{0.5}").status     # 'correct'
"""

from __future__ import annotations

import threading
import time

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.alarm import LIMIT_SECONDS, OutOfTime, alarm
from reasonrl.rewards.compare import NeedsAlgebra, by_algebra, compare, text_key
from reasonrl.rewards.extract import after_thinking, extract_answer, extract_gold
from reasonrl.rewards.letters import same_option
from reasonrl.rewards.policy import POLICIES, Policy
from reasonrl.rewards.symbolic import load
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict

GRADER_VERSION = "2"
"""Grows with every change after which a pair may get another verdict."""

_MAX_ANSWER = 4_000
_SHOWN = 2_000

Decision = tuple[Status, str | None, str, str]


def verify(gold: str, response: str, policy: str = "default", *, limit: float = LIMIT_SECONDS) -> Verdict:
    r"""Whether a response's final answer is the gold.

    The answer is looked for outside the think block (`extract.extract_answer`) and compared with the gold by what the
    two are: numbers, lists, tuples, sets, intervals, matrices, equations, expressions, words (`compare.compare`). That
    is bounded by construction and takes well under a millisecond as a rule. What our own reader does not read goes to
    math-verify behind a cost gate. In the main thread one alarm of `limit` seconds stands over the whole; in another
    thread, where no alarm works, what is left for math-verify is decided by the shared pool of killable workers.

    Args:
        gold: the right answer, bare or as data sets write it (boxed, in dollars, after `####`).
        response: the model's text.
        policy: what counts as the same; a name in `POLICIES`.
        limit: seconds for one verdict in the main thread; the first import of math-verify does not count.

    Raises:
        RewardError: an unknown policy, a limit that is not above 0, or an argument that is not text. Nothing that
            stands *in* the texts raises.
    """
    if policy not in POLICIES:
        raise RewardError(f"policy {policy!r} is unknown{near(policy, POLICIES)}")
    for name, value in (("gold", gold), ("response", response)):
        if not isinstance(value, str):
            raise RewardError(f"{name} is {value!r}, a {type(value).__name__}, where text was expected")
    if not limit > 0:
        raise RewardError(f"limit is {limit!r} seconds, where a number above 0 was expected")
    start = time.perf_counter()
    rules = POLICIES[policy]
    if threading.current_thread() is threading.main_thread():
        status, extracted, bare_gold, reason = _in_main_thread(gold, response, rules, limit)
    else:
        try:
            status, extracted, bare_gold, reason = _decide(gold, response, rules)
        except _Open:
            return _in_pool(gold, response, policy, start)
    return Verdict(status, SCORE_OF_STATUS[status], extracted, bare_gold, reason, time.perf_counter() - start)


class _Open(Exception):
    """Left for computer algebra, with what was found so far."""

    def __init__(self, pair: NeedsAlgebra, extracted: str, gold: str) -> None:
        super().__init__(pair, extracted, gold)
        self.pair = pair
        self.extracted = extracted
        self.gold = gold


def _in_main_thread(gold: str, response: str, policy: Policy, limit: float) -> Decision:
    start = time.monotonic()
    try:
        with alarm(limit):
            return _decide(gold, response, policy)
    except OutOfTime:
        return "timeout", None, gold[:_SHOWN], f"extraction and comparison took longer than {limit:g} s"
    except _Open as caught:
        left = caught
    spent = time.monotonic() - start
    load()  # seconds, once a process: no response is to blame for them
    try:
        with alarm(max(limit - spent, 0.1)):
            compared = by_algebra(left.pair)
    except OutOfTime:
        return "timeout", left.extracted, left.gold, f"computer algebra took longer than {limit:g} s"
    return ("correct" if compared.equal else "wrong"), left.extracted, left.gold, compared.reason


def _in_pool(gold: str, response: str, policy: str, start: float) -> Verdict:
    from reasonrl.rewards.pool import shared_pool

    verdict = shared_pool(1).submit(gold, response, policy).result()
    return Verdict(
        verdict.status, verdict.score, verdict.extracted, verdict.gold, verdict.reason, time.perf_counter() - start
    )


def _decide(gold: str, response: str, policy: Policy) -> Decision:
    bare_gold = extract_gold(gold)
    if len(bare_gold) > _MAX_ANSWER:
        return "bad_gold", None, bare_gold[:_SHOWN], f"the gold is longer than {_MAX_ANSWER} characters"
    if _is_empty(bare_gold):
        return "bad_gold", None, bare_gold, "the gold is empty"
    found = extract_answer(response, bare_gold, policy)
    if found is None:
        outside = after_thinking(response).strip()
        if outside and len(outside) <= _MAX_ANSWER and text_key(bare_gold) == text_key(outside):
            return "correct", outside, bare_gold, "the whole response is the gold"
        return "no_answer", None, bare_gold, "no box, no answer tags and no stated answer outside the think block"
    if len(found.text) > _MAX_ANSWER:
        return "wrong", found.text[:_SHOWN], bare_gold, f"the answer is longer than {_MAX_ANSWER} characters"
    if _is_empty(found.text):
        return "no_answer", found.text, bare_gold, "the answer is empty"
    option = same_option(bare_gold, found.text)
    if option is not None:
        return ("correct" if option else "wrong"), found.text, bare_gold, "choice letter"
    try:
        compared = compare(bare_gold, found.text, policy)
    except NeedsAlgebra as pair:
        raise _Open(pair, found.text, bare_gold) from None
    return ("correct" if compared.equal else "wrong"), found.text, bare_gold, compared.reason


def _is_empty(text: str) -> bool:
    """Whether nothing but dressing stands in a text."""
    if "\\" not in text and any(symbol.isalnum() for symbol in text):
        return False
    return not text_key(text)
