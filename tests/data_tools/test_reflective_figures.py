"""Figures of solutions of the reflective world: read from the text, they are those of the writer's own books."""

from __future__ import annotations

import random

import pytest

from reasonrl.data_tools.worlds import MEASURES
from reasonrl.data_tools.worlds.reflective import gold_of, law_of
from reasonrl.data_tools.worlds.reflective_figures import MEANINGS, chain_of, figures, measure
from reasonrl.data_tools.worlds.reflective_law import draw_chain, text_of
from reasonrl.errors import DataError

LAW = law_of("prm")


def written(law, problems=150, each=8, seed=0):
    draw = random.Random(seed)
    chains = [draw_chain(draw, 8) for _ in range(problems)]
    return [law.write(chain, draw) for chain in chains for _ in range(each)]


def rows(traces):
    return [{"problem": trace.problem, "text": trace.text} for trace in traces]


def share(hits):
    hits = list(hits)
    return sum(hits) / len(hits)


def test_they_are_those_of_the_writers_books():
    traces = written(LAW)
    found = figures(rows(traces), LAW)
    assert set(found) == set(MEANINGS)
    steps = [
        (label, move, trace.correct)
        for trace in traces
        for label, move in zip(trace.labels, trace.moves, strict=True)
        if not move.startswith("answer")
    ]
    marks = ("recheck", "repair", "repair_later", "redo_later", "repeat")
    assert found["sound"] == pytest.approx(share(label for label, _, _ in steps))
    assert found["sound_in_wrong"] == pytest.approx(share(label for label, _, right in steps if not right))
    assert found["sound_at_mark"] == pytest.approx(share(label for label, move, _ in steps if move in marks))
    assert found["with_error"] == pytest.approx(share(any(trace.own_error) for trace in traces))
    assert found["pass@1"] == pytest.approx(share(trace.correct for trace in traces))
    assert found["finished"] == found["well_formed"] == 1.0
    assert found["lines"] == pytest.approx(share(len(trace.labels) for trace in traces))
    by_problem = [traces[start : start + 8] for start in range(0, len(traces), 8)]
    assert found["pass@n"] == pytest.approx(share(any(one.correct for one in group) for group in by_problem))
    assert found["mixed"] == pytest.approx(
        share(0 < sum(one.correct for one in group) < len(group) for group in by_problem)
    )


def test_shares_of_a_law_are_found_again():
    """Within three standard errors: about 4,000 turns with an open error, 3,500 hard facts."""
    for settings in ({}, {"repair": 0.3, "false_repair": 0.05, "recheck": 0.12, "slip": 0.4}):
        law = law_of("prm", settings)
        found = figures(rows(written(law)), law)
        for name, aim, error in (
            ("repair", law.repair, 0.02),
            ("false_repair", law.false_repair, 0.02),
            ("recheck", law.recheck, 0.015),
            ("wrong_on_hard", law.slip, 0.03),
            ("wrong_on_easy", law.easy_slip, 0.006),
        ):
            assert abs(found[name] - aim) < error, (name, found[name])


def test_what_a_model_gets_wrong_shows():
    traces = written(LAW, problems=20, each=1)
    plain = rows(traces)
    lines = sum(len(trace.labels) for trace in traces)

    def changed(change):
        first = plain[0]["text"].split("\n")
        return figures([{**plain[0], "text": "\n".join(change(first))}, *plain[1:]], LAW)

    assert changed(lambda text: ["what?", *text])["well_formed"] == pytest.approx(lines / (lines + 1))
    assert changed(lambda text: text[:-1])["finished"] == 19 / 20
    # A line on another digit than the one before it is no slip of memory, but no longer what is due.
    other = changed(lambda text: [f"{text[0][0]}{(int(text[0][1]) + 1) % 10}{text[0][2:]}", *text[1:]])
    assert other["well_formed"] < 1.0


def test_the_law_itself_passes_its_measure_and_another_does_not():
    assert MEASURES["reflective"] is measure
    found, expected = measure(rows(written(LAW)), preset="prm")
    assert all(abs(found[name] - expected[name]) < 0.04 for name in found if name != "lines")
    found, expected = measure(rows(written(law_of("prm", {"slip": 0.3}))), preset="prm")
    assert found["pass@1"] - expected["pass@1"] > 0.1 and expected["wrong_on_hard"] - found["wrong_on_hard"] > 0.25


def test_a_majority_with_ties_counts_its_share():
    chain = draw_chain(random.Random(3), 2)
    problem = text_of(chain)
    assert chain_of(problem) == list(chain)
    right, wrong = f"#{gold_of(problem)}", f"#{(gold_of(problem) + 1) % 10}"
    found = figures([{"problem": problem, "text": text} for text in (right, wrong, "?")], LAW)
    assert found["majority"] == 0.5 and found["pass@1"] == pytest.approx(1 / 3) and found["pass@n"] == 1.0


def test_rows_that_cannot_be_measured_are_refused():
    with pytest.raises(DataError, match="row 1 has no problem and text"):
        figures([{"problem": "7 a+5"}], LAW)
    with pytest.raises(DataError, match="there are no rows"):
        figures([], LAW)
