"""The algorithm against a plain loop, and each of its rules by itself."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.pacore import (
    LEVELS,
    Answer,
    Failure,
    Fit,
    PacoreError,
    Plan,
    RoundFailed,
    Rounds,
    SynthesisPrompt,
    get_compaction,
    read_rounds,
)
from reasonrl.pacore.fitting import fit_messages
from reasonrl.pacore.ordering import ordered_messages

PROBLEM = [{"role": "user", "content": "What is 6 * 7?"}]


def said(call) -> str:
    """What a model might say to a call: it depends on prompt and seed alone."""
    drawn = random.Random(f"{call.messages}{call.seed}")
    return f"<think>{drawn.random()}</think>{'word ' * drawn.randint(1, 9)}{drawn.randint(0, 99)}"


def run(plan: Plan, conversation=PROBLEM, seed=0, answer=said):
    """Every prompt asked, and the outcome."""
    rounds, asked = Rounds(conversation, plan, seed), []
    while rounds.outcome is None:
        calls = rounds.calls()
        asked.append(calls)
        outcomes = [answer(call) for call in calls]
        rounds.close([one if isinstance(one, Failure) else Answer(one, None, "stop", 10, 5) for one in outcomes])
    return asked, rounds.outcome


def references(text: str) -> list[str]:
    """The messages that a synthesis prompt shows."""
    part = text.split("# Reference responses")[1].split("# Your response")[0]
    return [found.strip() for found in re.split(r"## Reference \d+", part)[1:]]


@pytest.mark.parametrize("rounds", [(4,), (16,), (32, 4), (1, 1, 1), (3, 2, 5)])
def test_a_round_sees_all_messages_of_the_one_before_and_of_no_other(rounds):
    asked, outcome = run(Plan(rounds=rounds))
    assert [len(calls) for calls in asked] == [*rounds, 1]
    assert all(call.messages == PROBLEM for call in asked[0])
    for before, calls in itertools.pairwise(asked):
        (prompt,) = {call.messages[-1]["content"] for call in calls}
        assert Counter(references(prompt)) == Counter(said(call).split("</think>")[1] for call in before)
        assert prompt.count("What is 6 * 7?") == 1 and "</think>" not in prompt
    assert outcome.text == said(asked[-1][0]).split("</think>")[1]
    assert len({call.seed for calls in asked for call in calls}) == sum(rounds) + 1
    assert outcome.completion_tokens == 5 * (sum(rounds) + 1) and outcome.prompt_tokens == 10 * (sum(rounds) + 1)
    assert [one.shown for one in outcome.rounds] == [0, *rounds]


def test_levels_and_what_rounds_may_be():
    assert LEVELS == {"low": (4,), "medium": (16,), "high": (32, 4)}
    assert read_rounds("high") == read_rounds("32,4") == read_rounds([32, 4]) == (32, 4)
    assert read_rounds([]) == () and read_rounds(3) == (3,) and read_rounds("[2, 1]") == (2, 1)
    for wrong in ("hihg", [0], [2.5], [True], [5000], {}, None, "4,x"):
        with pytest.raises(PacoreError):
            read_rounds(wrong)
    assert len(run(Plan(rounds=()))[0]) == 1


def test_the_order_is_the_seeds_and_not_the_calls():
    texts = ["bb", "a", "ccc", "b", "aa", "b"]
    orders = {tuple(ordered_messages(texts, 3, 0)) for _ in range(5) if random.shuffle(texts) is None}
    assert len(orders) == 1 and sorted(orders.pop()) == sorted(texts)
    # Every order of four comes about equally often over seeds.
    counts = Counter(tuple(ordered_messages("abcd", seed)) for seed in range(4800))
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7  # chi-square, 23 degrees, 0.1 %


def test_only_the_last_user_turn_changes_and_pictures_stay_in_their_places():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    parts = [{"type": "text", "text": "First:"}, picture, {"type": "text", "text": "second:"}, picture]
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": parts},
        {"role": "tool", "content": "4", "tool_call_id": "t"},
    ]
    asked, _ = run(Plan(rounds=(2, 2)), conversation)
    for calls in asked[1:]:
        turns = calls[0].messages
        assert [turns[place] for place in (0, 1, 2, 4)] == [conversation[place] for place in (0, 1, 2, 4)]
        content = turns[3]["content"]
        assert [part for part in content if part["type"] != "text"] == [picture, picture]
        assert content[0]["text"].endswith("First:") and content[1] == picture and content[2]["text"] == "second:"
        assert len(references(content[-1]["text"])) == 0 or "## Reference 2" in content[-1]["text"]
    assert conversation[3]["content"] == parts == [*parts]
    with pytest.raises(PacoreError, match="no message of the user"):
        Rounds([{"role": "system", "content": "x"}], Plan(), 0)


def test_compaction():
    take = get_compaction("after_think")
    assert take("a</think>b</think> c ").text == "c" and take("a</think>b").tagged
    assert take("no tag at all").text == "no tag at all" and not take("no tag at all").tagged
    assert take("<think>half").text == "<think>half" and not take("<think>half").tagged
    assert take("x</think>y", "apart").text == "x</think>y" and take("x", "apart").thinking == "apart"
    assert get_compaction("none")("a</think>b").text == "a</think>b"
    assert get_compaction("none")("b", "a").text == "<think>a</think>b"
    assert get_compaction("after:[END]")("a[END]b").text == "b"
    with pytest.raises(PacoreError, match="after_think"):
        get_compaction("after_thinkk")


def test_a_compaction_of_the_users_own(tmp_path):
    (tmp_path / "mine.py").write_text("def shout(text):\n    return text.split('</think>')[-1].upper()\n")
    take = get_compaction(f"{tmp_path / 'mine.py'}:shout")
    assert take("a</think>b").text == "B" and take("b", "a").text == "B"


def test_failed_and_empty_messages_are_dropped_and_counted():
    def answer(call):
        return {0: "<think>x</think>fine", 1: "<think>x</think> \n", 2: Failure("gone"), 3: "no tag"}[call.index]

    asked, outcome = run(Plan(rounds=(4,)), answer=lambda call: said(call) if call.last else answer(call))
    assert sorted(references(asked[1][0].messages[0]["content"])) == ["fine", "no tag"]
    first = outcome.rounds[0]
    assert (first.calls, first.failed, first.empty, first.untagged, first.messages) == (4, 1, 1, 1, 2)


def test_no_message_left_asks_the_bare_problem():
    asked, outcome = run(Plan(rounds=(3,)), answer=lambda call: said(call) if call.last else "<think></think>")
    assert asked[1][0].messages == PROBLEM and outcome.rounds[0].empty == 3 and outcome.rounds[1].shown == 0


@pytest.mark.parametrize(
    ("tolerate", "failed", "goes_on"), [(0.5, 2, True), (0.5, 3, False), (0, 1, False), (1, 4, True)]
)
def test_so_many_calls_of_a_round_may_fail(tolerate, failed, goes_on):
    def answer(call):
        return Failure("server on fire") if not call.last and call.index < failed else said(call)

    if goes_on:
        assert run(Plan(rounds=(4,), tolerate=tolerate), answer=answer)[1].rounds[0].failed == failed
    else:
        with pytest.raises(RoundFailed, match=f"{failed} of 4 calls failed.*on fire"):
            run(Plan(rounds=(4,), tolerate=tolerate), answer=answer)


def test_the_last_call_may_not_fail():
    with pytest.raises(RoundFailed, match="round 2 of 2"):
        run(Plan(rounds=(4,), tolerate=1), answer=lambda call: Failure("x") if call.last else said(call))


def words(text: str) -> int:
    return len(text.split())


def test_rules_of_fitting():
    texts = ["a b c", "d", "e f", "g h i"]
    assert fit_messages(texts, 9, "longest", words).messages == texts
    assert fit_messages(texts, 8, "longest", words).messages == ["a b c", "d", "e f"]  # of two equal ones the later
    assert fit_messages(texts, 5, "longest", words).messages == ["d", "e f"]
    assert fit_messages(texts, 5, "last", words).messages == ["a b c", "d"]
    assert fit_messages(texts, 0, "last", words).messages == []
    cut = fit_messages(["one two three four five six", "z"], 5, "shorten", words)
    assert cut.messages[1] == "z" and cut.messages[0].startswith("[…] ") and cut.messages[0].endswith(" six")
    assert sum(map(words, cut.messages)) <= 5 and (cut.left_out, cut.shortened) == (0, 1)


@given(
    st.lists(st.text("ab ", max_size=40), max_size=8),
    st.integers(0, 60),
    st.sampled_from(["longest", "last", "shorten"]),
)
def test_what_is_fitted_fits_and_is_counted(texts, room, rule):
    found = fit_messages(texts, room, rule, len)
    assert sum(map(len, found.messages)) <= room or not any(texts)
    assert len(found.messages) + found.left_out == len(texts)
    if rule != "shorten":
        rest = iter(texts)
        assert all(message in rest for message in found.messages)  # a subsequence: the order is kept


def test_a_window_leaves_messages_out_and_says_so():
    plan = Plan(rounds=(8,), max_tokens=40, fit=Fit(window=200, tokens=words))
    asked, outcome = run(plan)
    shown = references(asked[1][0].messages[0]["content"])
    sizes = sorted(words(said(call).split("</think>")[1]) for call in asked[0])
    assert 0 < len(shown) < 8 and outcome.rounds[1].left_out == 8 - len(shown)
    assert sorted(map(words, shown)) == sizes[: len(shown)]  # the longest went first
    assert words(asked[1][0].messages[0]["content"]) + 40 <= 200
    assert run(Plan(rounds=(8,), max_tokens=40, fit=Fit(window=60, tokens=words)))[0][1][0].messages == PROBLEM


def test_a_server_that_finds_it_too_long_gets_less_each_time():
    rounds = Rounds(PROBLEM, Plan(rounds=(8,)), 0)
    rounds.close([Answer(said(call)) for call in rounds.calls()])
    lengths = []
    with pytest.raises(RoundFailed, match="even without messages"):
        while True:
            lengths.append(len(rounds.calls()[0].messages[0]["content"]))
            rounds.refit()
    assert lengths == sorted(lengths, reverse=True) and lengths[1] < lengths[0]


@given(st.lists(st.integers(1, 5), max_size=3), st.integers(0, 400), st.integers(0, 9))
def test_the_budget_is_never_passed(counts, extra, seed):
    plan = Plan(rounds=tuple(counts), budget=sum(counts) + 1 + extra, max_tokens=60)
    drawn, used = random.Random(seed), 0
    rounds = Rounds(PROBLEM, plan, seed)
    while rounds.outcome is None:
        answers = []
        for call in rounds.calls():
            assert 1 <= call.max_tokens <= 60
            answers.append(Answer("x", None, "stop", 1, drawn.randint(1, call.max_tokens)))
            used += answers[-1].completion_tokens
        rounds.close(answers)
    assert used == rounds.outcome.completion_tokens <= plan.budget
    with pytest.raises(PacoreError, match="less than a token"):
        Plan(rounds=tuple(counts), budget=sum(counts)) if counts else Plan(rounds=(1,), budget=1)


def test_a_prompt_of_the_users_own(tmp_path: Path):
    (tmp_path / "mine.j2").write_text("P: {{ problem }}{% for one in messages %} [{{ one }}]{% endfor %}")
    asked, _ = run(Plan(rounds=(2,), prompt=SynthesisPrompt(str(tmp_path / "mine.j2"))))
    texts = [said(call).split("</think>")[1] for call in asked[0]]
    content = asked[1][0].messages[0]["content"]
    assert content in {f"P: What is 6 * 7? [{texts[a]}] [{texts[b]}]" for a, b in ((0, 1), (1, 0))}
    for wrong in ("no field", "{{ problem }} {{ problem }}", "{{ problem }} {{ mistyped }}", "{% if %}"):
        (tmp_path / "wrong.j2").write_text(wrong)
        with pytest.raises(PacoreError, match="synthesis prompt"):
            SynthesisPrompt(str(tmp_path / "wrong.j2"))


def test_texts_are_shown_as_they_are():
    odd = "{{ problem }} {% raw %} <b>&amp;</b> \\boxed{1}"
    asked, _ = run(Plan(rounds=(1,)), [{"role": "user", "content": odd}], answer=lambda call: odd)
    assert asked[1][0].messages[0]["content"].count(odd) == 2
