"""The house of the architecture: which room may import which, and what must stay out of which room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
ROOMS_AT_TOP = ("rewards", "prm", "eval", "data_tools", "recipes")

FLOORS = {
    "rewards": 0,
    "data_tools": 0,
    "recipe": 0,
    "endpoints": 0,
    "observe": 0,
    "algorithms": 0,
    "recipes": 0,
    "models": 1,
    "rollout": 2,
    "plan": 2,
    "prm": 3,
    "pacore": 3,
    "trainers": 4,
    "eval": 4,
    "pipeline": 5,
    "cli_eval": 6,
    "cli_labels": 7,
    "cli_pacore": 7,
    "cli_run": 7,
    "cli": 8,
    "__main__": 9,
}
GROUND = {"errors", "expressions", "fingerprint", "plugins", "latex", "plays", "__init__"}
"""Single modules below the rooms, of the standard library and small third parties: everybody may import them."""
SAME_FLOOR = {("rewards", "endpoints")}
"""Judges are rewards that ask a server."""


def room_files() -> Iterator[tuple[str, Path]]:
    """Every Python file of the package with its room; the rooms at the top are read where they stand, the links are not
    followed.
    """
    for path in sorted((TREE / "reasonrl").iterdir()):
        if path.is_symlink():
            continue
        if path.suffix == ".py":
            yield path.stem, path
        elif path.is_dir():
            yield from ((path.name, file) for file in sorted(path.rglob("*.py")))
    for room in ROOMS_AT_TOP:
        yield from ((room, file) for file in sorted((TREE / room).rglob("*.py")))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, those inside functions too; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"{path}:{node.lineno}: a relative import; the rooms are imported by their full names"
            )
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def arrow_fault(room: str, target: str) -> str | None:
    """Why `room` must not import `reasonrl.<target>`, or None if it may."""
    if target == room or target in GROUND:
        return None
    if target not in FLOORS:
        return f"reasonrl.{target} is no room"
    if room in GROUND:
        return f"{room} stands below every room"
    if FLOORS[room] > FLOORS[target] or (room, target) in SAME_FLOOR:
        return None
    return f"{room} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[target]})"


def test_arrows_run_downwards_only() -> None:
    faults = []
    for room, path in room_files():
        assert room in FLOORS or room in GROUND, (
            f"{path}: {room} has no floor; give it one here and in the architecture"
        )
        for line, name in imported(path):
            parts = name.split(".")
            if parts[0] != "reasonrl" or len(parts) < 2 or parts[1].startswith("__version"):
                continue
            fault = arrow_fault(room, parts[1])
            if fault:
                faults.append(f"{path.relative_to(TREE)}:{line}: {fault}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("room", "target", "allowed"),
    [
        ("rewards", "data_tools", False),
        ("rewards", "errors", True),
        ("rewards", "endpoints", True),
        ("endpoints", "rewards", False),
        ("rollout", "trainers", False),
        ("trainers", "rollout", True),
        ("errors", "recipe", False),
        ("eval", "trainers", False),
        ("pipeline", "cli", False),
    ],
)
def test_the_rule_itself(room: str, target: str, allowed: bool) -> None:
    assert (arrow_fault(room, target) is None) == allowed


def test_no_room_is_imported_by_its_bare_name() -> None:
    faults = []
    folders = [TREE / name for name in (*ROOMS_AT_TOP, "tests", "benchmarks", ".ci")]
    files = [
        *(TREE / "reasonrl").glob("*.py"),
        *(file for folder in folders if folder.is_dir() for file in folder.rglob("*.py")),
    ]
    files += [
        file
        for folder in (TREE / "reasonrl").iterdir()
        if folder.is_dir() and not folder.is_symlink()
        for file in folder.rglob("*.py")
    ]
    assert len(files) > 20
    for path in files:
        for line, name in imported(path):
            if name.split(".")[0] in ROOMS_AT_TOP:
                faults.append(f"{path.relative_to(TREE)}:{line}: imports {name}; write reasonrl.{name}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("room", ROOMS_AT_TOP)
def test_the_links_are_relative_and_lead_to_the_rooms(room: str) -> None:
    link = TREE / "reasonrl" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..") / room


@pytest.mark.parametrize(
    "module", ["reasonrl.recipe", "reasonrl.rewards", "reasonrl.rewards.math", "reasonrl.data_tools", "reasonrl.cli"]
)
def test_imports_without_torch(module: str, tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "trl", "vllm", "datasets", "matplotlib")
    program = f"import sys, {module}\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []
