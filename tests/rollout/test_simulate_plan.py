"""From a log to a plan: reading, causal predictions, intervals, the simulator's own error, and the command."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import DataError
from reasonrl.observe import CompletionsWriter, MetricsWriter
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.simulate import POLICIES, forecast, is_oracle, resample_prompts
from reasonrl.rollout.simulate_log import log_from_rows, read_rollout_log
from reasonrl.rollout.simulate_plan import PlanSettings, plan_fleet
from reasonrl.rollout.simulate_step import StepTimes, run_pipeline, verify_seconds

CURVE = LatencyCurve(((1, 0.010), (256, 0.0355)))


def logged(seed: int, steps: int = 12, prompts: int = 24, group: int = 4, within: float = 0.2) -> list[dict[str, Any]]:
    """Rows of a run over 48 prompts of lasting difficulty."""
    generator = np.random.default_rng(seed)
    base = generator.normal(5, 0.7, 48)
    rows = []
    for step in range(steps):
        for prompt in generator.permutation(48)[:prompts].tolist():
            for _ in range(group):
                length = int(math.exp(base[prompt] + generator.normal(0, within))) + 1
                rows.append({"step": step, "id": f"p{prompt}", "prompt": "x" * 40, "length": length})
    return rows


def stamped(rows: list[dict[str, Any]], servers: int, seconds: Callable[[int], float]) -> list[dict[str, Any]]:
    """The rows as a fleet would log them: token by token, each step's samples dealt in turn, 16 at most at a time."""
    found, begin = [], 1_000.0
    for step in sorted({row["step"] for row in rows}):
        mine, end = [row for row in rows if row["step"] == step], begin
        for server in range(servers):
            waiting, running, now = mine[server::servers], {}, begin
            while waiting or running:
                while waiting and len(running) < 16:
                    row = {**waiting.pop(0), "server": f"gpu{server}", "started": now}
                    found.append(row)
                    running[len(found) - 1] = row["length"]
                now += seconds(len(running))
                for place in list(running):
                    running[place] -= 1
                    if not running[place]:
                        found[place]["finished"] = now
                        del running[place]
            end = max(end, now)
        begin = end + 30
    return found


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_log_is_the_same_from_lines_a_file_a_stage_and_a_run(tmp_path):
    rows = logged(0, steps=3)
    stage = tmp_path / "run" / "stages" / "rl"
    writer = CompletionsWriter(stage / "completions")
    for step in range(3):
        writer.write(step, [{**row, "text": "…", "reward": 1.0} for row in rows if row["step"] == step])
    logs = [
        read_rollout_log(place)
        for place in (
            write_lines(tmp_path / "log.jsonl", rows),
            tmp_path / "run",
            stage,
            stage / "completions",
        )
    ]
    assert all(log == logs[0] for log in logs) and logs[0].samples == len(rows)
    assert list(read_rollout_log(stage / "completions" / "step_000002.parquet").steps) == [2]
    prompt = logs[0].steps[0][0].prompt
    assert (prompt.id, prompt.tokens) == (rows[0]["id"], 10)


def test_times_of_a_run_come_from_its_metrics(tmp_path):
    CompletionsWriter(tmp_path / "completions").write(1, logged(0, steps=1))
    metrics = MetricsWriter(tmp_path / "metrics.jsonl")
    for step, total in ((1, 10.0), (2, 14.0)):
        metrics.write({"step": step, "time/step": total, "time/generate": 6.0, "time/reward": 1.0})
    metrics.close()
    log = read_rollout_log(tmp_path)
    assert (log.train_seconds, log.reward_seconds) == (5.0, 1.0)


def test_bad_logs_are_refused_by_name(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_rollout_log(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match=r"no step_\*.parquet"):
        read_rollout_log(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"length": 3}\n{"length": \n')
    with pytest.raises(DataError, match=r"bad\.jsonl:2"):
        read_rollout_log(tmp_path / "bad.jsonl")
    with pytest.raises(DataError, match="none of 2 rows"):
        log_from_rows([{"length": 0}, {"tokens": 4}])
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_rollout_log(tmp_path / "bad.parquet")
    for stage in ("a", "b"):
        CompletionsWriter(tmp_path / "stages" / stage / "completions").write(1, logged(0, steps=1))
    with pytest.raises(DataError, match=r"several stages have completions \(a, b\)"):
        read_rollout_log(tmp_path)
    assert log_from_rows([{"length": 0}, {"length": 5}]).skipped == 1


def test_predictions_know_only_earlier_steps():
    rows = logged(1)
    found = forecast(log_from_rows(rows))
    assert {job.call.predicted for job in found.steps[0]} == {1.0}
    changed = [{**row, "length": row["length"] * 3} if row["step"] == 7 else row for row in rows]
    again = forecast(log_from_rows(changed))
    for step in range(12):
        same = [job.call.predicted for job in found.steps[step]] == [job.call.predicted for job in again.steps[step]]
        assert same == (step <= 7)
    assert found.recall is not None and found.recall > 0.7 and 0.5 < found.dispatch_on < 1


def test_the_order_of_the_log_tells_nothing():
    """Equal whether the log is in the order of the requests or in that in which samples ended."""
    rows = logged(2)
    by_end = sorted(rows, key=lambda row: (row["step"], row["length"]))
    plans = [plan_fleet(log_from_rows(given), PlanSettings(3, CURVE)) for given in (rows, by_end)]
    baseline = [plan.policies[0].makespan for plan in plans]
    assert baseline[0] == pytest.approx(baseline[1], rel=0.02)
    # Dealt as it is written, the second log would give one server the longest of every group.
    idle = [np.ptp(plan.policies[0].idle_share) for plan in plans]
    assert max(idle) < 0.15


def test_resampled_prompts_come_with_all_their_samples():
    steps = list(forecast(log_from_rows(logged(3))).steps.values())
    generator = np.random.default_rng(0)
    (drawn,) = resample_prompts(steps, generator, prompts=10)
    assert len(drawn) == 40 and len({job.call.group for job in drawn}) == 10 == len({j.call.group for j in drawn})
    assert len({job.call.id for job in drawn}) == 40
    whole = {
        tuple(sorted(job.tokens for job in step if job.call.group == name))
        for step in steps
        for name in {job.call.group for job in step}
    }
    for name in {job.call.group for job in drawn}:
        assert tuple(sorted(job.tokens for job in drawn if job.call.group == name)) in whole
    assert [len(step) for step in resample_prompts(steps, generator)] == [len(step) for step in steps]


def test_a_plan_is_repeatable_and_adds_up():
    log = log_from_rows(logged(4))
    settings = PlanSettings(4, CURVE, max_batch=8, seed=5)
    plan = plan_fleet(log, settings)
    assert plan == plan_fleet(log, settings)
    assert [row.policy for row in plan.policies] == list(POLICIES)
    assert plan.tokens == sum(row["length"] for row in logged(4)) and plan.steps == 12
    for row in plan.policies:
        assert row.low <= row.gain <= row.high and row.oracle == is_oracle(row.policy)
        assert all(-1e-9 <= share < 1 for share in row.idle_share) and 0 <= row.prefix_hit_rate <= 0.75
    rows = {row.policy: row for row in plan.policies}
    assert rows["round_robin"].gain == 1 == rows["round_robin"].low
    together = [row for name, row in rows.items() if "together" in name]
    assert [row.prefix_hit_rate for row in together[1:]] == [0.75, 0.75]  # three of every four
    assert rows["length_ranges, true lengths"].low > 1
    assert plan.best.gain >= max(row.gain for row in plan.policies if not row.oracle)
    assert not plan.overlaps and plan.error is None
    assert json.loads(json.dumps(plan.as_dict(), allow_nan=False))["policies"][0]["policy"] == "round_robin"


def test_few_steps_resample_prompts_and_drawn_steps_have_the_size_asked_for():
    log = log_from_rows(logged(6, steps=2))
    few = plan_fleet(log, PlanSettings(2, CURVE))
    assert few.steps == 2 and few.interval.startswith("bootstrap over the prompts of 2 steps")
    drawn = plan_fleet(log, PlanSettings(2, CURVE, prompts_per_step=30))
    assert drawn.samples == drawn.steps * 30 * 4 and "drawn ones" in drawn.interval
    single = plan_fleet(log_from_rows(logged(6, steps=1)), PlanSettings(2, CURVE))
    assert single.recall is None and single.dispatch_on == 0


def test_the_simulator_knows_its_own_error():
    """Stamps from a fleet simulated token by token, by other code, and a curve that is not known."""
    rows = stamped(logged(7, steps=10), servers=3, seconds=lambda batch: 0.008 + 0.0007 * batch)
    plan = plan_fleet(log_from_rows(rows), PlanSettings(3, max_batch=16))
    assert plan.curve_fitted and plan.curve(10) == pytest.approx(0.015, rel=0.03)
    assert plan.error is not None and plan.error.held_out and plan.error.steps == 10
    assert plan.error.mean_absolute < 0.02
    # How many samples the planned engines hold changes neither the fit nor the error.
    narrow = plan_fleet(log_from_rows(rows), PlanSettings(3, max_batch=4))
    assert narrow.curve == plan.curve and narrow.error == plan.error
    # A curve that is wrong by a half shows as that error: the measure can fail.
    wrong = LatencyCurve(((1, 0.01305), (101, 0.11805)))
    shifted = plan_fleet(log_from_rows(rows), PlanSettings(3, wrong, max_batch=16))
    assert shifted.error is not None and not shifted.error.held_out
    assert shifted.error.mean == pytest.approx(0.5, abs=0.03)
    halved = plan_fleet(
        log_from_rows(rows), PlanSettings(3, LatencyCurve(((1, 0.00435), (101, 0.03935))), max_batch=16)
    )
    assert halved.error is not None and halved.error.mean == pytest.approx(-0.5, abs=0.03)
    # Of a log with some stamps missing, only whole steps are compared.
    for row in rows[:5]:
        del row["finished"]
    assert len(log_from_rows(rows).stamped) == 9


def test_without_stamps_and_curve_it_says_what_to_give():
    with pytest.raises(DataError, match=r"no stamps.*--ptl 1:0\.010"):
        plan_fleet(log_from_rows(logged(8, steps=1)), PlanSettings(2))
    with pytest.raises(DataError, match="servers = 0"):
        PlanSettings(0)
    with pytest.raises(DataError, match="train_seconds = -1"):
        PlanSettings(1, train_seconds=-1)


def test_checks_by_hand():
    ends, durations = [1.0, 2.0, 10.0], [4.0, 4.0, 1.0]
    assert verify_seconds(ends, durations, 1) == 11  # 1-5, 5-9, 10-11
    assert verify_seconds(ends, durations, 1, streaming=False) == 19
    assert verify_seconds(ends, durations, 2, streaming=False) == 15  # 10-14 and 10-14, then 14-15
    assert verify_seconds([5.0], [0.0], 3) == 5 and verify_seconds([], [], 1) == 0
    with pytest.raises(ValueError, match="0 workers"):
        verify_seconds(ends, durations, 0)


def test_overlap_by_hand():
    steps = [StepTimes(10, 12, 6)] * 4
    none, one, two = (run_pipeline(steps, staleness) for staleness in (0, 1, 2))
    assert none.total == 4 * 18 and none.lags == (0, 0, 0, 0)
    # Generation 0-10, 10-20, 20-30 (update 1 done at 18), 30-40; the last is checked at 42 and trained by 48.
    assert one.total == 48 and one.lags == (0, 1, 1, 1)
    assert one.generator_idle == pytest.approx(8 / 48) and one.trainer_idle == pytest.approx(24 / 48)
    assert two.total == 48  # generation is the bottleneck: more staleness gains nothing
    slow = [StepTimes(2, 2, 10)] * 4
    assert run_pipeline(slow, 1).total == 2 + 4 * 10 and run_pipeline(slow, 1).lags == (0, 1, 1, 1)
    assert max(run_pipeline(slow, 2).lags) == 2
    assert run_pipeline([]).total == 0


def test_streaming_and_overlap_stand_in_the_plan():
    log = log_from_rows(logged(9))
    plan = plan_fleet(log, PlanSettings(2, CURVE, verify_seconds=0.02, verify_workers=2, train_seconds=1.0))
    found = {(row.policy, row.streaming, row.max_staleness): row for row in plan.overlaps}
    first = found["round_robin", False, 0]
    assert first.gain == 1 and first.seconds == pytest.approx(plan.policies[0].makespan + 96 * 0.02 / 2 + 1.0)
    for policy in {row.policy for row in plan.overlaps}:
        assert found[policy, True, 0].seconds < found[policy, False, 0].seconds
        assert found[policy, True, 1].seconds < found[policy, True, 0].seconds


def test_the_command_prints_tables_and_json(tmp_path):
    path = write_lines(tmp_path / "log.jsonl", stamped(logged(10), 2, lambda batch: 0.01 + 0.0005 * batch))
    result = CliRunner().invoke(main, ["plan", "--rollout-log", str(path), "--servers", "2", "--max-batch", "16"])
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in POLICIES) and " * " in result.output
    wide = CliRunner().invoke(main, ["plan", "--rollout-log", str(path), "--servers", "2"])
    assert "it ran 16 samples at most; larger batches are extrapolated" in wide.output
    assert "extrapolated" not in result.output
    assert "off by" in result.output and "fitted to the log" in result.output
    assert max(len(line) for line in result.output.splitlines() if "─" in line) <= 130
    options = ["--servers", "2", "--max-batch", "16", "--verify-seconds", "0.1", "--json"]
    result = CliRunner().invoke(main, ["plan", "--rollout-log", str(path), *options])
    said = json.loads(result.output)
    assert len(said["policies"]) == len(POLICIES) and len(said["overlaps"]) >= 4
    assert said["error"]["mean_absolute"] < 0.02 and said["settings"]["servers"] == 2
    refused = CliRunner().invoke(main, ["plan", "--rollout-log", str(path), "--servers", "2", "--ptl", "8"])
    assert refused.exit_code == 1 and "batch:seconds" in refused.output


def test_lengths_that_prompts_do_not_tell_leave_the_policy_off_and_the_plan_shows_why():
    generator = np.random.default_rng(11)
    rows = [{**row, "length": int(generator.lognormal(5, 0.7)) + 1} for row in logged(11)]
    plan = plan_fleet(log_from_rows(rows), PlanSettings(3, CURVE))
    assert plan.recall is not None and plan.recall < 0.35 and plan.dispatch_on == 0
    found = {row.policy: row for row in plan.policies}
    assert found["length_aware"].high < 1  # on nevertheless, it would cost time
    assert found["length_ranges, true lengths"].low > 1  # though there is something to gain
