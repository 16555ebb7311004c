"""The catalogue of behaviours and the lexical baseline."""

from __future__ import annotations

import time

import pytest

from reasonrl.errors import DataError
from reasonrl.eval.behaviours import Behaviour, lexical_count, read_catalogue
from reasonrl.eval.behaviours.lexical import sentences

OURS = list(read_catalogue().behaviours())
PLAIN = (
    "The picture shows a square and two circles. There are 5 dots, so 5 + 7 = 12. The area is 3.5 times 2, which is 7."
    " Thus x = 4 and the answer is \\boxed{12}."
)


def test_ours_are_the_four_pairs_of_the_paper():
    assert [(pair.language.name, pair.vision.name) for pair in read_catalogue().pairs] == [
        ("backtracking", "visual_reflection"),
        ("verification", "visual_verification"),
        ("subgoal_setting", "visual_divide_and_conquer"),
        ("backward_chaining", "goal_driven_visual_tracing"),
    ]
    assert all(one.definition and one.examples and one.not_this and one.patterns for one in OURS)
    assert len({one.fingerprint for one in OURS}) == 8


@pytest.mark.parametrize("behaviour", OURS, ids=lambda one: one.name)
def test_the_patterns_find_the_examples_and_pass_over_plain_text(behaviour):
    assert all(lexical_count(behaviour, example) >= 1 for example in behaviour.examples)
    assert lexical_count(behaviour, PLAIN) == 0 and lexical_count(behaviour, "") == 0


def test_a_count_is_of_sentences_and_vision_needs_an_image():
    by_name = {one.name: one for one in OURS}
    reflection, backtracking = by_name["visual_reflection"], by_name["backtracking"]
    text = "Let me look at the diagram again.\nGoing back to the figure, I misread the figure. So 3.5 it is."
    assert lexical_count(reflection, text) == 2
    assert lexical_count(reflection, text.replace("diagram", "equation").replace("figure", "equation")) == 0
    assert lexical_count(backtracking, "Wait, that is wrong! WAIT: no. We wait 5 minutes.") == 2
    assert sentences('A is 3.5. "So it is!" Then\n\n?  B') == ["A is 3.5.", '"So it is!', "Then", "?", "B"]


@pytest.mark.parametrize(
    "text",
    ["the image " * 20_000, "to " * 60_000, "if the answer " * 20_000, "let me try " * 20_000, "(" * 200_000],
    ids=["image", "to", "if", "let", "brackets"],
)
def test_long_texts_without_sentences_take_no_long_time(text):
    start = time.process_time()
    for behaviour in OURS:
        lexical_count(behaviour, text)
    assert time.process_time() - start < 20


def test_a_catalogue_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "look:\n  language: &look {definition: looks again, patterns: ['\\?\\w\\d=']}\n  vision: *look\n"
        "other:\n  language: {name: halves, patterns: [half]}\n  vision: {definition: halves the picture}\n"
    )
    pairs = read_catalogue(path).pairs
    assert [one.name for pair in pairs for one in (pair.language, pair.vision)] == [
        *("look", "visual_look", "halves", "visual_other"),
    ]
    assert lexical_count(pairs[0].vision, "B2=7;?B2=1;1+3=4") == 1
    assert pairs[1].vision.patterns == () and pairs[1].language.definition == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds a list"),
        ("", "holds a NoneType"),
        ("a: {language: {patterns: [x]}}", "pair 'a' has language -> give it language and vision"),
        ("a: 3", "pair 'a' has 3"),
        ("a: {language: 3, vision: {patterns: [x]}}", "language is 3"),
        ("a: {language: {patern: [x]}, vision: {patterns: [x]}}", "did you mean 'patterns'"),
        ("a: {language: {patterns: ['(']}, vision: {patterns: [x]}}", "no regular expression"),
        ("a: {language: {patterns: ['x*']}, vision: {patterns: [x]}}", "found in an empty text"),
        ("a: {language: {patterns: [x], needs: '['}, vision: {patterns: [x]}}", "no regular expression"),
        ("a: {language: {patterns: x}, vision: {patterns: [x]}}", "give a list of texts"),
        ("a: {language: {definition: [x]}, vision: {patterns: [x]}}", "give a text"),
        ("a: {language: {examples: [y]}, vision: {patterns: [x]}}", "neither a definition for a judge nor patterns"),
        ("a: {language: {patterns: [x], name: ../b}, vision: {patterns: [x]}}", "use letters"),
        ("a: {language: {name: b, patterns: [x]}, vision: {name: b, patterns: [x]}}", "used twice"),
        ("a: {", "no YAML"),
    ],
)
def test_a_catalogue_that_cannot_be_says_why(text, said, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_catalogue(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_file_and_changed_definitions(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_catalogue(tmp_path / "none.yaml")
    one = Behaviour("a", "x")
    assert one.fingerprint == Behaviour("a", "x").fingerprint != Behaviour("a", "y").fingerprint
