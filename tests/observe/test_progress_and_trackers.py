"""The live line on a terminal, silence elsewhere; metrics passed on to trackers."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from reasonrl.errors import MissingExtra, RecipeError
from reasonrl.observe import Progress, Trackers

PROGRAM = """
import time
from reasonrl.observe import Progress
with Progress(total=4, description="rl") as progress:
    progress.phase("generate")
    for step in range(4):
        time.sleep(0.12)
        progress.advance()
        progress.line(f"step {step + 1} [/weird markup] reward 0.5")
"""


def test_no_terminal_gives_lines_only() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"step {step} [/weird markup] reward 0.5" for step in (1, 2, 3, 4)]


def test_a_terminal_shows_phase_count_rate_and_time_left() -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux ends a pseudo-terminal whose other side closed with EIO
            break
        if not chunk:
            break
        output += chunk
    assert process.wait() == 0
    text = output.decode()
    assert "generate · 2/4 steps" in text and "s left" in text and "step 4 [/weird markup] reward 0.5" in text


def test_rate_and_time_left_leave_out_what_was_done_before_a_resume() -> None:
    from rich.console import Console

    progress = Progress(total=30, unit="sample", completed=10, console=Console(file=io.StringIO()))
    assert progress.rate is None and progress.seconds_left is None and progress.status() == "10/30 samples"
    progress._marks.clear()
    progress._marks.extend([(100.0, 10), (102.0, 14)])
    progress.completed = 14
    assert progress.rate == pytest.approx(2.0) and progress.seconds_left == pytest.approx(8.0)
    assert progress.status() == "14/30 samples · 2 sample/s · 8.0 s left"


def test_reports_of_a_stage_count_from_where_this_attempt_began(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    clock = iter([0.0, 10.0, 12.0, 14.0])
    monkeypatch.setattr("reasonrl.observe.progress.time.monotonic", lambda: next(clock))
    progress = Progress(console=Console(file=io.StringIO()))
    for done in (100, 102, 104):
        progress.report(done, 110, "steps", "generate")
    assert progress.status() == "generate · 104/110 steps · 1 step/s · 6.0 s left"


def test_tensorboard_events_hold_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(("tensorboard",), "quickstart-rl", {"stages": {"rl": {"learning_rate": 1e-6}}}, tmp_path)
    for step in (1, 2, 5):
        trackers.log({"step": step, "reward": step / 10, "note": "text", "kl": math.nan, "accuracy": None}, step)
    # Read before close: a killed run must have its lines too.
    (folder,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    assert folder.name == "quickstart-rl"
    assert events.Tags()["scalars"] == ["reward"]
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("reward")] == [
        (1, 0.1),
        (2, 0.2),
        (5, 0.5),
    ]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "stages.rl.learning_rate: 1e-06" in text
    trackers.close()
    trackers.close()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline_writes_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    trackers = Trackers(("wandb",), "quickstart-rl", {"seed": 0}, tmp_path)
    trackers.log({"step": 1, "reward": 0.5}, 1)
    trackers.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", [name for name in ("wandb", "trackio") if importlib.util.find_spec(name) is None])
def test_a_missing_package_is_named_at_construction(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        MissingExtra, match=rf"report_to: {name} needs the package '{name}'.*pip install 'reasonrl\[{name}\]'"
    ):
        Trackers((name,), "run", {}, tmp_path)


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'tensorbord' is no tracker; allowed: tensorboard, wandb, trackio"):
        Trackers(("tensorbord",), "run", {}, tmp_path)
    Trackers((), "run", {}, tmp_path).log({"step": 1, "reward": 1.0}, 1)
