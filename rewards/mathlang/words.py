"""Words with a meaning in mathematics, and units."""

from __future__ import annotations

import re
from fractions import Fraction

from reasonrl.rewards.mathlang.tables import names, pairs

FUNCTIONS = names(
    """sin cos tan cot sec csc cosec arcsin arccos arctan arccot arcsec arccsc asin acos atan sinh cosh tanh coth
    sech csch arcsinh arccosh arctanh asinh acosh atanh log ln lg exp sqrt cbrt abs max min gcd lcm det tr arg
    floor ceil ceiling pi infty infinity inf oo sgn sign erf tg ctg arctg log10 log2 mod binom"""
)
"""Names that are a function or a constant also without a backslash."""

GREEK = names(
    """alpha beta gamma delta epsilon zeta theta iota kappa lambda sigma omega rho phi chi psi tau Gamma Delta
    Theta Lambda Sigma Omega Phi Psi"""
)

STOP_WORDS = names(
    """the an of to is are as at by for from in it its no not on than that this with where when which if then else
    has have be can all any one two six ten odd even yes none both each only sum so we they who why how some
    such does do may day win wins red top low hot east west nor but was were will would there these those about
    approximately roughly over per let for mod"""
)
"""Short words that are never a product of letters."""

REMARKS = names("where for with when if such provided whenever as given assuming in because since which")
"""Words that open a remark behind an answer."""

NO_UNIT = names(
    """not no is are was isn't aren't wrong incorrect false never nor neither than at least most more less fewer maybe
    perhaps plus minus times equals to but if unless instead either greater above below under without"""
)
"""Words that make what stands behind a value more than the name of what was counted."""

_LENGTH = {
    "mm": Fraction(1, 1000),
    "cm": Fraction(1, 100),
    "dm": Fraction(1, 10),
    "m": Fraction(1),
    "km": Fraction(1000),
}
_LENGTH |= {"in": Fraction(254, 10_000), "ft": Fraction(3048, 10_000), "yd": Fraction(9144, 10_000)}
_LENGTH |= {"mi": Fraction(1_609_344, 1000)}
_MASS = {"mg": Fraction(1, 1000), "g": Fraction(1), "kg": Fraction(1000), "t": Fraction(1_000_000)}
_TIME = {"ms": Fraction(1, 1000), "s": Fraction(1), "min": Fraction(60), "h": Fraction(3600), "day": Fraction(86_400)}
_TIME |= {"week": Fraction(604_800)}
_VOLUME = {"ml": Fraction(1, 1000), "l": Fraction(1)}
_MONEY = {"cent": Fraction(1, 100), "dollar": Fraction(1)}
_OTHERS = names("lb oz gal n j w kw pa hz v ohm mol k mph kph rad year month")
_KINDS = {"length": _LENGTH, "mass": _MASS, "time": _TIME, "volume": _VOLUME, "money": _MONEY}
UNITS: dict[str, tuple[str, Fraction]] = {
    name: (kind, size) for kind, table in _KINDS.items() for name, size in table.items()
} | {name: (name, Fraction(1)) for name in _OTHERS}
"""A unit's kind and its size in that kind's base unit."""

ALIASES = pairs(
    """millimeter=mm millimetre=mm centimeter=cm centimetre=cm decimeter=dm meter=m metre=m kilometer=km kilometre=km
    inch=in inche=in foot=ft feet=ft yard=yd mile=mi milligram=mg gram=g gm=g kilogram=kg kilo=kg ton=t tonne=t
    millisecond=ms second=s sec=s minute=min hour=h hr=h milliliter=ml millilitre=ml liter=l litre=l
    cents=cent
    usd=dollar
    buck=dollar pound=lb ounce=oz gallon=gal newton=n joule=j watt=w pascal=pa hertz=hz volt=v radian=rad kmph=kph
    yr=year days=day lbs=lb wk=week mole=mol kelvin=k"""
)

SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
"""Words behind a number that multiply it: their powers of ten."""

UNIT_WORDS = names(
    """mm cm dm km ft yd mi mg kg ml lb lbs oz gal hr hrs min mins sec secs mph kph kmph usd in inch inches foot
    feet yard yards mile miles meter meters metre metres hour hours day days week weeks year years cent cents
    dollar dollars unit units square cubic sq cu rad radians yuan rupees euros people
    hundred thousand million billion trillion"""
)
"""Words that are a unit when they follow a value, even without a wrapper."""


def unit_name(words: str) -> str:
    """A unit's one name: lower case, singular, known spellings shortened; what stands in brackets goes."""
    cleaned = words.lower().replace(".", "").replace(",", " ").replace("\\", " ").replace("-", " ")
    cleaned = cleaned.partition("(")[0].replace("/", " / ").replace("^", " ^ ")
    parts: list[str] = []
    for word in cleaned.split():
        word = "/" if word == "per" else word
        if word in ("unit", "units", "sq", "square", "cubic", "cu", "the", "of", "a", "in", "total") and word != "in":
            if word in ("square", "sq"):
                parts.append("square")
            elif word in ("cubic", "cu"):
                parts.append("cubic")
            continue
        singular = word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
        parts.append(ALIASES.get(word, ALIASES.get(singular, singular)))
    name = " ".join(parts).replace("mph", "mi / h").replace("kph", "km / h")
    for power, prefix in (("2", "square"), ("3", "cubic")):
        if name.endswith(f" ^ {power}"):
            name = f"{prefix} {name[: -len(power) - 3]}"
    return "" if name in ("square", "cubic") else name.strip()  # square units


def changes_number(unit: str) -> bool:
    """Whether the words behind a value make it another one: `dozen`, `tenths`, `eggs, 6 hens`."""
    words = unit.split()
    if not words:
        return False
    counted = any(word[0].isdigit() and before != "^" for before, word in zip(["", *words], words, strict=False))
    return counted or words[0] in _CHANGING or (len(words) == 1 and words[0] in _CARDINALS)


_MONEY_SIGNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("dollar", r"\\\$|\A\$(?=\d[^$]*\Z)|(?<![A-Za-z])(?:dollars?|usd)(?![A-Za-z])"),
        ("cent", r"¢|(?<![A-Za-z])cents?(?![A-Za-z])"),
        ("euro", r"€|(?<![A-Za-z])(?:euros?|eur)(?![A-Za-z])"),
        ("sterling", r"£|\\pounds(?![A-Za-z])"),
        ("yen", r"¥|￥|(?<![A-Za-z])(?:yuan|yen|rmb)(?![A-Za-z])"),
        ("rupee", r"₹|(?<![A-Za-z])(?:rupees?)(?![A-Za-z])"),
    )
)


def other_money(gold: str, answer: str) -> bool:
    """Whether two texts are sums of money in two currencies: `$5` and `5 cents`."""
    ours, theirs = ({kind for kind, sign in _MONEY_SIGNS if sign.search(text.lower())} for text in (gold, answer))
    return len(ours) == len(theirs) == 1 and ours != theirs


_CHANGING = names(
    """dozen ten tenth hundredth thousandth millionth half halve third fifth sixth seventh eighth ninth twelfth squared
    cubed factorial"""
)
_CARDINALS = names(
    """zero one two three four five six seven eight nine eleven twelve twenty thirty forty fifty sixty seventy eighty
    ninety"""
)
"""Words that change a number where they stand alone: `5 six`, not `3 six-sided dice`."""


def conversion(left: str, right: str) -> Fraction | None:
    """How many of the unit `right` one `left` is; None where the two do not measure the same thing."""
    power = 1
    for prefix, exponent in (("square ", 2), ("cubic ", 3)):
        if left.startswith(prefix) and right.startswith(prefix):
            left, right, power = left[len(prefix) :], right[len(prefix) :], exponent
    one, other = UNITS.get(left), UNITS.get(right)
    if one is None or other is None or one[0] != other[0]:
        return None
    return (one[1] / other[1]) ** power


def known(unit: str) -> bool:
    """Whether a unit is one of physics or money, whose exchange for another changes the answer."""
    if not unit:
        return False
    parts = unit.replace("square ", "").replace("cubic ", "").replace(" ^ 2", "").replace(" ^ 3", "").split(" / ")
    return all(part in UNITS for part in parts) or unit in ("%", "deg")
