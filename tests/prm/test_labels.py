"""Labels: the paper's worked case, properties of the state machine, the other rules, consensus and validation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.errors import DataError
from reasonrl.prm.labels import (
    Event,
    consensus,
    events_from,
    first_error,
    first_error_labels,
    first_error_zero,
    kinds_of,
    last_only,
    mc_labels,
    open_errors,
    propagate,
    validate,
)


def test_the_worked_case_of_the_paper():
    """Steps 5 to 8 are wrong (5 errs, 8 is a check that repeats the error), 9 ends it, 10 and 11 build on that."""
    own = [k in (5, 8) for k in range(1, 12)]
    events = events_from(own, [k == 9 for k in range(1, 12)])
    assert propagate(events, final_correct=True) == [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1]
    assert kinds_of(events, True) == [
        *["right"] * 4,
        "error",
        *["propagation"] * 2,
        "error",
        "cessation",
        *["right"] * 2,
    ]
    # A check in words alone repairs nothing; a fresh attempt that is wrong opens an error again.
    assert propagate(events_from(own, [False] * 11)) == [1] * 4 + [0] * 7
    again = [Event(own, new_route=k == 9) for k, own in enumerate([*own[:9], True, False], start=1)]
    assert propagate(again) == [1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0]


def test_open_errors_are_a_set():
    own = [False, True, False, True, False, False, False]
    repairs = [None, None, None, None, {3}, {1}, None]
    events = events_from(own, repairs)
    assert propagate(events) == [1, 0, 0, 0, 0, 1, 1], "a repair of the later error leaves the earlier one open"
    assert [sorted(standing) for standing in open_errors(events)] == [[], [1], [1], [1, 3], [1], [], []]
    assert kinds_of(events) == ["right", "error", "propagation", "error", "propagation", "cessation", "right"]
    # One step may end an error and make one.
    assert propagate([Event(True), Event(True, frozenset({0})), Event(), Event(repairs=frozenset({1}))]) == [0, 0, 0, 1]


def test_the_last_step_follows_the_verified_answer():
    events = [Event(), Event(own_error=True), Event()]
    assert propagate(events) == [1, 0, 0] == propagate(events, False)
    assert propagate(events, True) == [1, 0, 1] and kinds_of(events, True) == ["right", "error", "cessation"]
    assert propagate([Event(), Event()], False) == [1, 0] and kinds_of([Event(), Event()], False) == ["right", "error"]
    assert propagate([], True) == []


def events():
    def of(size):
        return st.tuples(
            *(
                st.builds(Event, st.booleans(), st.frozensets(st.integers(0, k - 1)) if k else st.just(frozenset()))
                for k in range(size)
            )
        ).map(list)

    return st.integers(0, 9).flatmap(of)


@given(events())
def test_a_step_is_right_if_no_error_up_to_it_lacks_a_repair(steps):
    """By the definition over all pairs, not by a state: an error stands if no step from then on has repaired it."""
    expected = []
    for k in range(len(steps)):
        standing = [
            i
            for i in range(k + 1)
            if steps[i].own_error and not any(i in steps[j].repairs for j in range(i + 1, k + 1))
        ]
        expected.append(int(not standing))
    assert propagate(steps) == expected


@given(events(), st.sampled_from([None, True, False]))
def test_kinds_fit_labels_and_are_free_of_faults(steps, verdict):
    labels, kinds = propagate(steps, verdict), kinds_of(steps, verdict)
    record = {"text": "x" * len(steps), "steps": [[k, k + 1] for k in range(len(steps))], "correct": verdict}
    assert validate({**record, "labels": labels, "kinds": kinds}) == []
    if verdict is not None and steps:
        flipped = [*labels[:-1], 1 - labels[-1]]
        assert len(validate({**record, "labels": flipped})) == 1


LABELS = st.lists(st.integers(0, 1), max_size=9)


@given(LABELS)
def test_first_error_labels_against_a_walk(labels):
    masked, zero, seen = [], [], False
    for label in labels:
        masked.append(None if seen else label)
        zero.append(0 if seen else label)
        seen = seen or label == 0
    assert first_error_labels(labels) == masked and first_error_zero(labels) == zero
    assert first_error(labels) == (labels.index(0) if 0 in labels else -1)
    assert len(last_only(labels)) == len(labels)
    if labels:
        assert last_only(labels) == [None] * (len(labels) - 1) + [labels[-1]]


def test_monte_carlo_labels():
    assert mc_labels([8, 1, 0, 3], 8) == ([1, 1, 0, 1], [1.0, 0.125, 0.0, 0.375])
    assert mc_labels([8, 1, 0, 3], 8, least=4)[0] == [1, 0, 0, 0]
    with pytest.raises(DataError, match="9 successes at step 1, allowed are 0 to n = 8"):
        mc_labels([0, 9], 8)
    with pytest.raises(DataError, match="n = 0"):
        mc_labels([], 0)


def test_consensus_of_two_and_of_three():
    first, second, third = [1, 1, 0, 0, None, None], [1, 0, 1, 0, 1, None], [1, 1, 1, 0, 1, 0]
    assert consensus([first, second]) == [1, None, None, 0, None, None]
    assert consensus([first, second, third]) == [1, None, None, 0, None, None]
    assert consensus([first, second, third], "majority") == [1, 1, 1, 0, 1, None]
    assert consensus([first, second], "majority") == [1, None, None, 0, None, None]
    assert consensus([first]) == first
    with pytest.raises(DataError, match="rule = 'some'"):
        consensus([first], "some")
    with pytest.raises(DataError, match=r"\[6, 1\] labels"):
        consensus([first, [1]])
    with pytest.raises(DataError, match="at least one"):
        consensus([])


def test_events_that_make_no_sense_are_refused():
    with pytest.raises(DataError, match="step 1 repairs"):
        events_from([True, False], [None, {1}])
    with pytest.raises(DataError, match="2 steps and repairs 1"):
        events_from([True, False], [None])


RECORD = {
    "id": "a",
    "text": "aabbcc",
    "steps": [[0, 2], [2, 4], [4, 6]],
    "correct": True,
    "labels": [1, 0, 1],
    "kinds": ["right", "error", "cessation"],
    "soft": [1.0, 0.0, None],
    "reasons": ["fine", "2+2 is not 5", "does it again"],
}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"labels": [1, 0]}, "labels has 2 entries, but the solution has 3 steps"),
        ({"labels": None}, "labels is None"),
        ({"labels": [1, 0, 2], "correct": None, "kinds": None}, "step 3: the label is 2"),
        ({"labels": ["1", 0, 1], "kinds": None}, "step 1: the label is '1'"),
        ({"labels": [True, 0, 1]}, "step 1: the label is True"),
        ({"labels": [1, 0, 0], "kinds": None}, "the final answer is right, so it must be 1"),
        ({"correct": False}, "the final answer is wrong, so it must be 0"),
        ({"soft": [1.5, 0, 0]}, "the soft label is 1.5"),
        ({"soft": [1.0]}, "soft has 1 entries"),
        ({"reasons": ["a", "b", 3]}, "the reason is 3"),
        ({"kinds": ["right", "oops", "right"]}, "step 2: the kind is 'oops'"),
        ({"kinds": ["right", "right", "cessation"]}, "step 2 is labelled 0, but its kind 'right' makes it 1"),
        ({"kinds": ["cessation", "error", "cessation"]}, "step 1 is a cessation, but no error is open before it"),
        ({"kinds": ["right", "propagation", "cessation"]}, "step 2 is a propagation, but no error is open before it"),
        ({"labels": [0, 1, 1], "kinds": ["error", "right", "right"]}, "the error of step 1 is open"),
        ({"steps": [[0, 2], [2, 4], [4, 5]]}, "the steps end at character 5"),
        ({"steps": [[0, 2], [2, 4], [4]]}, r"steps\[2\] = [4]"),
        ({"text": None}, "text is None"),
    ],
)
def test_each_fault_of_a_record_is_named(change, fault):
    assert validate(RECORD) == []
    found = validate({**RECORD, **change})
    assert any(fault.replace("\\", "") in line for line in found), found
    assert len(found) == 1, found


def test_unlabelled_steps_are_no_faults():
    first_errors = {**RECORD, "labels": [1, 0, None], "kinds": None}
    assert validate(first_errors) == []
    assert validate({"labels": [None, 1]}) == [] and validate({"labels": []}) == []
