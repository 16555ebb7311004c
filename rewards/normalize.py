r"""One spelling for each thing: unicode, LaTeX dressing, thousands marks, wrappers. Meaning is never changed here."""

from __future__ import annotations

import re

from reasonrl.rewards.mathlang.clean import clean

_ROW_END = "\ue000"  # a private-use character while the dressing comes off

_DRESSING: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$", ""),
        (r"\\(?:\[|\]|\(|\))", " "),
        (r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr)(?![A-Za-z])\s*\.?(?=[()\[\]|.\\])", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits|quad|qquad|boldmath)(?![A-Za-z])", " "),
        (r"\\(?:mathrm|textrm|textnormal|textsf|texttt|mbox|hbox|textup|operatorname)\s*(?=\{)", r"\\text"),
        (r"\\(?:textbf|textit|emph|mathbf|boldsymbol|bm|mathit|mathsf|mathnormal|underline)\s*\{([^{}]*)\}", r"\1"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\leq(?:slant)?(?![A-Za-z])", r"\\le "),
        (r"\\geq(?:slant)?(?![A-Za-z])", r"\\ge "),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\(?:dots|cdots|dotsc)(?![A-Za-z])|\.\.\.", r"\\ldots "),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|(?<=[\d}\s])(?:degrees?)\b", r"^{\\circ}"),
        (r"(?<=\d)\s*(?:\{,\}|,\\!|\\,|\\!)\s*(?=\d{3}(?!\d))", ","),
        (r"\{,\}", ","),
        (r"\\[,!;:> ]|~|&nbsp;", " "),
        (r"\\(?:cdot|times|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*(\{[^{}]*\})\s*(\d)", r"\\frac\1{\2}"),
        (r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\*\*(?=\s*[\d{(A-Za-z])(?<=[\dA-Za-z)\]}]\*\*)", "^"),
        (r"\s+", " "),
    )
)
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def normalize(text: str) -> str:
    r"""A text in one spelling: NFKC with superscripts and unicode fractions written out, dressing (`$`, `\left`,
    `\displaystyle`, thin spaces, font commands) taken off, `\dfrac` as `\frac`, `\leq` as `\le`, bare arguments braced,
    one space at most, no trailing punctuation.
    """
    text = clean(text).replace("\\$", "").replace("$", "")
    # A row's end in a matrix is no escaped space; without a matrix, a doubled backslash is a text that was escaped
    # twice.
    text = text.replace("\\\\", _ROW_END) if "\\begin" in text else re.sub(r"\\\\(?=[A-Za-z])", r"\\", text)
    for pattern, replacement in _DRESSING:
        text = pattern.sub(replacement, text)
    text = text.replace(_ROW_END, "\\\\")
    text = text.strip().strip("*_").strip()
    whole = _WHOLE_TEXT.fullmatch(text)
    text = whole.group(1).strip() if whole else text
    while text.endswith((".", ",", ";", ":")) and not text.endswith("\\"):
        text = text[:-1].rstrip()
    return unwrap(text)


def unwrap(text: str) -> str:
    """A text without braces around the whole of it."""
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def compact(text: str) -> str:
    r"""A normalised text without spaces, `\text{…}` wrappers and needless braces: what two spellings of one thing
    share.
    """
    text = _WHOLE_TEXT.sub(r"\1", text)
    text = re.sub(r"(?<=[\^_])\{(\w)\}", r"\1", text)
    return re.sub(r"\s+(?!\w)|(?<!\w)\s+", "", text)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for place, symbol in enumerate(text):
        if symbol == "\\":
            continue
        if symbol in "{}" and (place == 0 or text[place - 1] != "\\"):
            depth += 1 if symbol == "{" else -1
            if depth == 0:
                return place == len(text) - 1
    return False
