"""Text before it is read: unicode signs as LaTeX, damage of escaping repaired. Every pass is linear."""

from __future__ import annotations

import re
import unicodedata

from reasonrl.rewards.mathlang.styling import undressed

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-", "﹣": "-", "＋": "+", "×": r"\times ", "✕": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "∞": r"\infty ",
    "π": r"\pi ", "𝜋": r"\pi ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ", "≤": r"\le ",
    "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ", "≧": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "≅": r"\cong ", "≡": r"\equiv ", "±": r"\pm ", "∓": r"\mp ", "°": r"^{\circ}", "º": r"^{\circ}", "˚": r"^{\circ}",
    "∅": r"\emptyset ", "…": r"\ldots ", "⋯": r"\cdots ", "′": "'", "’": "'", "‘": "'", "″": "''", "“": '"', "”": '"',
    "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "→": r"\to ",
    "⇒": r"\Rightarrow ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "∣": r"\mid ", "‖": r"\|", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ",
    "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∠": r"\angle ", "△": r"\triangle ", "∂": r"\partial ",
    "∧": r"\text{ and }", "∨": r"\text{ or }", "∖": r"\setminus ", "∗": "*", "％": "%", "，": ", ", "、": ", ",
    "；": "; ", "：": ":", "（": "(", "）": ")", "。": ". ", "？": "?", 
    "¬": r"\neg ", "∝": r"\propto ", "⊂": r"\subset ",
    "⊆": r"\subseteq ", "⟂": r"\perp ", "⊥": r"\perp ", "∥": r"\parallel ", "£": "", "€": "", "￥": "", "¥": "",
    "₹": "", "¢": r"\text{ cents}", "½": " 1/2", "⅓": " 1/3", "⅔": " 2/3", "¼": " 1/4", "¾": " 3/4", "⅕": " 1/5",
    "⅖": " 2/5", "⅗": " 3/5", "⅘": " 4/5", "⅙": " 1/6", "⅚": " 5/6", "⅐": " 1/7", "⅛": " 1/8", "⅜": " 3/8",
    "⅝": " 5/8", "⅞": " 7/8", "⅑": " 1/9", "⅒": " 1/10",
}  # fmt: skip
_WORDS = {"或": " or ", "和": " and ", "且": " and ", "与": " and ", "及": " and "}
_GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ϵ": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ϑ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "µ": "mu", "ν": "nu", "ξ": "xi",
    "ρ": "rho", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "ϕ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_REMOVED = dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad\u2061\u2062\u2063\u2064", "")
_TABLE = str.maketrans(_SIGNS | _WORDS | {letter: f"\\{name} " for letter, name in _GREEK.items()} | _REMOVED)

_HIGH = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿˣⁱ"
_LOW = "₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓᵢ"
_PLAIN = "0123456789+-()nxi"
_HIGH_TABLE, _LOW_TABLE = str.maketrans(_HIGH, _PLAIN), str.maketrans(_LOW, _PLAIN)
_HIGH_RUN, _LOW_RUN = re.compile(f"[{_HIGH}]+"), re.compile(f"[{_LOW}]+")

# An escape that some writer of JSON or Python took for a control character: `\frac` became form feed + `rac`.
_LOST_ESCAPES = (("\x0c", "\\f"), ("\x08", "\\b"), ("\x07", "\\a"), ("\x0b", "\\v"))
_LOST_TAB = re.compile(r"\t(?=ext|imes|heta|an\b|frac|o\b|riangle|ilde|au\b)")
_LOST_RETURN = re.compile(r"\r(?=ight|ho\b|angle|floor|ceil)")
_TORN_TEXT = re.compile(r"(?<![\\A-Za-z])ext\{")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z{},;!:%$])")
_STAR_POWER = re.compile(r"\*\*(?!\*)")
# `0{,}5` is a decimal comma, `10{,}000` a thousands mark: three digits behind a whole number that is not 0.
_DECIMAL_COMMA = re.compile(r"(?<![\d,.}])(0\{,\}\d+|\d+\{,\}(?:\d{1,2}|\d{4,}))(?![\d{])")
_UNIT_IN_PARENTHESES = re.compile(
    r"(?<=\d)(?:\\[, ]|~|\s)*(?:\\(?:text|mathrm)\{\s*\(([A-Za-z][A-Za-z ]{1,30})\)\s*\}"
    r"|\(\\(?:text|mathrm)\{([A-Za-z][A-Za-z ]{1,30})\}\))$"
)


_CIRCLED = re.compile("[①②③④⑤⑥⑦⑧⑨⑩][①②③④⑤⑥⑦⑧⑨⑩]+")


def clean(text: str) -> str:
    r"""A text with unicode signs as LaTeX commands, digits of other scripts as ASCII, superscripts as `^{…}`, and
    damaged or doubled backslashes repaired. Case and meaning stay.
    """
    if not text.isascii():
        text = _HIGH_RUN.sub(lambda run: "^{" + run.group().translate(_HIGH_TABLE) + "}", text)
        text = _LOW_RUN.sub(lambda run: "_{" + run.group().translate(_LOW_TABLE) + "}", text)
        text = _CIRCLED.sub(lambda run: ",".join(run.group()), text)  # ①③ names two statements, not thirteen
        text = unicodedata.normalize("NFKC", text.translate(_TABLE)).translate(_TABLE)
        if not text.isascii():
            text = "".join(_ascii_digit(symbol) for symbol in text)
    if "\\" in text or not text.isprintable():
        for damaged, repaired in _LOST_ESCAPES:
            text = text.replace(damaged, repaired)
        text = _LOST_RETURN.sub(r"\\r", _LOST_TAB.sub(r"\\t", text))
        if "\\\\" in text and "\\begin" not in text:
            text = _DOUBLED.sub(r"\\", text)
    if "**" in text:
        text = _STAR_POWER.sub("^", text)
    if "ext{" in text:
        text = _TORN_TEXT.sub(r"\\text{", text)
    if text.endswith((")", "}")) and "(" in text:
        text = _UNIT_IN_PARENTHESES.sub(lambda unit: rf"\text{{ {unit[1] or unit[2]}}}", text)
    if "{,}" in text:
        text = _DECIMAL_COMMA.sub(lambda number: number[1].replace("{,}", "."), text)
    return undressed(text)


def _ascii_digit(symbol: str) -> str:
    return str(unicodedata.digit(symbol)) if symbol.isdigit() and not symbol.isascii() else symbol
