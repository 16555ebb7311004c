"""`report_to`: passes every metrics line on to TensorBoard, Weights & Biases or trackio."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reasonrl.errors import MissingExtra, Problem, RecipeError


class _Tracker(Protocol):
    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def _require(package: str, tracker: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtra(package.partition(".")[0], tracker, f"report_to: {tracker}") from error


class _TensorBoard:
    def __init__(self, run_name: str, config: Mapping[str, Any], directory: Path) -> None:
        # torch's writer imports the tensorboard package when its own module is imported, so one check covers both.
        _require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # One sub-directory a run: TensorBoard shows it as the run's name.
        self._writer = SummaryWriter(log_dir=str(directory / "tensorboard" / run_name))
        text = "\n".join(f"    {name}: {value}" for name, value in flatten(config).items())
        self._writer.add_text("config", text, global_step=0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, global_step=step)
        # A killed run must still have its lines, and two flushes a minute would not give them.
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run_name: str, config: Mapping[str, Any], directory: Path) -> None:
        wandb = _require("wandb", "wandb")
        directory.mkdir(parents=True, exist_ok=True)
        # The entity, key and mode (offline, disabled) come from wandb's own environment variables.
        self._run = wandb.init(project="reasonrl", name=run_name, config=dict(config), dir=str(directory))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, run_name: str, config: Mapping[str, Any], directory: Path) -> None:
        self._trackio = _require("trackio", "trackio")
        self._trackio.init(project="reasonrl", name=run_name, config=dict(config))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(metrics), step=step)

    def close(self) -> None:
        self._trackio.finish()


_TRACKERS: dict[str, Callable[[str, Mapping[str, Any], Path], _Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "trackio": _Trackio,
}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists and scalars are leaves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, key))
        else:
            flat[key] = value
    return flat


class Trackers:
    """Sends metrics lines to every tracker named in `report_to`; with none named it does nothing.

    Args:
        report_to: any of `tensorboard`, `wandb`, `trackio`.
        run_name: the name the trackers show.
        config: the composed recipe, stored with the run.
        directory: where local files go (`<directory>/tensorboard/...`, `<directory>/wandb/...`).

    Raises:
        RecipeError: an unknown name.
        MissingExtra: the package of a named tracker is not installed.
    """

    def __init__(
        self, report_to: Sequence[str], run_name: str, config: Mapping[str, Any], directory: str | Path
    ) -> None:
        unknown = [name for name in report_to if name not in _TRACKERS]
        if unknown:
            allowed = ", ".join(_TRACKERS)
            raise RecipeError(
                [
                    Problem("report_to", f"{name!r} is no tracker; allowed: {allowed}", fix="remove or correct it")
                    for name in unknown
                ]
            )
        self._trackers: list[_Tracker] = []
        try:
            for name in dict.fromkeys(report_to):
                self._trackers.append(_TRACKERS[name](run_name, config, Path(directory)))
        except MissingExtra:
            self.close()
            raise

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Passes the numbers of one metrics line on; text, None, non-finite values and `step` itself are left out."""
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if name != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        for tracker in self._trackers:
            tracker.log(numbers, step)

    def close(self) -> None:
        """Finishes every tracker; a second call does nothing."""
        for tracker in self._trackers:
            tracker.close()
        self._trackers = []
