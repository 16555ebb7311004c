"""Running recipes in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
DRIVER = HERE / "drive.py"

TWO_STAGES = """
recipe: counting
seed: 3
output: {output}
model: base
stages:
  first: {{kind: sft, model: base, data: {{path: {data}}}, max_steps: 4, learning_rate: 0.1}}
  second: {{kind: sft, model: "${{stage:first}}", data: {{path: {data}}}, max_steps: 3, learning_rate: 0.2}}
"""


@dataclass
class Workbench:
    """A folder with a recipe, its data and its output."""

    root: Path

    @property
    def output(self) -> Path:
        return self.root / "out"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def log(self) -> list[str]:
        path = self.root / "steps.log"
        return path.read_text().splitlines() if path.exists() else []

    def write(self, text: str = TWO_STAGES) -> None:
        data = self.root / "rows.jsonl"
        if not data.exists():
            data.write_text('{"problem": "1 + 1", "answer": "2", "solution": "2"}\n')
        self.recipe.write_text(text.format(output=self.output, data=data))

    def start(self, *arguments: str, **environment: object) -> subprocess.Popen[str]:
        variables = {name: str(value) for name, value in environment.items()}
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return subprocess.Popen(
            [sys.executable, str(DRIVER), str(self.recipe), *arguments],
            env={**os.environ, "PYTHONPATH": paths, "COUNT_LOG": str(self.root / "steps.log"), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.root,
        )

    def run(self, *arguments: str, **environment: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def ok(self, *arguments: str, **environment: object) -> str:
        done = self.run(*arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for(self, condition, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def make_bench():
    """Makes a bench with the two-stage recipe in a folder."""

    def make(root: Path) -> Workbench:
        root.mkdir(parents=True, exist_ok=True)
        workbench = Workbench(root)
        workbench.write()
        return workbench

    return make


@pytest.fixture
def bench(tmp_path: Path, make_bench) -> Workbench:
    return make_bench(tmp_path)
