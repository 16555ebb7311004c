r"""Multiple choice: the answer may be the letter, the letter with its text, or the option's value.

verify_choice("B", "I think it is 42.", options=["41", "42", "43"]).status     # 'correct'
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.alarm import LIMIT_SECONDS
from reasonrl.rewards.choice_options import options_in, options_of
from reasonrl.rewards.columns import GOLD_COLUMNS, column_named
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.extract import Found, extract_answer, extract_gold
from reasonrl.rewards.extract_gold import kind_of
from reasonrl.rewards.letters import denies, labelled, lone_letters
from reasonrl.rewards.math import verify
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict, scores_told

_SEPARATOR = re.compile(r"\s*(?:,|;|、|\band\b|&)\s*")
_SMALL_LETTER = re.compile(r"[(\[]?([a-z])[)\].:]?")
_LONGEST_ANSWER = 4_000
_LONGEST_VALUE = 400

Log = Callable[..., None]


def verify_choice(
    gold: str,
    response: str,
    options: Mapping[str, str] | Sequence[str] | str | None = None,
    policy: str = "default",
) -> Verdict:
    """Whether a response chooses the right option, or options.

    The answer may be letters (`B`, `B and D`), an option written out (`(B) 42`), or an option's value, which is
    compared as `verify` compares. A letter with another option's value is wrong, and so are several letters where one
    is right.

    Args:
        gold: letters, an option's text, or both: `B`, `B,D`, `42`, `(B) 42`.
        response: the model's text.
        options: texts by letter, texts in order, or a text that lists them; without them only letters, and the text
            that the gold itself gives, are known.
        policy: how values are compared; a name in `policy.POLICIES`.

    Raises:
        RewardError: an unknown policy, or a gold or response that is not text.
    """
    if policy not in POLICIES:
        raise RewardError(f"policy {policy!r} is unknown{near(policy, POLICIES)}")
    for name, value in (("gold", gold), ("response", response)):
        if not isinstance(value, str):
            raise RewardError(f"{name} is {value!r}, a {type(value).__name__}, where text was expected")
    start = time.perf_counter()
    try:
        question = _Question(options_of(options) or {}, policy, start + LIMIT_SECONDS)
        status, extracted, bare, reason = _decide(gold, response, question)
    except _TooLong:
        status, extracted, bare = "timeout", None, extract_gold(gold)
        reason = f"comparing with the options took longer than {LIMIT_SECONDS} s"
    return Verdict(status, SCORE_OF_STATUS[status], extracted, bare, reason, time.perf_counter() - start)


class _TooLong(Exception):
    """The values of the options together took too long to compare."""


@dataclass(frozen=True)
class _Question:
    """The options by letter, how their values are compared, and until when (`time.perf_counter`)."""

    options: dict[str, str]
    policy: str
    deadline: float

    def letters_of(self, text: str) -> list[str]:
        """The letters of the options with this value: the same text if there is one, else by comparison."""
        same = [letter for letter, option in self.options.items() if _plain(option) == _plain(text)]
        if same or not text.strip() or len(text) > _LONGEST_VALUE or lone_letters(text) is not None:
            return same
        return [letter for letter, option in self.options.items() if option and self._equal(option, text)]

    def _equal(self, option: str, text: str) -> bool:
        verdict = verify(option, rf"\boxed{{{text}}}", self.policy)
        if verdict.status == "timeout" or time.perf_counter() > self.deadline:
            raise _TooLong
        return verdict.correct


def _decide(gold: str, response: str, question: _Question) -> tuple[Status, str | None, str, str]:
    bare = extract_gold(gold)
    try:
        right, question = _right_letters(bare, question)
    except _TooLong:
        return "bad_gold", None, bare, f"comparing the gold with the options took longer than {LIMIT_SECONDS} s"
    options, policy = question.options, question.policy
    if not bare:
        return "bad_gold", None, bare, "the gold is empty"
    if not right:
        if options:
            return "bad_gold", None, bare, f"the gold is none of the options {', '.join(options)}"
        verdict = verify(gold, response, policy)
        return verdict.status, verdict.extracted, verdict.gold, verdict.reason
    found = _answer(response, right, question)
    if found is None:
        return "no_answer", None, bare, "no letter, no option and no stated answer outside the think block"
    if len(found.text) > _LONGEST_ANSWER:
        return "wrong", found.text[:_LONGEST_ANSWER], bare, f"the answer is longer than {_LONGEST_ANSWER} characters"
    chosen, reason = _chosen(found.text, question)
    wanted = ", ".join(sorted(right))
    if chosen is None:
        return "wrong", found.text, bare, f"{reason}; right is {wanted}"
    status: Status = "correct" if chosen == right else "wrong"
    return status, found.text, bare, reason if chosen == right else f"{reason}; right is {wanted}"


def _right_letters(gold: str, question: _Question) -> tuple[set[str], _Question]:
    """The letters of the right options, and the question with the option that a gold such as `(D) Alina` spells out."""
    options = question.options
    letters = lone_letters(gold)
    if letters is not None and (not options or set(letters) <= set(options)):
        return set(letters), question
    written = labelled(gold)
    if written is not None and (not options or written[0] in options):
        return {written[0]}, replace(question, options=options or {written[0]: written[1]})
    return set(question.letters_of(gold)[:1]), question


def _answer(response: str, right: set[str], question: _Question) -> Found | None:
    """The answer, looked for as a letter first, then as a value of the options' kind."""
    rules, options = POLICIES[question.policy], question.options
    found = extract_answer(response, ", ".join(sorted(right)), rules)
    if found is not None and found.how != "whole":
        return found
    if found is not None and (lone_letters(found.text) or labelled(found.text)):
        return found
    value = next((options[letter] for letter in sorted(right) if letter in options), None)
    by_value = extract_answer(response, value, rules) if value else None
    return by_value or found


def _chosen(answer: str, question: _Question) -> tuple[set[str] | None, str]:
    """The letters that an answer chooses and why; None where it chooses no single option or contradicts itself."""
    options = question.options
    letters = lone_letters(answer)
    if letters is None and (small := _SMALL_LETTER.fullmatch(answer.strip())) and small.group(1).upper() in options:
        letters = (small.group(1).upper(),)
    by_value = question.letters_of(answer) if letters is None or len(options) > 1 else []
    if letters is not None and not (by_value and set(letters) - set(options)):
        return set(letters), f"letter {', '.join(letters)}"
    written = labelled(answer)
    if written is not None and not by_value:
        letter, value = written
        theirs = question.letters_of(value)
        if theirs and letter not in theirs:
            return None, f"letter {letter} with the value of option {theirs[0]}"
        both_numbers = kind_of(value) == "number" and kind_of(options.get(letter, "")) == "number"
        if not theirs and both_numbers:
            return None, f"letter {letter} with another value than its option's"
        return {letter}, f"letter {letter}"
    if by_value:
        return set(by_value[:1]), f"the value of option {by_value[0]}"
    pieces = [piece for piece in _SEPARATOR.split(answer.strip(" .{}\\")) if piece]
    if 1 < len(pieces) <= len(options):
        several = [question.letters_of(piece) for piece in pieces]
        if all(several):
            return {each[0] for each in several}, "the values of several options"
    named = _named_in(answer, options)
    return ({named}, f"names option {named} alone") if named else (None, "no letter and no option's value")


def _named_in(answer: str, options: dict[str, str]) -> str | None:
    """The one option whose words a short answer contains and does not deny."""
    text = f" {_plain(answer)} "
    if len(text) > 300 or denies(text):
        return None
    named = [letter for letter, option in options.items() if _words(option) and f" {_plain(option)} " in text]
    longest = max(named, key=lambda letter: len(_plain(options[letter])), default=None)
    return longest if all(_plain(options[letter]) in _plain(options[longest or ""]) for letter in named) else None


def _words(option: str) -> bool:
    return sum(symbol.isalpha() for symbol in option) > 2


def _plain(text: str) -> str:
    text = re.sub(r"\\(?:text|textbf|mathrm)\s?\{([^{}]*)\}|[$*]", r"\1", text)
    return " ".join(text.casefold().split()).rstrip(".")


class ChoiceReward:
    """1 for the right option, 0 for another or none, None where the gold is none of the options
    (`verdict.SCORE_OF_STATUS`).

    Args:
        gold: the column with the golds; None takes `answer`, or `solution` where there is no `answer`.
        options: the column with the options (`choice_options.options_of` says what a cell may hold); where a row has
            none, they are read from the prompt.
        policy: how values are compared; a name in `policy.POLICIES`.
    """

    token_level = False

    def __init__(self, gold: str | None = None, options: str | None = "options", policy: str = "default") -> None:
        if policy not in POLICIES:
            raise RewardError(f"reward 'choice': policy {policy!r} is unknown{near(policy, POLICIES)}")
        self.__name__ = "choice"
        self.gold = gold
        self.options = options
        self.policy = policy

    def verdicts(self, prompts: Sequence[Any] | None, completions: Sequence[Any], **columns: Any) -> list[Verdict]:
        """One verdict a completion; the prompts and columns as in a call."""
        golds = columns[column_named("choice", self.gold, GOLD_COLUMNS, columns)]
        if len(golds) != len(completions):
            raise RewardError(f"reward 'choice': {len(completions)} completions, but {len(golds)} golds")
        cells = columns.get(self.options) if self.options is not None else None
        verdicts = []
        for row, (gold, completion) in enumerate(zip(golds, completions, strict=True)):
            options = options_of(cells[row]) if cells is not None and row < len(cells) else None
            if options is None and prompts is not None and row < len(prompts):
                options = options_in(question_of(prompts[row]))
            if isinstance(gold, str):
                verdicts.append(verify_choice(gold, text_of(completion), options, self.policy))
            else:
                said = f"the gold is a {type(gold).__name__}, not text"
                verdicts.append(Verdict("bad_gold", None, None, repr(gold)[:200], said))
        return verdicts

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
        verdicts = self.verdicts(prompts, completions, **columns)
        return scores_told(verdicts, log_extra, log_metric)


def question_of(prompt: Any) -> str:
    """The text of a prompt: itself, or what its last user message says."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role") == "user"]
    return text_of([{**turns[-1], "role": "assistant"}]) if turns else ""
