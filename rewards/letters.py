r"""Letters of multiple choice in prose: which ones a sentence names, and which of them it rules out.

`It's not A, I think it's B` names B; `C, it can't be A or B` names C; `A or B` names neither alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reasonrl.rewards import extract_words as words
from reasonrl.rewards.extract_words import either

_LATIN = "A-Za-zÀ-ɏ"
_DRESSING = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|textrm|mbox|boldsymbol|boxed)\s?(?=\{)|[*_`{}$]|\\[()\[\],;! ]"
    r"|\\(?:quad|bf|rm)\b"
)
_TOKEN = re.compile(
    rf"(?<![{_LATIN}\d\\'’^-])(?:[(\[（【「]\s?)?(?P<letter>[A-Z])(?P<close>\s?[)\]）】」])?"
    rf"(?![{_LATIN}\d'’_^]|\s?[=<>+])"
)
_ALONE = re.compile(r"[(\[（【]?\s*([A-Z])\s*[)\]）】.:]{0,2}")
_SMALL = re.compile(r"[(\[]?\s?([a-e])\s?[)\]]")
_LABELLED = re.compile(
    r"(?:[(\[（【]\s?([A-Z])\s?[)\]）】][.:]?\s*|([A-Z])\s?[).:．：]\s*|([A-J])\s+(?=[A-Z]))(\S.*)", re.DOTALL
)
_ANOTHER = re.compile(r"(?<![A-Za-z\d])(?:[(\[（]\s?[A-Z]\s?[)\]）]|[A-Z][).:]\s)")
_SEVERAL = re.compile(r"[(\[（]?[A-Z][)\]）]?(?:\s{0,4}(?:,|;|、|&|and|/|\s)\s{0,4}[(\[（]?[A-Z][)\]）]?)+|[A-J]{2,8}")
_CLAUSE_END = re.compile(
    rf"[.,;:!?。，；：！？\n]|\b{either(words.CLAUSES)}\b|{either(words.CLAUSES_ELSEWHERE)}", re.IGNORECASE
)
_DENIAL = re.compile(rf"\b{either(words.DENIALS)}\b|n['’]t\b|{either(words.DENIALS_ELSEWHERE)}", re.IGNORECASE)
_DENIAL_AFTER = re.compile(
    r"\s?(?:(?:is|are|was|seems?|looks|would be|can be|must be)\s(?:clearly |obviously |also |both )?"
    rf"{either(words.DENIALS_AFTER)}\b|{either(words.DENIALS_AFTER_ELSEWHERE)})",
    re.IGNORECASE,
)
_OR = rf"/|(?<![A-Za-z]){either(words.OR)}(?![A-Za-z])|{either(words.OR_ELSEWHERE)}"
_JOINER = re.compile(
    rf"\s{{0,4}}(?:,\s?)?(?:[,;&]|{_OR}|{either(words.AND)}|{either(words.AND_ELSEWHERE)}|)\s{{0,4}}(?:option|choice|answer)?\s{{0,4}}",
    re.IGNORECASE,
)
_HEDGE = re.compile(_OR, re.IGNORECASE)
_NOUN_AFTER = re.compile(r"\s[a-zà-ɏ]")
_VERB_AFTER = re.compile(
    r"\s(?:is|are|was|were|seems|looks|would|because|since|as|and|or|but|for|not|by|which|has|have|does|can|cannot|non"
    r"|pas|est|et|ou|no|y|porque|ist|und|oder|weil|nicht|correct)\b"
)
_REASONS = frozenset(["because", "since", "car", "parce", "porque", "weil", "因为"])
_ARTICLES = frozenset("AIEOY")


@dataclass(frozen=True)
class _Named:
    letters: tuple[str, ...]
    start: int
    hedged: bool
    ruled_out: bool


def lone_letters(text: str) -> tuple[str, ...] | None:
    """The letters of a text that is nothing but letters of choices: `C`, `(C)`, `B,D`, `B and D`, `BD`, `\\text{C}`."""
    text = _DRESSING.sub("", text).strip()
    alone = _ALONE.fullmatch(text)
    if alone:
        return (alone.group(1),)
    small = _SMALL.fullmatch(text)
    if small:
        return (small.group(1).upper(),)
    text = text.rstrip(".")
    if _SEVERAL.fullmatch(text):
        return tuple(re.findall(r"(?<![a-z])[A-Z](?![a-z])", text))
    return None


def labelled(text: str) -> tuple[str, str] | None:
    """The letter and the value of an option written out: `(D) Alina`, `D. Alina`, `D) Alina`, `D Alina`; None for
    several options.
    """
    match = _LABELLED.fullmatch(_DRESSING.sub("", text).strip())
    if match is None or _ANOTHER.search(match.group(4)):
        return None
    letter = match.group(1) or match.group(2) or match.group(3)
    return letter, match.group(4).strip()


def denies(text: str) -> bool:
    """Whether a text holds a word that denies, such as `not`, `n't` or `不是`."""
    return _DENIAL.search(text) is not None


def same_option(gold: str, answer: str) -> bool | None:
    """Whether an answer names the option that the gold names, by letters or by an option written out (`(D) Alina` is
    `D`, and is `Alina`); None where that decides nothing. A letter with another option's value is another answer.
    """
    gold_letters, gold_option = lone_letters(gold), labelled(gold)
    if gold_letters is None and gold_option is None:
        return None
    answer_letters, answer_option = lone_letters(answer), labelled(answer)
    wanted = set(gold_letters if gold_letters is not None else (gold_option or "")[:1])
    if answer_letters is not None:
        return set(answer_letters) == wanted
    if answer_option is None:
        same_value = gold_option is not None and _plain(gold_option[1]) == _plain(answer)
        return True if same_value else None
    agree = gold_option is None or _plain(gold_option[1]) == _plain(answer_option[1])
    return {answer_option[0]} == wanted and agree


def _plain(text: str) -> str:
    return " ".join(_DRESSING.sub("", text).casefold().split()).rstrip(".")


def first_named(clause: str) -> str | None:
    """The letters a stated answer names: the first group that is not ruled out, as `C`, `B, D`, or `A or B` where it
    leaves the choice open; None if it names none.
    """
    named = next((group for group in _named(clause, stated=True) if not group.ruled_out), None)
    return None if named is None else _written(named)


def last_named(sentence: str) -> str | None:
    """The same of a sentence that reasons: the last group that is not ruled out."""
    named = [group for group in _named(sentence, stated=False) if not group.ruled_out]
    return _written(named[-1]) if named else None


def _written(named: _Named) -> str:
    return (" or " if named.hedged else ", ").join(named.letters)


def _named(text: str, stated: bool) -> list[_Named]:
    text = _DRESSING.sub("", text)
    tokens = [token for token in _TOKEN.finditer(text) if _is_choice(text, token, stated)]
    groups: list[_Named] = []
    place = 0
    end_before = 0
    while place < len(tokens):
        last = place
        gaps = ""
        while last + 1 < len(tokens) and _JOINER.fullmatch(gap := text[tokens[last].end() : tokens[last + 1].start()]):
            gaps += gap + "|"
            last += 1
        letters = tuple(dict.fromkeys(token["letter"] for token in tokens[place : last + 1]))
        out = _ruled_out(text, end_before, tokens[place].start(), tokens[last].end())
        groups.append(_Named(letters, tokens[place].start(), bool(_HEDGE.search(gaps)), out))
        end_before = tokens[last].end()
        place = last + 1
    return groups


def _is_choice(text: str, token: re.Match[str], stated: bool) -> bool:
    if token["close"] or token["letter"] not in _ARTICLES or (stated and not text[: token.start()].strip()):
        return True
    if token["letter"] == "I" and not stated:
        return False
    after = text[token.end() : token.end() + 12]
    return not _NOUN_AFTER.match(after) or _VERB_AFTER.match(after) is not None


def _ruled_out(text: str, earliest: int, start: int, end: int) -> bool:
    before = text[max(earliest, start - 120) : start]
    ends = list(_CLAUSE_END.finditer(before))
    clause = before[ends[-1].end() :] if ends else before
    if earliest and ends and ends[-1].group().lower() in _REASONS:
        return True  # `C, because B is too small`
    return _DENIAL.search(clause) is not None or _DENIAL_AFTER.match(text, end) is not None
