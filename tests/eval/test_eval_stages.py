"""The stages `eval` and `compare` with the real engine on a tiny model: figures, kill -9, sharing, dry run."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import content
from eval_world import table as read_table

from reasonrl.errors import Interrupted, RecipeError, RunError
from reasonrl.observe.records import read_records
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages import compare as compare_stage
from reasonrl.pipeline.stages import eval as eval_stage
from reasonrl.recipe import CompareStage, EvalStage, LaunchConfig, Reference

SETTINGS: dict[str, Any] = {
    "model": "tiny:qwen2",
    "suites": {
        "unseen": {"data": {"world": "arithmetic", "split": "test", "n": 12}, "greedy": True, "k": [1, 2]},
        "few": {"data": {"world": "arithmetic", "split": "test", "n": 3}},
    },
    "n": 2,
    "max_tokens": 12,
    "rollout": {"batch_size": 4},
}


def config(**changes: Any) -> EvalStage:
    return EvalStage.model_validate(SETTINGS | changes)


def context(run: Path, name: str, **changes: Any) -> StageContext:
    directory = run / "stages" / name
    directory.mkdir(parents=True, exist_ok=True)
    plain = StageContext(name, directory, "demo", 5, run, LaunchConfig())
    return replace(plain, **changes)


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[float, float | None]] = []

    def report(self, done: float, total: float | None, unit: str, note: str) -> None:
        self.calls.append((done, total))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StageResult, Recorder]:
    run, recorder = tmp_path_factory.mktemp("run"), Recorder()
    return run, eval_stage.run(config(), context(run, "before", progress=recorder)), recorder


def test_an_evaluation_leaves_samples_results_and_figures(evaluated: tuple[Path, StageResult, Recorder]) -> None:
    run, result, recorder = evaluated
    table = read_table(run / "stages" / "before", "unseen")
    assert (
        len(table) == 36 and table["length"].between(1, 12).all() and set(table["finish_reason"]) <= {"stop", "length"}
    )
    assert (
        table["prompt"].str.startswith("<|im_start|>user").all()
        and not table["text"].str.contains("<|im_end|>", regex=False).any()
    )
    assert result.data == run / "stages" / "before" / "results.json"
    assert result.metrics["unseen/n_samples"] == 24 and result.metrics["few/n_samples"] == 6
    cut = table.query("metric == 'sample'")["finish_reason"].eq("length").mean()
    assert result.metrics["unseen/truncated_fraction"] == pytest.approx(cut)
    assert json.dumps(dict(result.metrics))
    done = [at for at, _ in recorder.calls]
    assert done == sorted(done) and done[-1] == 42 and {total for _, total in recorder.calls} == {42}


def test_another_batch_plan_gives_the_same_samples(
    evaluated: tuple[Path, StageResult, Recorder], tmp_path: Path
) -> None:
    run, result, _ = evaluated
    again = eval_stage.run(config(rollout={"max_batch_tokens": 100}), context(tmp_path, "before"))
    assert again.metrics == result.metrics
    for suite in ("unseen", "few"):
        ours, theirs = (read_table(root / "stages" / "before", suite) for root in (run, tmp_path))
        pandas.testing.assert_frame_equal(ours, theirs)


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_eval_stages import config, context
from reasonrl.pipeline.stages import eval as eval_stage
class Slow:
    def report(self, done, total, unit, note):
        time.sleep(0.05)
eval_stage.run(config(), context(Path(sys.argv[1]), "before", progress=Slow()))
"""


def test_kill_nine_and_resume_give_the_unbroken_result(
    evaluated: tuple[Path, StageResult, Recorder], tmp_path: Path
) -> None:
    run, result, _ = evaluated
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).parent)])
    arrived = tmp_path / "stages" / "before" / "unseen" / "unjudged.jsonl"
    end = time.monotonic() + 120
    while len(read_records(arrived)) < 12:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    directory = tmp_path / "stages" / "before"
    assert not (directory / "results.json").exists()
    point = eval_stage.resume_point(directory)
    assert point is not None and point.startswith("0 suites done")
    resumed = eval_stage.run(config(), context(tmp_path, "before", resuming=True))
    assert resumed.metrics == result.metrics
    assert content(directory, "unseen", "few") == content(run / "stages" / "before", "unseen", "few")
    assert eval_stage.resume_point(directory) == "2 suites done, 42 samples kept"
    assert eval_stage.resume_point(tmp_path) is None


def test_a_stop_is_heeded_once_a_sample_is_on_disk(tmp_path: Path) -> None:
    stopping = context(tmp_path, "before")
    stopping.stop.set()
    with pytest.raises(Interrupted):
        eval_stage.run(config(), stopping)
    assert len(read_records(tmp_path / "stages" / "before" / "unseen" / "unjudged.jsonl")) == 1
    assert eval_stage.resume_point(stopping.directory) == "0 suites done, 1 samples kept"


def test_compare_reads_the_rows_wherever_they_lie(
    evaluated: tuple[Path, StageResult, Recorder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, before, _ = evaluated
    after = eval_stage.run(config(), context(tmp_path, "after"))
    stage = CompareStage.model_validate(
        {"rows": {"before": "${stage:before}", "after": "${stage:after}"}, "baseline": "before"}
    )
    results = {"before": before, "after": after, "start": StageResult(model=tmp_path)}
    with caplog.at_level(logging.INFO, "reasonrl.pipeline"):
        result = compare_stage.run(stage, context(tmp_path, "table", results=results))
    assert (
        result.data == tmp_path / "stages" / "table" / "table.json"
        and "unseen/after/accuracy_difference" in result.metrics
    )
    assert {"table.md", "table.csv", "table.json", "table.png"} <= {
        path.name for path in (tmp_path / "stages" / "table").iterdir()
    }
    assert "accuracy" in caplog.text and "baseline" in caplog.text
    rows = stage.model_copy(
        update={"rows": {"before": Reference("before", None, None), "odd": Reference("start", None, None)}}
    )
    with pytest.raises(RunError, match=r"row 'odd' is \$\{stage:start\}, which is no evaluation"):
        compare_stage.run(rows, context(tmp_path, "table", results=results))
    (line,) = compare_stage.dry_run(stage, context(tmp_path, "table"))
    assert "before (${stage:before}), after (${stage:after})" in line


def test_dry_run_says_what_would_be_drawn_and_writes_nothing(tmp_path: Path) -> None:
    lines = eval_stage.dry_run(config(), replace(context(tmp_path, "before"), dry=True))
    assert (
        len(lines) == 2
        and "2 samples a problem at temperature 1, top_p 1 and one greedily, at most 12 tokens" in lines[0]
    )
    assert list((tmp_path / "stages" / "before").iterdir()) == []


def test_a_named_suite_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no suite 'aime99'"):
        eval_stage.run(config(suites=["aime99"]), context(tmp_path, "before"))
