"""Filters on pools of known rates, the law of the episodes, and the metrics of synthesis."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.pacore import PacoreError, SynthesisPrompt
from reasonrl.pacore.episodes import Law, cross_check_rate, draw, emergent_correctness, episode_row, schedule
from reasonrl.pacore.pools import (
    CODE,
    MATH,
    PoolFilter,
    PoolProblem,
    PoolReport,
    pool_of_samples,
    read_pool,
    write_pool,
)


def problem(name: str, right: int, n: int = 24, **columns) -> PoolProblem:
    """A problem of which so many messages are right."""
    scores = tuple(float(place < right) for place in range(n))
    turns = ({"role": "user", "content": f"{name}?"},)
    return PoolProblem(name, turns, tuple(f"message {place}" for place in range(n)), "42", scores, columns)


@pytest.mark.parametrize(
    ("n", "condition", "kept"), [(24, MATH, range(1, 9)), (24, CODE, range(1, 15)), (8, "0 < acc < 3/8", (1, 2))]
)
def test_filters_are_exact_at_their_edges(n, condition, kept):
    report = PoolReport()
    chosen = PoolFilter(condition)
    assert [k for k in range(n + 1) if chosen.wants(problem(f"p{k}", k, n), report)] == list(kept)
    assert (report.kept, report.none_right, report.all_right) == (len(kept), 1, 1)
    assert report.filtered == n + 1 - len(kept) - 2


def test_a_pool_of_known_rates_is_filtered_at_the_rate_of_the_binomial():
    from math import comb

    drawn, report = random.Random(0), PoolReport()
    chosen = PoolFilter(MATH)
    rates = (0.05, 0.3, 0.6)
    for number in range(6000):
        rate = rates[number % 3]
        chosen.wants(problem(f"p{number}", sum(drawn.random() < rate for _ in range(24))), report)
    share = sum(comb(24, k) * rate**k * (1 - rate) ** (24 - k) for rate in rates for k in range(1, 9)) / 3
    assert abs(report.kept / 6000 - share) < 4 * (share * (1 - share) / 6000) ** 0.5


def test_filters_by_kind_and_what_cannot_be_scored():
    chosen, report = PoolFilter({"math": MATH, "code": CODE}, least=20), PoolReport()
    assert not chosen.wants(problem("a", 10, category="math"), report) and chosen.wants(
        problem("b", 10, category="code"), report
    )
    half = PoolProblem(
        "c", problem("c", 0).conversation, ("x",) * 24, "1", (0.5,) * 12 + (None,) * 12, {"category": "code"}
    )
    assert chosen.wants(half, report)  # soft scores; unscored ones do not count
    assert not chosen.wants(problem("d", 1, 19, category="math"), report) and report.too_few == 1
    lost = PoolProblem("e", half.conversation, ("x",) * 24, "1", (None,) * 24, {"category": "math"})
    assert not chosen.wants(lost, report) and report.unscored == 1
    with pytest.raises(PacoreError, match="category is 'art'"):
        chosen.wants(problem("f", 1, category="art"), report)
    with pytest.raises(PacoreError, match="no scores"):
        PoolFilter().wants(PoolProblem("g", (), ("x",), "1"), report)


@pytest.mark.parametrize("name", ["pool.jsonl", "pool.json"])
def test_the_papers_records_are_read_and_written(tmp_path, name):
    rows = [
        {
            "conversation": [{"role": "user", "content": f"{k}?"}],
            "responses": [f"<think>…</think> {k} ", "<think></think>", "no tag"],
            "ground_truth": str(k),
            "source": "synthetic_math",
        }
        for k in range(3)
    ]
    broken = [{"responses": [], "ground_truth": "1"}, {**rows[0], "responses": "x"}, {**rows[0], "ground_truth": None}]
    (tmp_path / "in.json").write_text(json.dumps([*rows, *broken, rows[1]]))
    report = PoolReport()
    found = list(read_pool(tmp_path / "in.json", report))
    assert [one.messages for one in found] == [(f"{k}", "no tag") for k in (0, 1, 2, 1)]
    assert report.read == 7 and sum(report.bad.values()) == 3 and report.responses_dropped == 4
    assert len({one.id for one in found}) == 4 and found[0].columns == {"source": "synthetic_math"}
    assert write_pool(tmp_path / name, found) == 4
    assert list(read_pool(tmp_path / name, PoolReport())) == [
        PoolProblem(one.id, one.conversation, one.messages, one.gold, None, one.columns) for one in found
    ]


def chi_square(counts: Counter, cells: int) -> float:
    expected = sum(counts.values()) / cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in counts) + (cells - len(counts)) * expected


def test_sizes_of_draws_are_uniform():
    one = problem("p", 3)
    sizes = Counter(len(draw(one, visit, Law(16, 24)).chosen) for visit in range(9000))
    assert set(sizes) == set(range(16, 25)) and chi_square(sizes, 9) < 26.1  # 8 degrees, 0.1 %
    assert {len(draw(one, visit, Law(8, 8)).chosen) for visit in range(50)} == {8}


def test_every_choice_in_every_order_is_as_likely():
    one = problem("p", 1, 5)
    orders = Counter(draw(one, visit, Law(3, 3)).chosen for visit in range(12_000))
    assert set(orders) == set(itertools.permutations(range(5), 3))
    assert chi_square(orders, 60) < 98.3  # 59 degrees, 0.1 %


def test_a_schedule_visits_all_problems_alike_and_is_the_seeds():
    pool = [problem(f"p{k}", k) for k in range(7)]
    plan = list(schedule(pool, 10, 4, Law(16, 24), seed=3))
    assert [step for step, _ in plan] == [step for step in range(10) for _ in range(4)]
    visits = [(episode.problem.id, episode.visit) for _, episode in plan]
    assert len(set(visits)) == 40
    for start in range(0, 35, 7):
        assert {name for name, _ in visits[start : start + 7]} == {one.id for one in pool}
    assert [name for name, _ in visits[:7]] != [name for name, _ in visits[7:14]]
    assert plan == list(schedule(pool, 10, 4, Law(16, 24), seed=3)) != list(schedule(pool, 10, 4, Law(16, 24), seed=4))
    assert plan[:20] == list(schedule(pool, 5, 4, Law(16, 24), seed=3))  # a longer training begins alike
    with pytest.raises(PacoreError, match="fewer than 24"):
        list(schedule([problem("p", 1, 8)], 1, 1, Law()))


def test_rows_of_episodes():
    episode = draw(problem("p", 24), 2, Law(4, 4))
    row = episode_row(5, episode, SynthesisPrompt())
    text = row["prompt"][0]["content"]
    assert [text.count(f"message {place}\n") for place in range(24)] == [
        int(place in row["chosen"]) for place in range(24)
    ]
    assert (row["answer"], row["shown"], row["messages_right"], row["step"]) == ("42", 4, 4, 5)
    shown = [text.index(f"\nmessage {place}\n") for place in row["chosen"]]
    assert shown == sorted(shown)


def test_emergent_correctness():
    rows = [{"shown": 4, "messages_right": 0, "correct": k < 3} for k in range(10)]
    rows += [{"shown": 4, "messages_right": 1, "correct": True}] * 5
    rows += [
        {"shown": 0, "messages_right": 0, "correct": True},
        {"shown": 4, "messages_right": None, "correct": True},
    ]
    rows += [{"shown": 4, "messages_right": 0, "correct": None}]
    found = emergent_correctness(rows)
    assert (found.value, found.count) == (0.3, 10)
    assert (found.low, found.high) == pytest.approx((0.1078, 0.6032), abs=1e-4)  # Wilson's, by hand
    assert emergent_correctness([]).count == 0


def test_cross_checks():
    assert cross_check_rate(["Reference 3 is right", "the other answers differ", "So x = 4.", "参考答案"]).value == 0.75


def test_sample_rows_are_a_pool_too():
    rows = [
        {"problem_id": f"p{k % 2}", "problem": "1+1?", "answer": "2", "text": f"<think>x</think>{k}", "correct": k == 2}
        for k in range(6)
    ]
    first, second = pool_of_samples(rows)
    assert first.messages == ("0", "2", "4") and first.scores == (0.0, 1.0, 0.0) and second.figures()["acc"] == 0


def test_the_commands(tmp_path: Path):
    rows = [
        {
            "conversation": [{"role": "user", "content": f"What is {k} + 1?"}],
            "responses": [f"so \\boxed{{{k + 1 if place < k else 0}}}" for place in range(6)],
            "ground_truth": str(k + 1),
        }
        for k in range(7)
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    words = ["pacore", "pool", str(tmp_path / "in.json"), "--out", str(tmp_path / "pool.jsonl"), "--least", "6"]
    done = CliRunner().invoke(main, [*words, "--keep", "0 < acc < 3/6", "--workers", "0"])
    assert done.exit_code == 0, done.output
    assert "7 problems: 2 kept, 1 none right, 1 all right, 3 filtered" in done.output
    words = ["pacore", "episodes", str(tmp_path / "pool.jsonl"), "--out", str(tmp_path / "episodes.jsonl")]
    done = CliRunner().invoke(main, [*words, "--steps", "3", "--instances", "4", "--messages", "2..6"])
    assert done.exit_code == 0 and "12 episodes of 2 problems, 6.00 passes" in done.output, done.output
    found = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in found}) == 12 and {row["answer"] for row in found} == {"2", "3"}
    assert all(2 <= row["shown"] <= 6 for row in found)
