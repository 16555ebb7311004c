"""The product: one row a sample, in the order of the problems, as parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reasonrl.eval.rollouts.tokens import IDS, LOGPROBS, unpacked

if TYPE_CHECKING:
    import pyarrow

ROLLOUTS = "rollouts.parquet"

COLUMNS = (
    "id",
    "problem_id",
    "problem",
    "answer",
    "text",
    "correct",
    "verdict",
    "reward",
    "finish_reason",
    "length",
    "prompt_ids",
    "completion_ids",
    "logprobs_sampled",
    "seed",
    "index",
    "extracted",
    "pass_rate",
    "prompt",
)
"""Columns of every row (`docs/rollouts.md`); a problem's own columns come after them."""

NOT_CARRIED = frozenset({*COLUMNS, "solution", "reference_solution", "steps", "labels", "images", "image"})
"""Columns of a problem that do not go into the rows of its samples: ours, and those that would pass for a sample's."""

_ROWS_A_GROUP, _TOKENS_A_GROUP = 2_000, 4_000_000


def sample_row(problem: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """One row of the product; numbers of tokens are arrays.

    Args:
        problem: `problem_id`, `problem`, `answer`, `prompt_ids` and the problem's own columns.
        stored: a line of the record; `columns` of its own, as logs have them, go before the problem's.
    """
    # Of the math verifier alone the reward is the verdict, and a sample that was cut off has not answered.
    exact = stored.get("grader") is not None and stored["correct"] is not None
    reward = float(stored["correct"]) if exact else stored["score"]
    if reward is not None and stored["finish_reason"] == "length":
        # Whatever another reward found in it.
        reward = min(reward, 0.0)
    return {
        "id": f"{stored['id']}#{stored['index']}",
        **problem,
        **stored.get("columns", {}),
        "text": stored["text"],
        "correct": stored["correct"],
        "verdict": stored["verdict"],
        "reward": reward,
        "finish_reason": stored["finish_reason"],
        "length": stored["length"],
        IDS: unpacked(IDS, stored.get(IDS)),
        LOGPROBS: unpacked(LOGPROBS, stored.get(LOGPROBS)),
        "seed": stored["seed"],
        "index": stored["index"],
        "extracted": stored["extracted"],
    }


def own_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a problem's row its samples carry: scalars that are not ours."""
    return {
        name: value
        for name, value in row.items()
        if name not in NOT_CARRIED and isinstance(value, (str, int, float, bool))
    }


class ColumnTypes:
    """Which columns there are beside ours, and the type that holds all their values: `bool`, `int`, `float`, `text`."""

    def __init__(self) -> None:
        self._met: dict[str, set[str]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Look at one row."""
        for name, value in row.items():
            if name not in COLUMNS and value is not None:
                self._met.setdefault(name, set()).add(_type(value))

    def found(self) -> dict[str, str]:
        """Type by column."""
        return {name: _joined(types) for name, types in self._met.items()}


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "text"
    return "float" if isinstance(value, float) else "text"


def _joined(types: set[str]) -> str:
    if len(types) == 1:
        return next(iter(types))
    return "float" if types <= {"int", "float"} else "text"


class RolloutFile:
    """Writes the product a problem at a time; the file appears when all is in it.

    Args:
        path: of the file.
        own: the problems' own columns by type (`column_types`).
    """

    def __init__(self, path: Path, own: Mapping[str, str]) -> None:
        self.path, self.own = path, dict(own)
        self.rows = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: Any = None
        self._waiting: list[dict[str, Any]] = []
        self._tokens = 0

    def __enter__(self) -> RolloutFile:
        import pyarrow.parquet

        for leftover in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            leftover.unlink()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.schema = _schema(self.own)
        self._writer = pyarrow.parquet.ParquetWriter(self._temporary, self.schema, compression="zstd")
        return self

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Adds one problem's rows."""
        self._waiting += rows
        self.rows += len(rows)
        self._tokens += sum(len(row[IDS]) if row[IDS] is not None else len(row["text"]) // 4 for row in rows)
        if len(self._waiting) >= _ROWS_A_GROUP or self._tokens >= _TOKENS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        if not self._waiting:
            return
        arrays = []
        for entry in self.schema:
            values = [row.get(entry.name) for row in self._waiting]
            if self.own.get(entry.name) == "text":
                values = [value if value is None or isinstance(value, str) else str(value) for value in values]
            arrays.append(_array(values, entry.type))
        self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))
        self._waiting, self._tokens = [], 0

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        if kind is not None:
            self._writer.close()
            self._temporary.unlink(missing_ok=True)
            return
        self._flush()
        self._writer.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())
        self._temporary.replace(self.path)


def _array(values: list[Any], kind: Any) -> Any:
    import pyarrow

    try:
        return pyarrow.array(values, type=kind)
    except UnicodeEncodeError:  # half a surrogate pair, as a server may send
        whole = [value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in values]
        return pyarrow.array(whole, type=kind)


def _schema(own: Mapping[str, str]) -> pyarrow.Schema:
    import pyarrow as pa

    numbers = {
        "correct": pa.bool_(),
        "reward": pa.float64(),
        "length": pa.int64(),
        "prompt_ids": pa.list_(pa.int32()),
        IDS: pa.list_(pa.int32()),
        LOGPROBS: pa.list_(pa.float32()),
        "index": pa.int64(),
        "pass_rate": pa.float64(),
        "prompt": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
    }
    kinds = {"bool": pa.bool_(), "int": pa.int64(), "float": pa.float64(), "text": pa.string()}
    fields = [pa.field(name, numbers.get(name, pa.string())) for name in COLUMNS]
    return pa.schema([*fields, *(pa.field(name, kinds[kind]) for name, kind in own.items())])


def read_rollouts(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a product, some at a time; lists of tokens are plain lists."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()
