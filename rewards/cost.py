r"""The cost gate: what a computer-algebra system must not be asked to evaluate.

`9^{9^9}`, `(10^9)!`, `\binom{10^9}{5\cdot 10^8}` or five thousand nested braces take seconds, gigabytes or for ever,
and some of it runs in C code that no alarm interrupts. The gate reads the text and says no before anything is parsed.
"""

from __future__ import annotations

import re

MAX_LENGTH = 160
MAX_DEPTH = 12
MAX_DIGITS = 400
MAX_EXPONENT = 20_000
MAX_BASE_DIGITS_TIMES_EXPONENT = 20_000
MAX_FACTORIAL = 3_000
MAX_TERMS = 30
MAX_SYMBOLIC_POWER = 24
MAX_ROOTS_AND_LOGS = 6
MAX_OPERATORS = 2
MAX_OPERATOR_LENGTH = 100
MAX_OPERATOR_DIGITS = 3

_OPERATORS = re.compile(r"\\(?:sum|prod|int|iint|iiint|oint|lim|limits|bigcup|bigcap)(?![A-Za-z])|∑|∏|∫")
_SEVERAL = re.compile(r"[,;&<>_|!:]|=.*=|\\(?:le|ge|ne|in|pm|mp|cup|cap)(?![A-Za-z])")
_SIDE_BY_SIDE = re.compile(r"[\d}]\s*(?=\\[dt]?frac|\s\d)")
"""Read as mixed numbers within mixed numbers, whose evaluation doubles with each."""
_POWER = re.compile(r"(?:\^|\*\*)\s*(\{|\(|-?\d+)?")
_FACTORIAL = re.compile(r"(\d+)\s*!|([)}\]!])\s*!")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{([^{}]*)\}|\\[dt]?binom")
_FUNCTION = re.compile(r"\\?(?:sqrt|log|ln|exp|sin|cos|tan|gamma|zeta)(?![a-z])|√")


def too_costly(text: str) -> str | None:
    """Why a text must not be handed to computer algebra, in a few words; None if it may."""
    if "\\begin" in text or "\\end" in text:
        return "an environment"
    if not _is_balanced(text):
        return "unbalanced brackets"
    if _SEVERAL.search(text):
        return "a list, a relation or a subscript that our own reader does not know either"
    if len(text) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    if any(len(run) > MAX_DIGITS for run in re.findall(r"\d+", text)):
        return f"a number of more than {MAX_DIGITS} digits"
    if _depth(text) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH}"
    if len(re.findall(r"[+\-,;&=]", text)) > MAX_TERMS or len(text.split()) > 4 * MAX_TERMS:
        return f"more than {MAX_TERMS} terms"
    if len(_SIDE_BY_SIDE.findall(text)) > 1:
        return "numbers side by side"
    if _OPERATORS.search(text):
        return "a sum, product, integral or limit to evaluate"
    if len(_FUNCTION.findall(text)) > MAX_ROOTS_AND_LOGS:
        return f"more than {MAX_ROOTS_AND_LOGS} roots, logarithms or functions"
    return _costly_factorial(text) or _costly_power(text)


def may_be_worked_out(gold: str, answer: str) -> bool:
    """Whether a gold with a sum, product, integral or limit may go to computer algebra with an answer that has none.

    Only a gold asks for work: an answer that leaves such work standing is not worked out for it, so no response can
    make the grader integrate.
    """
    operators = len(_OPERATORS.findall(gold))
    return (
        1 <= operators <= MAX_OPERATORS
        and not _OPERATORS.search(answer)
        and len(gold) <= MAX_OPERATOR_LENGTH
        and not re.search(rf"\d{{{MAX_OPERATOR_DIGITS + 1}}}|[!,;|<>]|\\(?:begin|pm|mp|text)", gold)
        and _is_balanced(gold)
        and _costly_power(gold) is None
        and too_costly(answer) is None
    )


def _costly_factorial(text: str) -> str | None:
    for number, bracket in _FACTORIAL.findall(text):
        if bracket:
            return "the factorial of an expression"
        if int(number) > MAX_FACTORIAL:
            return f"a factorial above {MAX_FACTORIAL}!"
    for match in _BINOMIAL.finditer(text):
        top = match.group(1)
        if (
            top is None
            or re.search(r"[\^!*]|\\", top)
            or any(int(number) > MAX_FACTORIAL for number in re.findall(r"\d+", top))
        ):
            return f"a binomial coefficient above {MAX_FACTORIAL}"
    return None


def _costly_power(text: str) -> str | None:
    for match in _POWER.finditer(text):
        inside = _group(text, match.end() - 1) if match.group(1) in ("{", "(") else match.group(1) or ""
        after = text[match.end() + (len(inside) if match.group(1) in ("{", "(") else 0) :]
        nested = len(re.findall(r"\^|\*\*", inside))
        if nested > 1 or (nested and not re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", inside))) or "!" in inside:
            return "a power tower"
        if re.match(r"[)}\s]*(?:\^|\*\*)", after):
            return "a power of a power"
        numbers = [int(number) for number in re.findall(r"\d+", inside)]
        largest = max(numbers, default=0)
        if largest > MAX_EXPONENT:
            return f"an exponent above {MAX_EXPONENT}"
        base = text[: match.start()].rstrip()
        digits = re.search(r"\d+(?:\.\d+)?$", base)
        if digits and len(digits.group()) * largest > MAX_BASE_DIGITS_TIMES_EXPONENT:
            return "a power with too many digits"
        if base.endswith((")", "]", "}")) and largest > MAX_SYMBOLIC_POWER:
            return f"an expression to a power above {MAX_SYMBOLIC_POWER}"
    return None


def _group(text: str, start: int) -> str:
    """The content of the bracket that opens at `start`; the rest of the text if it never closes."""
    opening = text[start]
    closing = {"{": "}", "(": ")"}[opening]
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if not depth:
            return text[start + 1 : place]
    return text[start + 1 :]


def _is_balanced(text: str) -> bool:
    """Whether every brace closes, and as many brackets close as open: a half-open interval is balanced."""
    depth = 0
    for symbol in text.replace("\\{", "").replace("\\}", ""):
        depth += (symbol == "{") - (symbol == "}")
        if depth < 0:
            return False
    return depth == 0 and sum(map(text.count, "([")) == sum(map(text.count, ")]"))


def _depth(text: str) -> int:
    depth = deepest = 0
    for symbol in text:
        if symbol in "({[":
            depth += 1
            deepest = max(deepest, depth)
        elif symbol in ")}]":
            depth -= 1
    return deepest
