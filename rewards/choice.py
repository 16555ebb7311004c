r"""Multiple choice: the answer may be the letter, the letter with its text, or the option's value.

verify_choice("B", "I think it is 42.", options=["41", "42", "43"]).status     # 'correct'
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.choice_options import options_in, options_of
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.extract import Found, extract_answer, extract_gold
from reasonrl.rewards.extract_gold import kind_of
from reasonrl.rewards.letters import denies, labelled, lone_letters
from reasonrl.rewards.math import verify
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.verdict import SCORE_OF_STATUS, STATUSES, Status, Verdict

_SEPARATOR = re.compile(r"\s*(?:,|;|、|\band\b|&)\s*")
_SMALL_LETTER = re.compile(r"[(\[]?([a-z])[)\].:]?")
_LONGEST_ANSWER = 4_000

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
    status, extracted, bare, reason = _decide(gold, response, options_of(options) or {}, policy)
    return Verdict(status, SCORE_OF_STATUS[status], extracted, bare, reason, time.perf_counter() - start)


def _decide(gold: str, response: str, options: dict[str, str], policy: str) -> tuple[Status, str | None, str, str]:
    bare = extract_gold(gold)
    right, options = _right_letters(bare, options, policy)
    if not bare:
        return "bad_gold", None, bare, "the gold is empty"
    if not right:
        if options:
            return "bad_gold", None, bare, f"the gold is none of the options {', '.join(options)}"
        verdict = verify(gold, response, policy)
        return verdict.status, verdict.extracted, verdict.gold, verdict.reason
    found = _answer(response, right, options, policy)
    if found is None:
        return "no_answer", None, bare, "no letter, no option and no stated answer outside the think block"
    if len(found.text) > _LONGEST_ANSWER:
        return "wrong", found.text[:_LONGEST_ANSWER], bare, f"the answer is longer than {_LONGEST_ANSWER} characters"
    chosen, reason = _chosen(found.text, options, policy)
    wanted = ", ".join(sorted(right))
    if chosen is None:
        return "wrong", found.text, bare, f"{reason}; right is {wanted}"
    status: Status = "correct" if chosen == right else "wrong"
    return status, found.text, bare, reason if chosen == right else f"{reason}; right is {wanted}"


def _right_letters(gold: str, options: dict[str, str], policy: str) -> tuple[set[str], dict[str, str]]:
    """The letters of the right options, and the options with the one that a gold such as `(D) Alina` spells out."""
    letters = lone_letters(gold)
    if letters is not None and (not options or set(letters) <= set(options)):
        return set(letters), options
    written = labelled(gold)
    if written is not None and (not options or written[0] in options):
        return {written[0]}, options or {written[0]: written[1]}
    return set(_letters_of(gold, options, policy)[:1]), options


def _answer(response: str, right: set[str], options: dict[str, str], policy: str) -> Found | None:
    """The answer, looked for as a letter first, then as a value of the options' kind."""
    rules = POLICIES[policy]
    found = extract_answer(response, ", ".join(sorted(right)), rules)
    if found is not None and found.how != "whole":
        return found
    if found is not None and (lone_letters(found.text) or labelled(found.text)):
        return found
    value = next((options[letter] for letter in sorted(right) if letter in options), None)
    by_value = extract_answer(response, value, rules) if value else None
    return by_value or found


def _chosen(answer: str, options: dict[str, str], policy: str) -> tuple[set[str] | None, str]:
    """The letters that an answer chooses and why; None where it chooses no single option or contradicts itself."""
    letters = lone_letters(answer)
    if letters is None and (small := _SMALL_LETTER.fullmatch(answer.strip())) and small.group(1).upper() in options:
        letters = (small.group(1).upper(),)
    by_value = _letters_of(answer, options, policy) if letters is None or len(options) > 1 else []
    if letters is not None and not (by_value and set(letters) - set(options)):
        return set(letters), f"letter {', '.join(letters)}"
    written = labelled(answer)
    if written is not None and not by_value:
        letter, value = written
        theirs = _letters_of(value, options, policy)
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
        several = [_letters_of(piece, options, policy) for piece in pieces]
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


def _letters_of(text: str, options: dict[str, str], policy: str) -> list[str]:
    """The letters of the options with this value: the same text if there is one, else by comparison."""
    same = [letter for letter, option in options.items() if _plain(option) == _plain(text)]
    if same or not text.strip() or len(text) > 400 or lone_letters(text) is not None:
        return same
    boxed = rf"\boxed{{{text}}}"
    return [letter for letter, option in options.items() if option and verify(option, boxed, policy).correct]


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
        golds = self._column(columns)
        if len(golds) != len(completions):
            raise RewardError(f"reward 'choice': {len(completions)} completions, but {len(golds)} golds")
        cells = columns.get(self.options) if self.options is not None else None
        verdicts = []
        for row, (gold, completion) in enumerate(zip(golds, completions, strict=True)):
            options = options_of(cells[row]) if cells is not None and row < len(cells) else None
            if options is None and prompts is not None and row < len(prompts):
                options = options_in(_question(prompts[row]))
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
        if log_extra is not None:
            log_extra("verdict", [verdict.status for verdict in verdicts])
            log_extra("extracted", [verdict.extracted or "" for verdict in verdicts])
        if log_metric is not None and verdicts:
            for status in STATUSES:
                log_metric(f"verdict/{status}", sum(verdict.status == status for verdict in verdicts) / len(verdicts))
        return [verdict.score for verdict in verdicts]

    def _column(self, columns: dict[str, Any]) -> Sequence[Any]:
        for name in (self.gold,) if self.gold is not None else ("answer", "solution"):
            if columns.get(name) is not None:
                golds: Sequence[Any] = columns[name]
                return golds
        wanted = repr(self.gold) if self.gold is not None else "'answer' or 'solution'"
        there = ", ".join(sorted(columns)) or "none"
        raise RewardError(
            f"reward 'choice': there is no column {wanted} with the golds; columns: {there} -> map one with"
            " data.columns, or set args.gold"
        )


def _question(prompt: Any) -> str:
    """The text of a prompt: itself, or what its last user message says."""
    if isinstance(prompt, str):
        return prompt
    turns = [turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role") == "user"]
    return text_of([{**turns[-1], "role": "assistant"}]) if turns else ""
