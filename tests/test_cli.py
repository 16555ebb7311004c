"""The command line itself: arguments, exit statuses, what it imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import reasonrl
from reasonrl.cli import main
from reasonrl.errors import Interrupted, RunError
from reasonrl.recipe import shipped_recipes

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "pandas", "matplotlib", "numpy", "vllm")
BAD = "stages: {a: {kind: sft, max_stps: 3}}\n"
GOOD = "stages: {a: {kind: sft, model: tiny:qwen2, data: {world: arithmetic, n: 4}, max_steps: 1}}\n"


def imported_by(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit status of the command in a fresh process, and which heavy modules it imported."""
    code = (
        "import sys\n"
        "from reasonrl.cli import main\n"
        "try:\n"
        f"    main({list(arguments)!r})\n"
        "except SystemExit as stop:\n"
        "    status = stop.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "open('imported.txt', 'w').write(f'{int(status or 0)} ' + ' '.join(heavy))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    status, *heavy = (folder / "imported.txt").read_text().split()
    return int(status), heavy


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--help",), 0),
        (("train", "--help"), 0),
        (("--version",), 0),
        (("recipes", "ls"), 0),
        (("train", "bad.yaml"), 2),
        (("train", "bad.yaml", "--study", "x"), 2),
        (("train", "good.yaml", "--print-config"), 0),
    ],
)
def test_fast_paths_import_nothing_heavy(tmp_path, arguments, status):
    (tmp_path / "bad.yaml").write_text(BAD)
    (tmp_path / "good.yaml").write_text(GOOD)
    assert imported_by(tmp_path, *arguments) == (status, [])


def test_the_recipe_package_imports_nothing_heavy(tmp_path):
    code = f"import reasonrl.recipe, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_and_module_entry():
    done = subprocess.run([sys.executable, "-m", "reasonrl", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"reasonrl, version {reasonrl.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("good.yaml", "seed=3", "stages.a.learning_rate=1e-4", "--print-config"),
        ("--print-config", "good.yaml", "seed=3", "stages.a.learning_rate=1e-4"),
        ("good.yaml", "seed=3", "--print-config", "stages.a.learning_rate=1e-4"),
    ],
)
def test_overrides_stand_anywhere(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    result = CliRunner().invoke(main, ["train", *arguments])
    assert result.exit_code == 0, result.output
    assert "seed: 3 " in result.stdout and "learning_rate: 0.0001 " in result.stdout


def test_study_and_arm_exclude_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    result = CliRunner().invoke(main, ["train", "good.yaml", "--study", "x", "--arm", "y"])
    assert result.exit_code == 2 and "not both" in result.stderr


def test_an_unknown_study_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD + "studies: {short: {}}\n")
    result = CliRunner().invoke(main, ["train", "good.yaml", "--study", "shrot"])
    assert result.exit_code == 2
    assert "no study 'shrot'" in result.stderr and "did you mean 'short'?" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["good.yaml"]


@pytest.mark.parametrize(("error", "status"), [(RunError("changed"), 2), (Interrupted("stopped"), 130)])
def test_errors_of_the_library_become_messages_and_statuses(error, status):
    """The wrapper around every command, on a function that raises what the pipeline raises."""
    from reasonrl.cli_eval import reports_errors

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as stop:
        reports_errors(command)()
    assert stop.value.code == status


def test_errors_that_are_ours_alone_are_caught():
    from reasonrl.cli_eval import reports_errors

    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reports_errors(command)()


def test_recipes_ls_and_show():
    listed = CliRunner().invoke(main, ["recipes", "ls"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(shipped_recipes())
    for name, path in shipped_recipes().items():
        shown = CliRunner().invoke(main, ["recipes", "show", name])
        assert shown.stdout == path.read_text(encoding="utf-8")


def test_runs_commands_without_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CliRunner().invoke(main, ["runs", "ls"])
    assert listed.exit_code == 0 and "no runs" in listed.stdout
    for command in (["runs", "tail", "nowhere"], ["runs", "compare", "nowhere", "nor_here"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2 and "nowhere is no run directory" in result.stderr
        assert isinstance(result.exception, SystemExit)


def test_a_misspelt_shipped_recipe():
    for command in (["recipes", "show", "quikstart"], ["recipes", "cp", "quikstart"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2 and "did you mean 'quickstart'?" in result.stderr


def test_an_interrupted_terminal_gets_no_traceback(tmp_path):
    """A pipe that is closed early (`reasonrl recipes show quickstart | head -1`)."""
    command = f"{sys.executable} -m reasonrl recipes show quickstart | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_report_of_a_half_done_run(tmp_path):
    """A run that was killed has written none itself."""
    stage = tmp_path / "run" / "stages" / "rl"
    stage.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("recipe: half\nstages: {rl: {kind: ppo}}\n")
    (stage / "metrics.jsonl").write_text('{"step": 1, "reward": 0.25}\n{"step": 2, "rew')
    result = CliRunner().invoke(main, ["runs", "report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "half" in (tmp_path / "run" / "report.html").read_text()


def test_a_library_that_writes_its_own_warnings_is_not_repeated(tmp_path):
    code = (
        "import logging\n"
        "from reasonrl.pipeline.progress import logs_to_terminal\n"
        "logs_to_terminal()\n"
        "library = logging.getLogger('loud')\n"
        "library.addHandler(logging.StreamHandler())\n"
        "logging.getLogger('loud.inner').warning('once')\n"
        "logging.getLogger('silent').warning('also once')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.splitlines() == ["once", "also once"]
