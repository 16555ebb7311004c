"""Names: TRL's private ones stand in one file, and every public name of ours says what it is."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
ROOMS_AT_TOP = ("rewards", "prm", "eval", "data_tools", "recipes")
TRL_DOOR = TREE / "reasonrl" / "trainers" / "_trl.py"


def package_files() -> list[Path]:
    """Every Python file of the package, each once."""
    folders = [path for path in (TREE / "reasonrl").iterdir() if path.is_dir() and not path.is_symlink()]
    folders += [TREE / room for room in ROOMS_AT_TOP]
    return sorted([*(TREE / "reasonrl").glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))])


def underscored(path: Path) -> set[str]:
    """The underscored methods and attributes that a file defines."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def source_folder(package: str) -> Path:
    """Where an installed package's files stand; the package is not imported."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


def trl_private_names() -> set[str]:
    """Underscored names of TRL's GRPO, SFT and base trainers that transformers' Trainer, their base, does not have."""
    files = [
        source_folder("trl") / "trainer" / name for name in ("grpo_trainer.py", "sft_trainer.py", "base_trainer.py")
    ]
    own = {name for file in files if file.is_file() for name in underscored(file)}
    return own - underscored(source_folder("transformers") / "trainer.py")


def test_trls_private_names_stand_in_one_file_only() -> None:
    private = trl_private_names()
    assert {"_calculate_rewards", "_generate_single_turn"} <= private, "TRL has renamed what the list is made from"
    faults = []
    for path in (TREE / "reasonrl" / "trainers").rglob("*.py"):
        if path == TRL_DOOR:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            name = (
                node.name if isinstance(node, ast.FunctionDef) else node.attr if isinstance(node, ast.Attribute) else ""
            )
            if name in private:
                faults.append(f"{path.relative_to(TREE)}:{node.lineno}: {name}")  # type: ignore[attr-defined]
    assert not faults, "TRL's private names outside reasonrl/trainers/_trl.py:\n" + "\n".join(faults)


def test_no_private_or_experimental_module_of_trl_is_imported_elsewhere() -> None:
    faults = []
    for path in package_files():
        if path == TRL_DOOR:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "trl" and ("experimental" in parts or any(part.startswith("_") for part in parts)):
                    faults.append(f"{path.relative_to(TREE)}: {name}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", package_files(), ids=lambda path: str(path.relative_to(TREE)))
def test_every_public_name_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for node in tree.body:
        is_definition = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
            bare.append(f"{node.name} (line {node.lineno})")
    assert not bare, f"{path.relative_to(TREE)} has no docstring for: {', '.join(bare)}"
