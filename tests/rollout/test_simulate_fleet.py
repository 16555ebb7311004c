"""Simulated fleets: schedules by hand, a token-by-token simulation beside it, conservation, repeatability, speed."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.errors import DataError
from reasonrl.rollout.dispatch import Call, Dispatch, Lane, length_aware, longest_first, round_robin
from reasonrl.rollout.latency import LatencyCurve, Span, fit_latency
from reasonrl.rollout.simulate_fleet import Finish, Fleet, Job, Timeline, run_dispatch, run_online

AFFINE = LatencyCurve(((1, 1.0), (101, 11.0)))  # PTL(b) = 0.9 + 0.1 b


def jobs_of(lengths: list[int], size: int = 1, predicted: list[float] | None = None, prompt: int = 0) -> list[Job]:
    guesses = predicted or [float(length) for length in lengths]
    return [
        Job(Call(str(place), f"g{place // size}", guesses[place], prompt), length)
        for place, length in enumerate(lengths)
    ]


def calls(jobs: list[Job]) -> list[Call]:
    return [job.call for job in jobs]


def token_by_token(
    lanes: list[list[int]], lengths: list[int], most: list[int], curve: LatencyCurve
) -> dict[int, float]:
    """When each job ends, one decode step after another: no event is ever skipped."""
    ends = {}
    for lane, room in zip(lanes, most, strict=True):
        waiting, running, now = list(lane), {}, 0.0
        while waiting or running:
            while waiting and len(running) < room:
                place = waiting.pop(0)
                running[place] = lengths[place]
            now += curve(len(running))
            for place in list(running):
                running[place] -= 1
                if not running[place]:
                    ends[place] = now
                    del running[place]
    return ends


def test_one_engine_by_hand():
    # PTL 1.0 alone, 1.1 together; two at a time: 2 and 4 run until 2 * 1.1 = 2.2; then 3 joins: 4 has 2 left, 4.4;
    # then 3 has 1 left alone: 5.4.
    timeline = run_dispatch(jobs := jobs_of([2, 4, 3]), Fleet(1, AFFINE, max_batch=2), round_robin(calls(jobs), 1))
    assert [(finish.job, finish.started) for finish in timeline.finishes] == [(0, 0.0), (1, 0.0), (2, 2.2)]
    assert [finish.finished for finish in timeline.finishes] == pytest.approx([2.2, 4.4, 5.4])
    assert timeline.busy == pytest.approx((5.4,)) and timeline.idle == pytest.approx((0.0,))
    assert timeline.tokens == (9,)


def test_idle_shares_by_hand():
    jobs = jobs_of([10, 4])
    timeline = run_dispatch(jobs, Fleet(3, AFFINE), round_robin(calls(jobs), 3))
    assert timeline.makespan == 10 and timeline.idle_share == pytest.approx((0, 0.6, 1.0))


def test_one_sample_at_a_time_is_the_classic_schedule():
    jobs = jobs_of([3, 9, 4, 8, 5, 7])
    fleet = Fleet(2, AFFINE, max_batch=1)
    assert run_dispatch(jobs, fleet, longest_first(calls(jobs), 2)).makespan == 18  # see test_dispatch
    # Online, in the order given, whoever is free takes the next: 3, 4, 8 | 9, 5, 7.
    timeline = run_online(jobs, fleet)
    assert [(finish.job, finish.server, finish.finished) for finish in timeline.finishes] == [
        (0, 0, 3.0),
        (2, 0, 7.0),
        (1, 1, 9.0),
        (4, 1, 14.0),
        (3, 0, 15.0),
        (5, 1, 21.0),
    ]


def test_online_goes_by_predicted_tokens():
    # Two engines with room for all: 50 | 10, 10, 10, 10, 5 and then 5 makes even.
    jobs = jobs_of([1] * 7, predicted=[50.0, 10, 10, 10, 10, 5, 5])
    timeline = run_online(jobs, Fleet(2, AFFINE))
    assert {finish.job: finish.server for finish in timeline.finishes} == {0: 0, **dict.fromkeys(range(1, 7), 1)}


def test_prefill_is_paid_once_a_group_and_engine():
    jobs = jobs_of([5, 5, 5, 5], size=2, prompt=100)
    fleet = Fleet(2, LatencyCurve(((1, 1.0),)), prefill_seconds_per_token=0.01)
    apart = run_dispatch(jobs, fleet, round_robin(calls(jobs), 2))  # both prompts on both engines: 2 s each
    assert apart.makespan == pytest.approx(7) and apart.prefix_hits == 0
    together = run_dispatch(jobs, fleet, longest_first(calls(jobs), 2))
    assert together.makespan == pytest.approx(6) and together.prefix_hit_rate == 0.5
    assert run_online(jobs, fleet, groups_together=True).prefix_hits == 2
    assert run_online(jobs, fleet).prefix_hits == 0


def test_a_call_sent_later_slows_the_others_from_then_on():
    jobs = [Job(Call("a", "a", 1.0), 10), Job(Call("b", "b", 1.0), 10, release=5.0)]
    curve = LatencyCurve(((1, 1.0), (2, 2.0)))
    timeline = run_dispatch(jobs, Fleet(1, curve), Dispatch((Lane(tuple(calls(jobs))),)))
    # a has 5 left at 5 s and takes 10 s more; b has 5 left at 15 s and runs alone again.
    assert timeline.finishes == (Finish(0, 0, 0.0, 15.0), Finish(1, 0, 5.0, 20.0))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=25), st.integers(1, 4), st.integers(1, 6))
def test_jumping_from_event_to_event_is_the_same_as_token_by_token(lengths, servers, max_batch):
    jobs = jobs_of(lengths)
    fleet = Fleet(servers, AFFINE, max_batch)
    for dispatch in (
        round_robin(calls(jobs), servers),
        longest_first(calls(jobs), servers),
        length_aware(calls(jobs), servers, AFFINE, max_batch),
    ):
        timeline = run_dispatch(jobs, fleet, dispatch)
        lanes = [[int(call.id) for call in lane.calls] for lane in dispatch.lanes]
        most = [min(max_batch, lane.most_running or max_batch) for lane in dispatch.lanes]
        expected = token_by_token(lanes, lengths, most, AFFINE)
        assert {finish.job: finish.finished for finish in timeline.finishes} == pytest.approx(expected)


def conserved(timeline: Timeline, jobs: list[Job], servers: int) -> None:
    assert sum(timeline.tokens) == sum(job.tokens for job in jobs)
    assert sorted(finish.job for finish in timeline.finishes) == list(range(len(jobs)))
    assert sum(timeline.busy) + sum(timeline.idle) == pytest.approx(servers * timeline.makespan)
    assert min(timeline.idle) >= -1e-9 * timeline.makespan
    assert all(finish.started < finish.finished <= timeline.makespan for finish in timeline.finishes)
    ends = [finish.finished for finish in timeline.finishes]
    assert ends == sorted(ends)
    # A server's busy time is the union of its samples' spans where nothing is prefilled.
    for server in range(servers):
        spans = sorted((f.started, f.finished) for f in timeline.finishes if f.server == server)
        union, reach = 0.0, 0.0
        for start, end in spans:
            union += max(0.0, end - max(start, reach))
            reach = max(reach, end)
        assert timeline.busy[server] == pytest.approx(union)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 500), st.floats(0, 50), st.floats(1, 500)), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 8),
    st.integers(1, 6),
)
def test_nothing_is_lost_or_made(samples, servers, max_batch, size):
    jobs = [
        Job(Call(str(place), f"g{place // size}", guess), tokens, release)
        for place, (tokens, release, guess) in enumerate(samples)
    ]
    fleet = Fleet(servers, AFFINE, max_batch)
    conserved(run_online(jobs, fleet), jobs, servers)
    conserved(run_online(jobs, fleet, groups_together=True), jobs, servers)
    conserved(run_dispatch(jobs, fleet, longest_first(calls(jobs), servers)), jobs, servers)
    assert run_online(jobs, fleet) == run_online(jobs, fleet)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=40))
def test_an_engine_that_holds_all_at_once_has_a_closed_form(lengths):
    jobs = jobs_of(lengths)
    timeline = run_dispatch(jobs, Fleet(1, AFFINE), round_robin(calls(jobs), 1))
    assert timeline.makespan == pytest.approx(0.9 * max(lengths) + 0.1 * sum(lengths))


def test_what_is_refused():
    jobs = jobs_of([1, 2])
    with pytest.raises(ValueError, match="1 lanes for 2 servers"):
        run_dispatch(jobs, Fleet(2, AFFINE), round_robin(calls(jobs), 1))
    with pytest.raises(ValueError, match="exactly once"):
        run_dispatch(jobs, Fleet(1, AFFINE), Dispatch((Lane(tuple(calls(jobs)[:1])),)))
    with pytest.raises(ValueError, match="0 tokens"):
        run_online([Job(Call("a", "a", 1.0), 0)], Fleet(1, AFFINE))
    with pytest.raises(ValueError, match="max_batch = 0"):
        Fleet(1, AFFINE, 0)


def test_the_curve_between_and_beyond_its_points():
    curve = LatencyCurve.parse("1:0.01,8:0.024,16:0.024")
    assert [curve(batch) for batch in (1, 2, 8, 12, 100)] == pytest.approx([0.01, 0.012, 0.024, 0.024, 0.024])
    # Beyond the last point: the slope from the last point at half its batch, not that of two neighbours.
    assert LatencyCurve(((1, 0.9), (10, 1.0), (20, 2.0), (21, 2.2)))(32) == pytest.approx(2.2 + 11 * 1.2 / 11)
    assert AFFINE(201) == pytest.approx(21) and curve.table(2) == pytest.approx((0, 0.01, 0.012))
    assert LatencyCurve.parse(str(curve)) == curve
    for wrong in ("", "8", "1:a", "8:0.1,4:0.2", "1:0", "0:1", "1:inf"):
        with pytest.raises(DataError, match="latency curve"):
            LatencyCurve.parse(wrong)


@pytest.mark.parametrize("arrivals", ["at once", "over time"])
def test_the_curve_is_found_again_from_stamps(arrivals):
    generator = np.random.default_rng(0)
    true = LatencyCurve(((1, 0.010), (8, 0.011), (64, 0.016), (256, 0.05)))
    lengths = generator.lognormal(6, 0.7, 600).astype(int) + 1
    release = generator.uniform(0, 6, 600) if arrivals == "over time" else np.zeros(600)
    jobs = [
        Job(Call(str(i), str(i), 1.0), int(n), float(r)) for i, (n, r) in enumerate(zip(lengths, release, strict=True))
    ]
    timeline = run_online(jobs, Fleet(3, true))
    spans = [Span(str(f.server), f.started, f.finished, jobs[f.job].tokens) for f in timeline.finishes]
    fitted = fit_latency(spans)
    occurred = [batch for batch in (1, 4, 16, 48, 100, 150) if batch <= fitted.points[-1][0]]
    assert len(occurred) >= 5
    assert [fitted(batch) for batch in occurred] == pytest.approx([true(batch) for batch in occurred], rel=0.04)
    seconds = [second for _, second in fitted.points]
    assert seconds == sorted(seconds)


def test_samples_that_something_else_held_up_do_not_bend_the_curve():
    """One in eight samples took up to ten times as long as its tokens explain."""
    generator = np.random.default_rng(1)
    true = LatencyCurve(((1, 0.010), (8, 0.011), (64, 0.016), (256, 0.05)))
    lengths = generator.lognormal(6, 0.7, 600).astype(int) + 1
    jobs = [Job(Call(str(i), str(i), 1.0), int(n), 0.0) for i, n in enumerate(lengths)]
    timeline = run_online(jobs, Fleet(3, true))
    held = generator.permutation(600)[:75]
    tokens = np.array([jobs[f.job].tokens for f in timeline.finishes], dtype=float)
    tokens[held] /= generator.uniform(3, 10, 75)
    spans = [
        Span(str(f.server), f.started, f.finished, max(int(n), 1))
        for f, n in zip(timeline.finishes, tokens, strict=True)
    ]
    fitted = fit_latency(spans)
    for batch in (4, 16, 48, 100):
        assert fitted(batch) == pytest.approx(true(batch), rel=0.05), batch


def test_a_log_without_spans_cannot_be_fitted():
    with pytest.raises(DataError, match="--ptl"):
        fit_latency([Span("a", 2.0, 2.0, 5)])


def test_a_hundred_thousand_samples_in_seconds():
    generator = np.random.default_rng(1)
    jobs = jobs_of((generator.lognormal(6, 0.7, 100_000).astype(int) + 1).tolist(), size=16)
    fleet = Fleet(16, LatencyCurve(((1, 0.01), (256, 0.035))))
    start = time.process_time()
    run_dispatch(jobs, fleet, longest_first(calls(jobs), 16))
    run_online(jobs, fleet)
    assert time.process_time() - start < 15  # 1.5 s on an idle core
