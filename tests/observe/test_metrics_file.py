"""The metrics file: what is written can be read back, a kill loses one line at most, resume takes lines back."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from reasonrl.errors import DataError
from reasonrl.observe import MetricsWriter, format_seconds, is_time_field, read_metrics, step_line


def test_lines_read_back_as_written_with_scalars_of_numpy_and_torch(tmp_path: Path) -> None:
    import torch

    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write(
            {
                "step": 1,
                "reward": numpy.float32(0.5),
                "tokens": numpy.int64(7),
                "entropy": torch.tensor(1.25),
                "note": "warm-up",
                "kl": None,
            }
        )
        writer.write({"step": 2, "loss": math.nan, "grad_norm": math.inf, "kl": -math.inf})
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first == {"step": 1, "reward": 0.5, "tokens": 7, "entropy": 1.25, "note": "warm-up", "kl": None}
    assert math.isnan(second["loss"]) and second["grad_norm"] == math.inf and second["kl"] == -math.inf
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_file_cut_anywhere_in_its_last_line_goes_on_after_the_lines_that_are_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in (1, 2, 3):
            writer.write({"step": step, "reward": step / 10, "name": "Zürich"})
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    # Cutting just the newline leaves the record whole.
    expected = 3 if cut == 1 else 2
    assert [record["step"] for record in read_metrics(path)] == list(range(1, expected + 1))
    with MetricsWriter(path) as writer:
        assert writer.last_step == expected
        for step in range(expected + 1, 4):
            writer.write({"step": step, "reward": step / 10, "name": "Zürich"})
    assert path.read_bytes() == whole


def test_truncate_after_takes_lines_back_and_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path) as writer:
        for step in range(1, 6):
            writer.write({"step": step, "loss": math.nan if step == 2 else 1.0})
    with path.open("ab") as file:
        file.write(b'{"step": 6, "lo')
    with MetricsWriter(path) as writer:
        assert writer.truncate_after(3) == 2
        assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
        writer.write({"step": 4, "loss": 0.5})
        assert writer.truncate_after(0) == 4 and writer.last_step is None
        writer.write({"step": 1, "loss": 2.0})
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_a_step_twice_a_missing_step_and_a_nested_value_are_refused(tmp_path: Path) -> None:
    with MetricsWriter(tmp_path / "metrics.jsonl") as writer:
        writer.write({"step": 4, "loss": 1.0})
        with pytest.raises(ValueError, match=r"step 4 does not follow step 4.*truncate_after\(3\)"):
            writer.write({"step": 4, "loss": 1.0})
        with pytest.raises(ValueError, match="integer 'step'"):
            writer.write({"loss": 1.0})
        with pytest.raises(TypeError, match="metric 'eval' is a dict"):
            writer.write({"step": 5, "eval": {"accuracy": 1.0}})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_damage_before_the_last_line_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2 is not a JSON object"):
        read_metrics(path)
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_kill_nine_while_writing_leaves_every_finished_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    program = (
        "import sys; from reasonrl.observe import MetricsWriter; w = MetricsWriter(sys.argv[1])\n"
        "for step in range(1, 10**6): w.write({'step': step, 'reward': 0.5}); print(step, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    reported += [int(line) for line in process.stdout.read().split("\n")[:-1] if line]
    process.wait()
    steps = [record["step"] for record in read_metrics(path)]
    assert steps == list(range(1, len(steps) + 1)) and steps[-1] >= reported[-1]
    with MetricsWriter(path) as writer:
        writer.write({"step": steps[-1] + 1})


@pytest.mark.parametrize(
    "name", ["time/step", "memory/rss_mb", "rate/tokens_per_second", "train_runtime", "cpu_seconds"]
)
def test_time_fields(name: str) -> None:
    assert is_time_field(name)


@pytest.mark.parametrize("name", ["reward", "completions/mean_length", "timeouts", "kl", "tokens", "step"])
def test_other_fields_are_compared(name: str) -> None:
    assert not is_time_field(name)


def test_step_line_shows_what_is_there_and_nothing_else() -> None:
    metrics = {
        "step": 3,
        "reward": 0.43125,
        "accuracy": 0.5,
        "completions/mean_length": 84.25,
        "completions/truncated_fraction": 0.021,
    }
    metrics |= {
        "learning_rate": 1e-6,
        "unscored": 0,
        "time/step": 75.2,
        "time/generate": 60.01,
        "time/reward": 0.01,
        "rate/tokens_per_second": 2100.4,
    }
    assert step_line(metrics, total=40) == (
        "step  3/40  reward 0.431  acc 50.0%  len 84.2  cut 2.1%  lr 1.0e-06  1 min 15 s  2,100 tok/s"
    )
    del metrics["learning_rate"]
    assert step_line(metrics, total=40) == (
        "step  3/40  reward 0.431  acc 50.0%  len 84.2  cut 2.1%  1 min 15 s (generate 60.0)  2,100 tok/s"
    )
    assert step_line({"step": 7}) == "step 7"
    assert "unscored 2" in step_line({"step": 7, "unscored": 2})
    assert step_line({"step": 7, "alarm/ratio": 1, "alarm/no_gradient": 1}) == "step 7  ALARM no_gradient, ratio"


def test_step_line_fits_a_terminal() -> None:
    metrics = {"step": 400, "reward": -0.43125, "accuracy": 1.0, "eval/accuracy": 1.0, "approx_kl": 1.234e-4}
    metrics |= {"completions/mean_length": 1084.25, "completions/truncated_fraction": 0.121, "entropy": 0.321}
    metrics |= {"clip_fraction": 0.111, "explained_variance": -0.123, "learning_rate": 1e-6, "unscored": 12}
    metrics |= {"time/step": 3975.2, "time/generate": 3060.01, "time/actor": 900.2, "rate/tokens_per_second": 21004.0}
    line = step_line(metrics, total=900)
    assert len(line) <= 100, line
    for shown in ("step 400/900", "reward -0.431", "acc 100.0%", "eval 100.0%", "unscored 12", "1 h 06 min"):
        assert shown in line
    assert "ev" not in step_line({"step": 1, "explained_variance": float("nan")}), "nothing to explain"


def test_durations_read_well() -> None:
    assert [format_seconds(value) for value in (3.44, 59.96, 125, 3599.7, 4020)] == [
        "3.4 s",
        "1 min 00 s",
        "2 min 05 s",
        "1 h 00 min",
        "1 h 07 min",
    ]


def test_importing_observe_stays_light() -> None:
    heavy = "torch transformers matplotlib pandas pyarrow jinja2 scipy numpy rich"
    program = f"import sys, reasonrl.observe; print([name for name in {heavy.split()!r} if name in sys.modules])"
    start = time.monotonic()
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]", f"imported after {time.monotonic() - start:.1f} s: {output}"
