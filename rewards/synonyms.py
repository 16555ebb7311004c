"""Words that are the same answer."""

from __future__ import annotations

from reasonrl.rewards.mathlang.tables import phrases

_GROUPS = (
    (
        "no solution",
        "no solutions",
        "none",
        "no real solution",
        "no real solutions",
        "empty set",
        "inconsistent",
        "no answer",
    ),
    ("undefined", "not defined", "does not exist", "dne", "doesn t exist"),
    ("infinitely many", "infinite", "infinitely many solutions", "infinite solutions", "infinite number of solutions"),
    ("all real numbers", "all reals", "real numbers", "any real number", "every real number"),
    ("yes", "true", "correct"),
    ("no", "false", "incorrect"),
    ("diverges", "divergent", "diverge", "it diverges"),
    ("converges", "convergent", "converge", "it converges"),
)
_KEY = {word: group[0] for group in _GROUPS for word in group}
_NUMBERS = phrases(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    "|eighteen|nineteen|twenty"
)
NUMBER_WORDS = {word: number for number, word in enumerate(_NUMBERS)}
_PUNCTUATION = frozenset(",.;:!?'\"`$~_\\{}")
_ARTICLES = frozenset(["the", "a", "an"])


def words_of(text: str) -> list[str]:
    """A text's words in lower case, without punctuation and articles."""
    kept = "".join(symbol if symbol.isalnum() else " " for symbol in text.casefold())
    return [word for word in kept.split() if word not in _ARTICLES]


def signs_of(text: str) -> list[str]:
    """A text's signs other than those of prose: a minus or a bracket is no punctuation."""
    return [symbol for symbol in text if not symbol.isalnum() and not symbol.isspace() and symbol not in _PUNCTUATION]


def same_words(gold: str, answer: str) -> bool:
    """Whether two short texts are the same words, or two that mean the same."""
    left, right = words_of(gold), words_of(answer)
    if left == right:
        return True
    one, other = " ".join(left), " ".join(right)
    return one in _KEY and other in _KEY and _KEY[one] == _KEY[other]
