"""The run directory and its stage folders: what is on disk, read back and written whole."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageResult
from reasonrl.pipeline.environment import environment_record, redacted_command
from reasonrl.pipeline.files import (
    TEMPORARY_PREFIX,
    read_json,
    remove_temporaries,
    sync_directory,
    write_json,
    write_text,
)
from reasonrl.pipeline.keys import StageIdentity
from reasonrl.pipeline.lock import LOCK_FILE
from reasonrl.recipe import composed_yaml

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

CONFIG = "config.yaml"
CONFIG_INPUT = "config.input.yaml"
ENVIRONMENT = "environment.json"
STAGE = "stage.json"
DONE = "done.json"
DONE_BEFORE = "done.before-extension.json"
CLOCK = "clock.json"


def now() -> str:
    """The time as it is written in records: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class StageRecord:
    """`stage.json` (written when a stage starts): what it is made from.

    Attributes:
        identity: identity, extensible fields and inputs.
        attempt: how often the stage had been made anew before.
        started: ISO 8601.
        versions: of the libraries at that time.
    """

    identity: StageIdentity
    attempt: int
    started: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.identity.name,
            "key": self.identity.key,
            "product": self.identity.product(self.attempt),
            "attempt": self.attempt,
            "started": self.started,
            "identity": self.identity.identity,
            "extensible": self.identity.extensible,
            "inputs": self.identity.inputs,
            "versions": self.versions,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> StageRecord:
        """Raises KeyError or TypeError for a record of another shape."""
        identity = StageIdentity(
            str(record["name"]), dict(record["identity"]), dict(record["extensible"]), dict(record["inputs"])
        )
        return cls(identity, int(record["attempt"]), str(record["started"]), dict(record["versions"]))


@dataclass(frozen=True)
class DoneRecord:
    """`done.json` (written when a stage ends): the stage record, the result, and where it lies if it is shared.

    Attributes:
        stage: what it was made from.
        result: paths absolute.
        finished: ISO 8601.
        shared_from: the stage folder of another run of the study that holds the result; None if it is here.
    """

    stage: StageRecord
    result: StageResult
    finished: str
    shared_from: Path | None = None

    @property
    def product(self) -> str:
        return self.stage.identity.product(self.stage.attempt)

    @property
    def age_seconds(self) -> float:
        return time.time() - datetime.fromisoformat(self.finished).timestamp()


class StageDirectory:
    """`<run>/stages/<name>`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def is_empty(self) -> bool:
        """Whether nothing but leftovers of killed writers is there."""
        return not self.path.is_dir() or all(item.name.startswith(TEMPORARY_PREFIX) for item in self.path.iterdir())

    def read_stage(self) -> StageRecord | None:
        """The stage record; None if the stage was never begun. Raises RunError if the file cannot be understood."""
        path = self.path / STAGE
        try:
            return StageRecord.from_json(read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{path} cannot be read ({type(error).__name__}: {error}) -> start the stage anew with "
                f"--restart-stage {self.name}, which moves this folder aside"
            ) from error

    def read_done(self) -> DoneRecord | None:
        """The record of the finished stage; None if it is not finished.

        Raises RunError if the file cannot be understood.
        """
        path = self.path / DONE
        try:
            record = read_json(path)
            shared = record["shared_from"]
            home = self.path if shared is None else Path(os.path.normpath(self.path / shared))
            result = StageResult.from_json(record["result"], home)
            return DoneRecord(
                StageRecord.from_json(record), result, str(record["finished"]), None if shared is None else home
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(f"{path} cannot be read ({type(error).__name__}: {error})") from error

    def begin(self, record: StageRecord) -> None:
        """Write `stage.json`.

        A `done.json` from before the stage grew is set aside, so that a killed extension is not taken for done.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        remove_temporaries(self.path)
        write_json(self.path / STAGE, record.to_json())
        if (self.path / DONE).exists():
            os.replace(self.path / DONE, self.path / DONE_BEFORE)

    def finish(self, record: StageRecord, result: StageResult) -> DoneRecord:
        """Write `done.json`. Raises RunError if the stage's metrics are no JSON."""
        done = DoneRecord(record, result, now())
        self._write_done(done, result.to_json(self.path))
        return done

    def link(self, source: StageDirectory) -> DoneRecord:
        """Become a link to the finished stage of another run: records that point there, nothing copied."""
        there = source.read_done()
        if there is None:
            raise RunError(f"{source.path} is not done, so it cannot be shared")
        home = there.shared_from or source.path
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / STAGE, there.stage.to_json())
        done = DoneRecord(there.stage, there.result, there.finished, home)
        self._write_done(done, there.result.to_json(home))
        return done

    def _write_done(self, done: DoneRecord, result: dict[str, Any]) -> None:
        shared = None if done.shared_from is None else os.path.relpath(done.shared_from, self.path)
        record = {**done.stage.to_json(), "finished": done.finished, "shared_from": shared, "result": result}
        try:
            write_json(self.path / DONE, record)
        except TypeError as error:
            raise RunError(f"stage {self.name!r}: its metrics cannot be written as JSON: {error}") from error

    def times_set_aside(self) -> int:
        """The highest n of the `<name>.old-<n>` folders; 0 if there is none."""
        prefix = f"{self.name}.old-"
        names = [item.name for item in self.path.parent.iterdir()] if self.path.parent.is_dir() else []
        numbers = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        return max((int(number) for number in numbers if number.isdigit()), default=0)

    def set_aside(self, at_least: int = 1) -> Path:
        """Rename the folder to `<name>.old-<n>` with the next free n, `at_least` or more; nothing is ever deleted."""
        target = self.path.with_name(f"{self.name}.old-{max(self.times_set_aside() + 1, at_least)}")
        os.rename(self.path, target)
        sync_directory(target.parent)
        return target


class RunDirectory:
    """A run's folder: `config.yaml`, `config.input.yaml`, `environment.json`, `stages/`, `report.html`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stage(self, name: str) -> StageDirectory:
        return StageDirectory(self.path / "stages" / name)

    def exists(self) -> bool:
        return (self.path / ENVIRONMENT).exists()

    def check_ours(self) -> None:
        """Raises RunError if the path is a file, or a folder with content that no run of this library wrote."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a run directory -> choose another `output`")
        if not self.path.is_dir():
            return
        try:
            content = [item for item in self.path.iterdir() if item.name != LOCK_FILE]
            content = [item for item in content if not item.name.startswith(TEMPORARY_PREFIX) and not _is_study(item)]
            marker = read_json(self.path / ENVIRONMENT) if (self.path / ENVIRONMENT).exists() else None
        except ValueError:
            marker = None
        except OSError as error:
            raise RunError(f"cannot read {self.path}: {error.strerror} -> choose another `output`") from error
        if content and not (isinstance(marker, dict) and marker.get("written_by") == "reasonrl"):
            names = ", ".join(sorted(item.name for item in content)[:3])
            raise RunError(
                f"{self.path} is not empty and no run of reasonrl wrote it (it holds {names}) "
                "-> choose another `output`, or empty it"
            )

    def create(self) -> None:
        """Make the folder. Raises RunError if that is not possible."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"cannot make the run directory {self.path}: {error.strerror} -> choose another `output`"
            ) from error

    def write_recipe(self, resolved: ResolvedRecipe) -> None:
        """Write the environment (first: it marks the folder as ours) and the recipe, as composed and as given."""
        remove_temporaries(self.path)
        record = environment_record(resolved.recipe.seed)
        record["recipe"] = {"path": str(resolved.path), "overrides": redacted_command(resolved.overrides)}
        record["starts"] = [*self._earlier_starts(), {name: record[name] for name in ("started", "command")}]
        write_json(self.path / ENVIRONMENT, record)
        # What is composed in already does not stand there once more: base files, and arms on top of this run's arm.
        tree = {key: value for key, value in resolved.tree.items() if key not in ("base", "arms", "studies")}
        write_text(self.path / CONFIG, composed_yaml(tree))
        write_text(self.path / CONFIG_INPUT, resolved.source_text)

    def _earlier_starts(self) -> list[Any]:
        try:
            return list(read_json(self.path / ENVIRONMENT)["starts"])
        except (OSError, ValueError, KeyError, TypeError):
            return []


def _is_study(folder: Path) -> bool:
    """Whether a folder beside a run's own files is that of a study: it holds run directories and its tables alone."""
    if not folder.is_dir():
        return False
    items = [item for item in folder.iterdir() if not item.name.startswith("study.")]
    return bool(items) and all((item / ENVIRONMENT).is_file() for item in items)
