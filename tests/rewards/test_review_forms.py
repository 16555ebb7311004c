"""Forms of answers that a review of the verifier found, and what they are."""

from __future__ import annotations

import pytest

from reasonrl.rewards.math import verify

SAME = [
    ("3", r"3\text{ six-sided dice}"),
    ("70", "m+n=70"),
    ("70", "p+q=70"),
    ("70", "100m+n=70"),
    ("70", "a+b+c = 70"),
    ("70", "xy=70"),
    ("70", "AB^2 = 70"),
    ("70", r"\frac{a}{b}=70"),
    ("70", r"\lfloor x \rfloor = 70"),
    ("70", "f(2)+f(3)=70"),
    ("70", r"\gcd(a,b)=70"),
    ("70", r"\deg p = 70"),
    ("70", "m + n = 51 + 19 = 70"),
    (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}"),
    (r"\$36", "36"),
    (r"\$36", r"36\text{ dollars}"),
    ("36", r"\$36"),
    ("2Cx^2", "2cx^2"),
    ("1024", "2^{10}"),
    ("120", "5!"),
    ("15", r"\binom{6}{2}"),
    ("70", r"\large 70"),
    ("70", r"\Large{70}"),
    ("70", r"\color{blue}{70}"),
    ("70", r"\textcolor{red}{70}"),
    ("70", r"\bbox[5px]{70}"),
    ("70", r"70 \checkmark"),
    ("70", r"\therefore 70"),
    ("70", r"\implies 70"),
    ("70", r"\Rightarrow x = 70"),
    ("70", r"\text{The answer is } 70"),
    ("70", r"70\text{ (exactly)}"),
    ("52_8", r"52 \text{ (base 8)}"),
    ("52_8", r"52_{\text{base }8}"),
    ("52_8", r"52_{\text{eight}}"),
    ("4343_6", r"4343 \text{ base } 6"),
    (r"90^\circ", r"m\angle ABC = 90^\circ"),
    (r"90^\circ", r"90^{\text{o}}"),
    (r"90^\circ", "90^o"),
    (r"\frac{270}7\text{ degrees}", r"38\frac{4}{7}^\circ"),
    ("-5", r"\text{negative } 5"),
    ("(8,-2)", "A(8,-2)"),
    ("(8,-2)", r"\text{the point }(8,-2)"),
    (r"\text{ellipse}", r"\text{(E) ellipse}"),
    (r"\frac12", r"\frac12 \text{ or } 50\%"),
    (r"\binom{n}{2}", "C(n,2)"),
    ("6-5i", r"6-5\imath"),
    ("0.5", "0{,}5"),
    ("0.125", "0{,}125"),
    ("10000", "10{,}000"),
    ("12", r"12\text{ (units)}"),
    ("12", r"12 (\text{units})"),
]

OTHER = [
    ("70", r"|x| = 70"),
    ("70", r"2x^\circ = 70"),
    ("70", r"\lfloor x \rfloor + 3 = 70"),
    ("70", r"f(2) + 3 = 70"),
    ("70", r"m + n = 69 = 70"),
    ("0", r"m + n = 0"),
    ("70", "2x=70"),
    ("70", "x+3=70"),
    ("70", "x^2=70"),
    ("70", "x=42=43"),
    ("70", "x-y=71"),
    ("70", "m+n=50+19=70"),
    ("70", "0=70"),
    ("70", "3=70"),
    ("0", "x+y=0"),
    (r"\$36", r"36 \text{ cents}"),
    (r"\$36", "36€"),
    (r"5\text{ cents}", r"\$5"),
    ("5", r"5 \text{ dozen}"),
    ("5", r"5 \text{ tens}"),
    ("5", r"5 \text{ tenths}"),
    ("5", r"5 \text{ halves}"),
    ("5", r"5 \text{ squared}"),
    ("5", r"5 \text{ cubed}"),
    ("5", r"5 \text{ factorial}"),
    ("5", r"5 \text{ six}"),
    ("5", r"5 \text{ eggs, 6 hens}"),
    ("1,2", r"x \in [1,2]"),
    ("1,2", "1..2"),
    ("2k", "2K"),
    ("10", "10_2"),
    ("5", "5_6"),
    ("9901", "99^2+99+1"),
    ("26000", "513^2-487^2"),
    ("3", r"13 \bmod 5"),
    ("3", r"\max(2,3)"),
    ("65", r"6 \boxed{5}"),
    ("10.5", "10{,}500"),
    ("12", r"12\text{ (dozen)}"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same_answer(gold: str, answer: str) -> None:
    verdict = verify(gold, rf"so \boxed{{{answer}}}")
    assert verdict.correct, (verdict.extracted, verdict.reason)


@pytest.mark.parametrize(("gold", "answer"), OTHER)
def test_another_answer(gold: str, answer: str) -> None:
    verdict = verify(gold, rf"so \boxed{{{answer}}}")
    assert not verdict.correct, (verdict.extracted, verdict.reason)
