"""Suites that tests write: a YAML file of one suite named `mine`, with its rows beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from reasonrl.eval.suites import resolve


def written(folder: Path, table: list[dict[str, Any]], **entry: Any) -> str:
    """A file of one suite named `mine`, with its rows beside it."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    whole = {"mine": {"about": "a suite", "source": "rows.jsonl", **entry}}
    (folder / "my.yaml").write_text(yaml.safe_dump(whole))
    return str(folder / "my.yaml")


def load(folder: Path, table: list[dict[str, Any]], overrides: dict[str, Any] | None = None, **entry: Any) -> Any:
    return resolve(written(folder, table, **entry), overrides=overrides)["mine"].load()
