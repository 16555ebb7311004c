"""Where an answer is found in a response: marked, stated in many languages, in prose; hostile texts."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.latex import box_spans, boxes, last_box
from reasonrl.rewards.extract import after_thinking, extract_answer, extract_gold
from reasonrl.rewards.extract_gold import kind_of
from reasonrl.rewards.policy import POLICIES


def found(response: str, gold: str) -> tuple[str, str] | None:
    answer = extract_answer(response, extract_gold(gold))
    return None if answer is None else (answer.text, answer.how)


# --- think blocks ---


@pytest.mark.parametrize(
    ("response", "outside"),
    [
        ("5", "5"),
        ("<think>a</think>5", "5"),
        ("a</think>5", "5"),
        ("5<think>a", "5"),
        ("<think>a", ""),
        ("a</think>", ""),
        ("<think>a</think>b<think>c</think>5", "5"),
        ("<think>a</think>5<think>c</think> \n", "5"),
        ("<think>a</think>5<think>torn", "5"),
        ("<think>a<think>b</think>c</think>5", "5"),
        ("<THINK>a</Think>5", "5"),
        ("<thinking>a</thinking>5", "5"),
        ("<reasoning>a</reasoning>5", "5"),
        ("[THINK]a[/THINK]5", "5"),
        ("◁think▷a◁/think▷5", "5"),
        ("<|begin_of_thought|>a<|end_of_thought|>5", "5"),
        ("I think 5 < 6", "I think 5 < 6"),
    ],
)
def test_what_stands_outside_the_thinking(response: str, outside: str) -> None:
    assert after_thinking(response) == outside


# --- boxes ---


@pytest.mark.parametrize(
    ("response", "gold", "text"),
    [
        (r"\boxed{1} no, \boxed{2}", "7", "2"),
        (r"so \boxed{\frac{1}{2}}.", "7", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "7", "5"),
        (r"\boxed{4} and a torn \boxed{7", "7", "4"),
        (r"Put it in \boxed{}: \boxed{4} \boxed{ }", "7", "4"),
        (r"The result is \\boxed{-3}", "7", "-3"),
        (r"\fbox{3}", "7", "3"),
        (r"so \boxed 5", "7", "5"),
        (r"\boxed{2} and \boxed{3}", "1, 2", "2, 3"),
        (r"\boxed{1} and thus but \boxed{2} and \boxed{3}", "7", "2, 3"),
        (r"We get $x = \boxed{5}$ and $y = \boxed{7}$.", "1, 2", "5, 7"),
        (r"We get $x = \boxed{5}$ and $y = \boxed{7}$.", "7", "7"),
        (r"First \boxed{5}. Then \boxed{6}.", "1, 2", "6"),
        (r"\boxed{41} \boxed{42}", "7", "42"),
        (r"\boxed{5} or \boxed{7}", "7", "5 or 7"),
        (r"\boxed{\boxed{5} or \boxed{7}}", "7", r"\boxed{5} or \boxed{7}"),
        (r"$\boxed{5}$, $\boxed{7}$", "7", "5, 7"),
        (" ".join(rf"\boxed{{{guess}}}" for guess in range(3, 8)), "7", "3, 4, 5, 6, 7"),
    ],
)
def test_which_box_counts(response: str, gold: str, text: str) -> None:
    assert found(response, gold) == (text, "box")


@pytest.mark.parametrize("response", [r"\boxed{}", r"The answer is 5: \boxed{}", r"\boxed{ }\boxed{}", r"\boxed{"])
def test_an_empty_box_is_no_answer(response: str) -> None:
    assert found(response, "5") is None


BRACED = st.recursive(
    st.text("ab1\\+ ", max_size=4).map(lambda text: text.replace("\\", r"\x ")),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=8,
)


@given(
    st.lists(BRACED.filter(lambda content: content.strip() != ""), min_size=1, max_size=4), st.text("ab }.", max_size=9)
)
@settings(max_examples=200, deadline=None)
def test_boxes_hold_what_was_put_in(contents: list[str], tail: str) -> None:
    text = "so ".join(rf"\boxed{{{content}}}" for content in contents)
    assert boxes(text + tail) == contents
    assert last_box(text + tail) == contents[-1]
    for box in box_spans(text):
        assert text[box.start : box.end] == rf"\boxed{{{box.content}}}"


# --- tags, hashes, golds ---


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("<answer>84</answer>", ("84", "tag")),
        ("<answer>1</answer> no <ANSWER>\n2\n</ANSWER>", ("2", "tag")),
        ("<answer>The answer is 84 birds</answer>", ("84", "tag")),
        (r"<answer>\boxed{84}</answer> \boxed{5}", ("84", "box")),
        ("16-3\n#### 13", ("13", "hashes")),
        ("16-3\n#### 13\n\nQuestion: 7?", ("13", "hashes")),
        ("#### Step 1: add\n2+3\n#### Answer\n5", ("5", "stated")),
        ("#### Conclusion:\nShe has 5 birds.", ("5", "prose_number")),
    ],
)
def test_tags_and_hashes(response: str, answer: tuple[str, str]) -> None:
    assert found(response, "7") == answer


@pytest.mark.parametrize(
    ("gold", "bare"),
    [
        ("5", "5"),
        ("6+2\n#### 8", "8"),
        (r"thus \boxed{\frac12}", r"\frac12"),
        (r"\boxed{1} thus but \boxed{2} and \boxed{3}", "2, 3"),
        (r"<answer>\boxed{84}</answer>", "84"),
        ("Alina, and the answer is\n(C) Cecile", "(C) Cecile"),
        (r"\boxed{}", ""),
        ("", ""),
        (" x+1 ", "x+1"),
    ],
)
def test_bare_golds(gold: str, bare: str) -> None:
    assert extract_gold(gold) == bare


@pytest.mark.parametrize(
    ("kind", "golds"),
    [
        (
            "number",
            ["5", "-3", "1,234.5", "$1{,}000$", r"\$18", "3/4", r"$\frac{3}{4}$", "2 1/2", "25%", r"50\%", "12:30"],
        ),
        ("number", ["5 cm", r"5\text{ cm}", r"90^\circ", "x = 5", r"\text{13}", "1e5", "½", "٤٢"]),
        ("letter", ["C", "(C)", r"\text{C}", "B,D", "B and D", "(D) Alina", "D. Alina"]),
        ("list", ["1, 2", "2,4,3", "(1,2)", r"1 \text{ and } 2", "x=1, y=2"]),
        ("words", ["yes", "Monday", r"\text{odd}", "New York"]),
        ("other", ["x^2+1", r"2\sqrt{3}", r"\pi", r"\frac{x}{2}", "x", "5x"]),
        ("text", ["The sum of the digits grows without any bound here", "7" * 500]),
    ],
)
def test_kinds_of_golds(kind: str, golds: list[str]) -> None:
    assert {gold: kind_of(gold) for gold in golds} == dict.fromkeys(golds, kind)


# --- stated ---

STATED = {
    "The answer is 12.": "12",
    "The final answer is: $12$. I hope it is correct.": "12",
    "Final Answer: The final answer is $12$.": "12",
    "**Answer:** 12": "12",
    "**The answer is 12**": "12",
    "### Final Answer\n\nShe makes **$12** a day.": "$12",
    "Final Answer\n\\[\n12\n\\]": "12",
    "Answer:\n12": "12",
    '{"reasoning": "3*4", "answer": "12"}': "12",
    "\\[ \\text{Answer: } 12 \\]": "12",
    "The answer is <b>12</b>.": "12",
    "ANSWER: 12": "12",
    "The answer to the question of how many birds there are is 12.": "12",
    "The correct answer should be 12.": "12",
    "My final answer is therefore 12 birds.": "12",
    "The answer is 5 or 12": "5 or 12",
    "The final answer is 5, or 12.": "5, or 12",
    "The answer is not 5. The answer is 12.": "12",
    "The answer is 12. The answer is not 5.": "12",
    "The answer is 12, since 3 times 4 is 12 and 2 times 6 too.": "12",
    "Answer: Let's think step by step.\nShe has 3 eggs.\nSo she makes 3 * 4 = 12 dollars.": "12",
    "Answer: Janet still has 12 $ to pay within 5 months.": "12",
    "La réponse est 12.": "12",
    "Réponse : il reste 12 € à payer d'ici 5 mois.": "12",
    "La respuesta final es: 12 litros": "12",
    "A resposta é 12.": "12",
    "La risposta è 12.": "12",
    "Die Antwort lautet 12.": "12",
    "Het antwoord is 12": "12",
    "Ответ: 12": "12",
    "Таким образом, ответ равен 12 рублей.": "12",
    "Cevap: 12": "12",
    "Đáp án là 12": "12",
    "答案是12。": "12",
    "所以答案为 $12$。": "12",
    "答：一共有12个苹果。": "12",
    "答案：每份应该是 (\\frac{2}{5}) 吨。": r"\frac{2}{5}",
    "したがって、答えは12です。": "12",
    "따라서 정답은 12입니다.": "12",
    "उत्तर: 12": "12",
    "الجواب هو 12.": "12",
    "คำตอบคือ 12": "12",
}


@pytest.mark.parametrize(("response", "text"), STATED.items())
def test_stated_answers(response: str, text: str) -> None:
    answer = extract_answer(response, "7")
    assert answer is not None and answer.text == text and answer.how in ("stated", "prose_number")


# --- prose ---

PROSE = {
    "She makes $18 every day at the market. I hope this helps!": "$18",
    "In total that gives 3 * 6 = 18 apples.": "18",
    "Therefore, he has 18 (20 - 2) marbles left.": "18",
    "Insgesamt hat er also 18 Äpfel.": "18",
    "Le coût final est donc de 20 - 2 = 18": "18",
    "Il boit 1,5 litre.": "1.5",
    "因此，水池中水将在18分钟内被放完。": "18",
    "因此，她一共比他多 **18页**。": "18",
    "इसलिए, दुकान में अब 18 कमीजें हैं।": "18",
    "لذا، ناتج العملية الحسابية 9 * 2 هو **18**.": "18",
    "The total is 1,800 dollars.": "1,800",
    "The area of the square is 18 cm^2.": "18",
    "The angle is $18^\\circ$.": "18",
    "Therefore the value is -18.": "-18",
    "so the probability is 3/4.": "3/4",
    "The probability is thus $\\frac{3}{4}$.": r"\frac{3}{4}",
    "It rose by 18%.": "18%",
    "He needs 2 1/2 cups.": "2 1/2",
    "The train leaves at 12:30.": "12:30",
    "We get \\[x = 6\\cdot 3 = 18.\\]": "18",
    "so the number of eggs is 20 - 2": "20 - 2",
    "It is one of 17, 18": "17, 18",
    "They are 3 apples and 5 pears. So there are 8 of them after 2 days.": "8",
}


@pytest.mark.parametrize(("response", "text"), PROSE.items())
def test_the_number_that_the_last_sentence_ends_in(response: str, text: str) -> None:
    assert found(response, "7") == (text, "prose_number")
    marked = extract_answer(response, "7", POLICIES["strict"])
    assert marked is None or marked.how == "whole"


@pytest.mark.parametrize(
    "response",
    [
        "I do not know. Perhaps I will know it at some later time.",
        "I am not sure about this, let me think about it some more. It may be 5.",
        "What is it, then? Is it 5, which many people would have said?",
        "I have looked at all the cases there are, and it isn't 5.",
        "We know by the first of the two conditions that x must be > 5",
        "The first two of the conditions say that it cannot be 5 but the third one may.",
        "5 " * 400,
        "We have no number to show for all of the work that was done here.",
    ],
)
def test_no_number_is_taken_from_doubt_denial_and_noise(response: str) -> None:
    assert found(response, "7") is None


@pytest.mark.parametrize(
    ("response", "gold", "answer"),
    [
        ("Therefore, $f(x) = x^2 + 1$.", "x^2", ("x^2 + 1", "prose_formula")),
        ("Thus we get\n\\[\nf(x) = (x+1)^2-2x = x^2+1.\n\\]", "x^2", ("x^2+1", "prose_formula")),
        ("The area is 10π.", r"\pi", ("10π", "prose_formula")),
        ("Either $x$ or $x^2$", "x^2", ("x  or  x^2", "prose_formula")),
        ("So the intersection is (1, 2).", "(3,4)", ("(1, 2)", "prose_formula")),
        ("So it falls on a **Monday**.", "Friday", ("Monday", "prose_words")),
        ("The function is odd.", "even", ("odd", "prose_words")),
        ("41, 42", "42", ("41, 42", "whole")),
        ("```\n42\n```", "7", ("42", "whole")),
        ("<b>42</b>", "7", ("42", "whole")),
        ("The values are 1, 2, and 3.", "4, 5", ("1, 2, and 3", "prose_formula")),
        ("12:30", "30", ("12:30", "whole")),
        ("x = 4 = 5", "5", ("x = 4 = 5", "prose_number")),
        ("p=5, q=2; p=7, q=2", "1, 2", ("p=5, q=2; p=7, q=2", "whole")),
    ],
)
def test_formulas_words_and_bare_lines(response: str, gold: str, answer: tuple[str, str]) -> None:
    assert found(response, gold) == answer


# --- letters ---

LETTERS = {
    "C": "C",
    "(C) Paris": "C",
    "C. It can't be A or B": "C",
    "C不是 A": "C",
    "The answer is C, since it can't be A or B": "C",
    "The answer: C, it doesn't make sense for it to be A or B": "C",
    "It's not A because that makes no sense, therefore I think it's C": "C",
    "A is wrong. B is impossible. So C.": "C",
    "A and B are incorrect, hence C": "C",
    "I would go with C.": "C",
    "I'd pick C because B is too small": "C",
    "Since B is larger than A, I choose C.": "C",
    "Option C is correct.": "C",
    "Thus, C is the correct choice.": "C",
    "réponse est C non A": "C",
    "La réponse est C, pas A.": "C",
    "Die Antwort ist nicht A, sondern C.": "C",
    "故选C。": "C",
    "因此正确答案是C，而不是A。": "C",
    "The answer is A or C": "A or C",
    "Either A or C could be right": "A or C",
    "The answers are A and C.": "A and C",
    "It is A, B or C": "A or B or C",
}


@pytest.mark.parametrize(("response", "letters"), LETTERS.items())
def test_letters_named_and_ruled_out(response: str, letters: str) -> None:
    answer = found(response, "B")
    assert answer is not None
    assert answer[0].strip("() .").removesuffix(") Paris") == letters


@pytest.mark.parametrize(
    ("response", "letters"),
    [
        ("A\nB\nC\nD", "A, B, C, D"),
        ("(A) 3 (B) 4 (C) 5 (D) 6", None),
        ("We must choose one of these.\nA. 3\nB. 4\nC. 5\nD. 6", None),
        ("A. 3\nB. 4\nC. 5\nSo I would go with B.", "B"),
        ("A: no.\nB: no.\nC: yes.\nD: no.", None),
    ],
)
def test_a_list_of_the_options_names_no_choice(response: str, letters: str | None) -> None:
    answer = found(response, "D")
    assert (None if answer is None or answer[1] == "whole" else answer[0]) == letters


@pytest.mark.parametrize("response", ["I do not know what this is about.", "A nice problem. I have no idea."])
def test_articles_and_pronouns_are_no_letters(response: str) -> None:
    answer = found(response, "A")
    assert answer is None or answer == (response, "whole")


# --- hostile texts ---


def test_any_response_is_read_in_linear_time() -> None:
    """A fresh process, so that a quadratic step costs this test its time and not the whole run."""
    size = 100_000
    parts = [
        *(
            "\\left",
            "{",
            "\\boxed{",
            "\\boxed{41} ",
            " ",
            "-",
            "$",
            "$ ",
            "answer ",
            "the answer is ",
            "<answer>",
            "</answer>",
        ),
        *(
            "<think>",
            "</think>",
            "####\n",
            "=",
            "1 ",
            "1",
            "1,",
            "\n",
            ". ",
            "*",
            "\\(",
            "\\[",
            "答案",
            "A or ",
            "not A ",
            "İ",
        ),
        *(
            "\\frac{1}{",
            "word ",
            "\\boxed ",
            'answer"',
            "réponse ",
            "1 1/",
            "?",
            "option A ",
            "final answer\n",
            "<|",
            "**1**",
        ),
    ]
    texts = [part * (size // len(part)) for part in parts]
    texts += ["\\boxed{" * 10_000 + "}" * 10_000, "answer" + " " * size + "x", "\\boxed" + " " * size, " " * size + "1"]
    texts += ["x 1" + " " * 590 + "1", "=" + " " * 590 + "1", "\\[" + " " * 590 + "\\]", "答" + " " * size]
    program = (
        "import json, sys, time\nfrom reasonrl.rewards.extract import extract_answer, extract_gold\n"
        "for text in json.load(sys.stdin):\n"
        "    for whole in (text, 'the answer is ' + text, text + ' so the answer is 5'):\n"
        "        for gold in ('5', 'C', 'x+1', '1,2', 'yes'):\n"
        "            start = time.process_time(); extract_answer(whole, gold)\n"
        "            print(time.process_time() - start)\n"
        "    start = time.process_time(); extract_gold(text); print(time.process_time() - start)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr
    seconds = [float(line) for line in run.stdout.split()]
    assert len(seconds) == 16 * len(texts)
    assert max(seconds) < 0.5, texts[seconds.index(max(seconds)) // 16][:40]


@given(st.text(max_size=200), st.text(max_size=40))
@settings(max_examples=300, deadline=None)
def test_what_is_found_stands_in_the_response_and_never_raises(response: str, gold: str) -> None:
    first = extract_answer(response, extract_gold(gold))
    assert first == extract_answer(response, extract_gold(gold))
    if first is not None and first.how in ("whole", "tag", "hashes"):
        assert first.text in response


def test_fragments_of_answers_in_any_order_never_raise() -> None:
    pieces = ["\\boxed{", "}", "{", "$", "answer is ", "答案", "<think>", "</think>", "<answer>", "</answer>", "####"]
    pieces += [" 5", "C", "\n", "\\(", "\\)", "=", " or ", ", ", "**", "1/2", "(", ")", "not ", ". ", "\\frac{1}{2}"]
    source = random.Random(0)
    for _ in range(3_000):
        response = "".join(source.choices(pieces, k=source.randint(1, 14)))
        for gold in ("5", "C", "x+1", "1, 2", "yes"):
            answer = extract_answer(response, gold)
            assert answer is None or answer.text.strip() == answer.text != ""
