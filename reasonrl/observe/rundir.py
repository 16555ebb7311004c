"""What a run directory holds, read from its files alone: for the report and for the run listing."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.observe.metrics import read_metrics


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty when the file is absent or half written by a run that was killed."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return {}
    return record if isinstance(record, dict) else {}


@dataclass(frozen=True)
class StageView:
    """One stage of a run as it lies on disk.

    Attributes:
        name: instance name (`train`, `train.2`).
        kind: from the recipe; guessed from the files where the recipe does not name the stage.
        directory: where the stage's files are; for a stage shared between the runs of a study, in another run.
        config: the stage's part of the composed recipe; empty if it is not in there.
    """

    name: str
    kind: str
    directory: Path
    config: dict[str, Any]

    @cached_property
    def done(self) -> dict[str, Any]:
        """The content of `done.json`; empty while the stage is not finished."""
        return read_json(self.directory / "done.json")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The stage's metrics lines."""
        return read_metrics(self.directory / "metrics.jsonl")

    @cached_property
    def results(self) -> dict[str, Any]:
        """An evaluation's `results.json`; empty without one."""
        return read_json(self.directory / "results.json")

    @cached_property
    def table(self) -> dict[str, Any]:
        """A comparison's `table.json`; empty without one."""
        return read_json(self.directory / "table.json")

    @cached_property
    def gate(self) -> dict[str, Any]:
        """A gate's `gate.json`; empty without one."""
        return read_json(self.directory / "gate.json")

    @cached_property
    def rollouts(self) -> dict[str, Any]:
        """The `statistics.json` of samples kept for training; empty without one."""
        return read_json(self.directory / "statistics.json") if self.kind == "rollout" else {}

    @cached_property
    def mined(self) -> dict[str, Any]:
        """The `mined.json` of an annotation; empty without one."""
        return read_json(self.directory / "mined.json") if self.kind == "annotate" else {}

    @property
    def state(self) -> str:
        """`done`, `unfinished` (there are files) or `waiting`."""
        if self.done:
            return "done"
        begun = self.directory.is_dir() and any(not path.name.startswith(".") for path in self.directory.iterdir())
        return "unfinished" if begun else "waiting"

    @property
    def final(self) -> dict[str, Any]:
        """The final figures in `done.json`."""
        result = self.done.get("result", self.done)
        found = result.get("metrics", {}) if isinstance(result, dict) else {}
        return dict(found)

    def seconds(self, clock: str) -> float | None:
        """`cpu` or `wall` seconds of a finished stage."""
        result = self.done.get("result", self.done)
        value = result.get(f"{clock}_seconds") if isinstance(result, dict) else None
        return float(value) if isinstance(value, int | float) else None


class RunView:
    """A run directory as it lies on disk; nothing is written, nothing of the recipe is validated.

    Args:
        directory: the run directory.

    Raises:
        RunError: it holds neither `config.yaml` nor `stages/`.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not is_run(self.directory):
            raise RunError(
                f"{self.directory} is no run directory: it holds no config.yaml and no stages/ -> name one that does"
            )

    @cached_property
    def config_text(self) -> str:
        """The composed recipe as it was written; empty if absent."""
        path = self.directory / "config.yaml"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """The composed recipe as a plain tree."""
        import yaml

        tree = yaml.safe_load(self.config_text) if self.config_text else {}
        return tree if isinstance(tree, dict) else {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of `environment.json`."""
        return read_json(self.directory / "environment.json")

    @property
    def recipe(self) -> str:
        """The recipe's name; the folder's name if the recipe is not there."""
        return str(self.config.get("recipe", self.directory.name))

    @cached_property
    def stages(self) -> list[StageView]:
        """The stages: those of the recipe in its order (loop passes by number), then others that lie on disk."""
        folder = self.directory / "stages"
        on_disk = (
            sorted((path.name for path in folder.iterdir() if path.is_dir()), key=_natural) if folder.is_dir() else []
        )
        on_disk = [name for name in on_disk if re.fullmatch(r"\w[\w-]*(\.\d+)?", name)]
        configs = self.config.get("stages")
        named: dict[str, Any] = configs if isinstance(configs, dict) else {}
        order: list[tuple[str, dict[str, Any]]] = []
        for name, config in named.items():
            passes = [found for found in on_disk if re.fullmatch(rf"{re.escape(name)}\.\d+", found)]
            plain = config if isinstance(config, dict) else {}
            order += [(found, plain) for found in passes] if passes and name not in on_disk else [(name, plain)]
        # Passes of a loop run interleaved: all stages of pass 1, then of pass 2.
        order = _interleaved(order, list(named))
        listed = {name for name, _ in order}
        order += [(name, {}) for name in on_disk if name not in listed]
        return [self._stage(name, config) for name, config in order]

    def _stage(self, name: str, config: dict[str, Any]) -> StageView:
        directory = self.directory / "stages" / name
        shared = read_json(directory / "done.json").get("shared_from")
        files = Path(os.path.normpath(directory / str(shared))) if shared else directory
        return StageView(name, str(config.get("kind") or _guess_kind(files)), files, config)


def is_run(directory: Path) -> bool:
    """Whether a folder looks like a run directory."""
    return (directory / "config.yaml").is_file() or (directory / "stages").is_dir()


def find_runs(root: Path, depth: int = 4) -> list[Path]:
    """Run directories at or below `root`, down to `depth` folders; runs inside a run are not looked for."""
    if not root.is_dir():
        return []
    if is_run(root):
        return [root]
    if depth == 0:
        return []
    children = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for child in children for run in find_runs(child, depth - 1)]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _interleaved(order: list[tuple[str, dict[str, Any]]], names: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Stages in running order: outside a loop as named; inside it pass by pass."""

    def base_and_pass(name: str) -> tuple[str, int]:
        base, _, number = name.rpartition(".")
        return (base, int(number)) if base in names and number.isdigit() else (name, 0)

    looped = [
        base
        for base in names
        if any(base_and_pass(name) != (name, 0) and base_and_pass(name)[0] == base for name, _ in order)
    ]
    first = names.index(looped[0]) if looped else 0

    def place(item: tuple[str, dict[str, Any]]) -> tuple[int, int, int]:
        base, number = base_and_pass(item[0])
        position = names.index(base)
        return (first, number, position) if base in looped else (position, 0, 0)

    return sorted(order, key=place)


def _guess_kind(directory: Path) -> str:
    if (directory / "table.json").exists():
        return "compare"
    if (directory / "results.json").exists():
        return "eval"
    lines = read_metrics(directory / "metrics.jsonl")
    if lines:
        return "ppo" if "reward" in lines[-1] else "sft"
    return "unknown"
