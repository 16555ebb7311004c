"""Golds that are sentences: the same words, or the word or numbers that the sentence is about."""

from __future__ import annotations

import re

from reasonrl.rewards.mathlang.answers import read
from reasonrl.rewards.mathlang.clean import clean
from reasonrl.rewards.mathlang.lexer import Unreadable
from reasonrl.rewards.mathlang.tables import names
from reasonrl.rewards.mathlang.tree import Measure, Named, Node, Num, Op, Rel, Seq, Text
from reasonrl.rewards.policy import Policy
from reasonrl.rewards.structures import Comparer
from reasonrl.rewards.synonyms import same_words, signs_of, words_of

_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox|textrm|emph|operatorname|mathbf)\s*\{")
_MATH = re.compile(
    r"\$([^$]{1,200})\$|([(\[][^()\[\]A-Za-z]{1,60},[^()\[\]A-Za-z]{1,60}[)\]])|(?<![\w.\\])([-−]?\d[\d,]*(?:\.\d+)?(?:/\d+)?)(?![\w])"
)
_RANGE = re.compile(r"\d\s?\.\.\s?\d")
_COMMAND = re.compile(r"\\[A-Za-z]+|[\\{}$]")
_NEGATIONS = names("not no never none neither nor without cannot isn t doesn don false impossible un except")
_ALTERNATIVES = frozenset(["or", "either", "both", "and"])
_EMPTY_WORDS = names(
    """is are was were be been being of in on at to for from by with as that this these those it its there here any
    some all each every than then so if when where which who whose will would can could may might must shall
    should do does did has have had number answer value problem solution result question thing i we you they he
    she total must only just about find given following final"""
)
_FILLERS = names("wins win winner winning player strategy has is are it they there s always function numbers solutions")
_COPULAS = names("is are was were be becomes remains stays equals called named")
_WITH_OPPOSITE = names(
    """odd even increasing decreasing convergent divergent converges diverges positive negative prime composite rational
    irrational finite infinite bounded unbounded continuous discontinuous true false acute obtuse parallel perpendicular
    linear nonlinear consistent inconsistent dependent independent possible impossible symmetric antisymmetric concave
    convex injective surjective bijective reducible irreducible rises falls larger smaller greater less first second
    never always"""
)
_SAID_FIRST = re.compile(r"\W*(?:yes|no)\b\s*[,.;:!\u2013\u2014-]", re.IGNORECASE)
MAX_WORDS = 400


def plain_words(text: str) -> str:
    """A text without its wrappers, commands and dollars."""
    text = clean(text)
    if "\\" in text:
        text = _WRAPPER.sub(" ", text)
        text = text.replace("}", " ").replace("{", " ")
    return text.replace("$", " ")


def same_prose(gold: str, answer: str, policy: Policy) -> bool | None:
    """Whether an answer is a gold of prose; None if the gold is no prose, or nothing can be said."""
    plain_gold, plain_answer = plain_words(gold), plain_words(answer)
    if bool(_RANGE.search(plain_gold)) != bool(_RANGE.search(plain_answer)):
        return False
    ours, theirs = words_of(plain_gold), words_of(plain_answer)
    signs = signs_of(plain_gold), signs_of(plain_answer)
    if ours == theirs and ours and signs[0] == signs[1]:
        return True
    if not ours or not theirs or len(ours) > MAX_WORDS or len(theirs) > MAX_WORDS:
        return None
    if not any(signs) and same_words(" ".join(ours), " ".join(theirs)):
        return True
    if not policy.key_words:
        return None
    polar = _yes_or_no(plain_answer, ours, theirs)
    if polar is not None:
        return polar
    if not any(signs) and _said_more(ours, theirs):
        return True
    if len(ours) < 3 or len(ours) <= len(theirs):
        return None
    if not signs[1] and _key_words(plain_gold, ours, theirs):
        return True
    return _key_numbers(gold, ours, answer, policy)


def _said_more(gold: list[str], answer: list[str]) -> bool:
    """`Alice wins` for `Alice`: the answer's other words add nothing."""
    kept = [word for word in answer if word not in _FILLERS]
    said = [word for word in gold if word not in _FILLERS]
    return bool(said) and kept == said and all(word.isalpha() for word in said)


def _yes_or_no(plain_answer: str, gold: list[str], answer: list[str]) -> bool | None:
    """`Yes, it is` for `yes` and the other way round; not `yes and no`, and `no idea` is no `no`."""
    both = {"yes", "no"}
    if not ({gold[0], answer[0]} & both and 1 in (len(gold), len(answer))):
        return None
    if len(answer) > 1 and (both <= set(answer) or not _SAID_FIRST.match(plain_answer)):
        return False
    return gold[0] == answer[0]


def _key_words(plain_gold: str, gold: list[str], answer: list[str]) -> bool:
    """One to three words that a sentence is about, in a sentence that denies nothing and leaves no choice: what it says
    of its subject (`The triangle is isosceles`), the name it begins with (`Alice moves first`), or a word that has an
    opposite (`Any odd number of players`). Any other word of it is no answer.
    """
    content = [word for word in gold if word not in _EMPTY_WORDS and (len(word) > 2 or word.isdigit())]
    said = [word for word in answer if word not in _EMPTY_WORDS]
    if not 1 <= len(said) <= 3 or len(answer) > 5 or not all(word.isalpha() and len(word) > 2 for word in said):
        return False
    denied = _NEGATIONS & set(gold)
    if denied != _NEGATIONS & set(answer) or (_ALTERNATIVES & set(gold)) - set(answer):
        return False
    if content[-len(said) :] == said:
        place = max(place for place, word in enumerate(gold) if word == said[0])
        if (place and gold[place - 1] in _COPULAS) or said[0] in _WITH_OPPOSITE:
            return True
    if content[: len(said)] == said:
        first = re.match(r"\W*(\w+)", plain_gold)
        named = first is not None and first[1].casefold() == said[0] and first[1][:1].isupper()
        return named or said[0] in _WITH_OPPOSITE
    return False


def _key_numbers(gold: str, words: list[str], answer: str, policy: Policy) -> bool | None:
    """The numbers of a sentence, all of them and in order, are that sentence where it denies nothing."""
    if _NEGATIONS & set(words) or len(words) < 4 or len(gold) > 600:
        return None
    values: list[Node] = []
    for match in _MATH.finditer(clean(gold)):
        try:
            node = read(next(group for group in match.groups() if group)).node
        except Unreadable:
            return None
        if isinstance(node, Op | Num | Measure | Rel | Seq) and not _is_letter_like(node):
            values.append(node)
    try:
        found = read(answer).node
    except Unreadable:
        return None
    items = list(found.items) if isinstance(found, Seq) and found.kind in ("", "and") else [found]
    items = [item.value if isinstance(item, Named) else item for item in items]
    if not values or len(values) != len(items) or any(isinstance(item, Text) for item in items):
        return None
    comparer = Comparer(policy)
    return all(bool(comparer.same(one, other)) for one, other in zip(values, items, strict=True)) or None


def _is_letter_like(node: Node) -> bool:
    return not isinstance(node, Num | Measure | Op | Rel | Seq)
