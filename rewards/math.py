"""Verdicts on mathematical answers.

verify(r"\\frac{1}{2}", r"... so the answer is \\boxed{0.5}").status     # 'correct'
"""

from __future__ import annotations

import time

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.compare import POLICIES, Policy, compare
from reasonrl.rewards.cost import MAX_LENGTH
from reasonrl.rewards.extract import after_thinking, extract_answer, extract_gold
from reasonrl.rewards.letters import same_option
from reasonrl.rewards.normalize import compact, normalize
from reasonrl.rewards.symbolic import LIMIT_SECONDS, NoMainThread, OutOfTime
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict

_MAX_ANSWER = 4_000


def verify(gold: str, response: str, policy: str = "default") -> Verdict:
    r"""Whether a response's final answer is the gold.

    The answer is looked for outside the think block: the last `\boxed{…}`, `<answer>` tags, `####`, a stated "answer
    is", or a response that is nothing but an answer. Both sides are normalised; then text, exact numbers, choice
    letters, tuples, sets and lists are compared, and what is left goes to math-verify under one alarm, behind a cost
    gate. Outside the main thread, where no alarm works, that last step is a `fault`.

    Args:
        gold: the right answer, bare or as data sets write it (boxed, in dollars, after `####`).
        response: the model's text.
        policy: what counts as the same; a name in `POLICIES`.

    Raises:
        RewardError: an unknown policy, or an argument that is not text. Nothing that stands *in* the texts raises.
    """
    if policy not in POLICIES:
        raise RewardError(f"policy {policy!r} is unknown{near(policy, POLICIES)}")
    for name, value in (("gold", gold), ("response", response)):
        if not isinstance(value, str):
            raise RewardError(f"{name} is {value!r}, a {type(value).__name__}, where text was expected")
    start = time.perf_counter()
    status, extracted, bare_gold, reason = _decide(gold, response, POLICIES[policy])
    return Verdict(status, SCORE_OF_STATUS[status], extracted, bare_gold, reason, time.perf_counter() - start)


def _decide(gold: str, response: str, policy: Policy) -> tuple[Status, str | None, str, str]:
    bare_gold = extract_gold(gold)
    if len(bare_gold) > _MAX_ANSWER:
        return "bad_gold", None, bare_gold[:MAX_LENGTH], f"the gold is longer than {_MAX_ANSWER} characters"
    normal_gold = normalize(bare_gold)
    if not normal_gold:
        return "bad_gold", None, bare_gold, "the gold is empty"
    found = extract_answer(response, bare_gold, policy)
    if found is None:
        outside = after_thinking(response).strip()
        if outside and len(outside) <= _MAX_ANSWER and compact(normalize(outside)) == compact(normal_gold):
            return "correct", outside, bare_gold, "the whole response is the gold"
        return "no_answer", None, bare_gold, "no box, no answer tags and no stated answer outside the think block"
    if len(found.text) > _MAX_ANSWER:
        return "wrong", found.text[:MAX_LENGTH], bare_gold, f"the answer is longer than {_MAX_ANSWER} characters"
    normal = normalize(found.text)
    if not normal:
        return "no_answer", found.text, bare_gold, "the answer is empty"
    option = same_option(bare_gold, found.text)
    if option is not None:
        return ("correct" if option else "wrong"), found.text, bare_gold, "choice letter"
    try:
        compared = compare(normal_gold, normal, policy)
    except OutOfTime:
        return "timeout", found.text, bare_gold, f"the comparison took longer than {LIMIT_SECONDS} s"
    except NoMainThread:
        return (
            "fault",
            found.text,
            bare_gold,
            "computer algebra runs in the main thread only, where an alarm can stop it",
        )
    return ("correct" if compared.equal else "wrong"), found.text, bare_gold, compared.reason
