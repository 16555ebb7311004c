"""Samples that a checkpoint finds drawn but not yet trained on: written beside the weights, read back on resume.

Each rank writes its share, as a parquet file of samples and a JSON record of what they are for. The requests are not
stored: they follow from data and seed, and are only held to the stored seeds and prompts. A run that is resumed on
another number of ranks takes its new share of the same samples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.observe.completions import read_parquet, write_parquet
from reasonrl.rollout.engine import Expected, Outlook, Request, Sample, Stamp
from reasonrl.rollout.servers_weights import read_weights, write_weights

if TYPE_CHECKING:
    import torch

FOLDER = "drawn"
_WEIGHTS = "weights"
_FIELDS = tuple(field.name for field in dataclasses.fields(Sample) if field.name != "request")


def write_drawn(
    checkpoint: Path, rank: int, ranks: int, step: int | None, samples: Sequence[Sample], ended: int | None = None
) -> None:
    """Write one rank's samples for a step, or that there are none (`step` None); `ended` names the step whose drawing
    was ended early.
    """
    folder = checkpoint / FOLDER
    folder.mkdir(exist_ok=True)
    if step is not None:
        rows = [
            {
                "seed": str(sample.request.seed),  # 64 bits without sign, which few readers of parquet expect
                "prompt_ids": list(sample.request.prompt_ids),
                "expected_tokens": sample.request.expected.tokens if sample.request.expected is not None else None,
                **{name: _plain(getattr(sample, name)) for name in _FIELDS},
            }
            for sample in samples
        ]
        write_parquet(folder / f"rank_{rank}.parquet", rows)
    record = {"step": step, "ranks": ranks, "samples": len(samples) if step is not None else 0}
    if ended is not None:
        record["ended"] = ended
    (folder / f"rank_{rank}.json").write_text(json.dumps(record))


def read_drawn(checkpoint: Path, rank: int, ranks: int, step: int, requests: Sequence[Request]) -> list[Sample] | None:
    """This rank's share of the samples of a step, in the order of its requests; None if there were none to write.

    Raises:
        ModelError: there is no whole record, it is of another step, or the samples answer other requests.
    """
    files = _files(checkpoint)
    records = [json.loads(file.read_text()) for file in files]
    if not records or len(records) != records[0]["ranks"]:
        raise ModelError(
            f"{checkpoint}: holds no samples drawn ahead ({len(records)} records) -> it was written with max_staleness"
            " 0, or not whole: resume with max_staleness 0, or from another checkpoint"
        )
    if any(record["step"] is None for record in records):
        return None
    if {record["step"] for record in records} != {step}:
        raise ModelError(f"{checkpoint}: its samples are for step {records[0]['step'] + 1}, not for step {step + 1}")
    everyone = [row for file in files for row in read_parquet(file.with_suffix(".parquet"))]
    share = everyone[rank * len(requests) : (rank + 1) * len(requests)]
    if len(everyone) != ranks * len(requests) or any(
        row["seed"] != str(request.seed) or tuple(row["prompt_ids"]) != request.prompt_ids
        for row, request in zip(share, requests, strict=True)
    ):
        raise ModelError(
            f"{checkpoint}: the samples drawn ahead for step {step + 1} answer other requests than this run makes ->"
            " data, prompts, seed or batch have changed since: resume with what it was started with, or start anew"
        )
    return [_sample(row, request) for row, request in zip(share, requests, strict=True)]


def write_held(checkpoint: Path, engine: Any) -> bool:
    """After every rank has written its record: where one has ended a drawing early, write the weights that the engine
    draws with, so that a resumed run draws the same samples. One process writes.

    Returns:
        False where that was called for and the engine cannot give its weights: a resumed run draws by newer ones.

    Raises:
        ModelError: there is no room.
    """
    if not any("ended" in json.loads(file.read_text()) for file in _files(checkpoint)):
        return True
    held = engine.held_weights() if hasattr(engine, "held_weights") else None
    if held is None:
        return False
    folder = checkpoint / FOLDER / _WEIGHTS
    folder.mkdir(exist_ok=True)
    write_weights(held, folder)
    return True


def read_held(checkpoint: Path, step: int) -> Iterator[tuple[str, torch.Tensor]] | None:
    """The weights that were drawing the samples of a step when that was ended; None if it was not, or if they were not
    written.
    """
    steps = {json.loads(file.read_text()).get("ended") for file in _files(checkpoint)}
    files = sorted((checkpoint / FOLDER / _WEIGHTS).glob("*.safetensors"))
    return read_weights(files) if step in steps and files else None


def _files(checkpoint: Path) -> list[Path]:
    found = (checkpoint / FOLDER).glob("rank_*.json")
    return sorted(found, key=lambda file: int(file.stem.removeprefix("rank_")))


def _plain(value: Any) -> Any:
    if isinstance(value, Stamp):
        return dataclasses.asdict(value)
    return list(value) if isinstance(value, tuple) else value


def _sample(row: dict[str, Any], request: Request) -> Sample:
    values: dict[str, Any] = {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in _FIELDS}
    if values["stamp"] is not None:
        values["stamp"] = Stamp(**values["stamp"])
    if (tokens := row["expected_tokens"]) is not None:
        # What was expected when it was drawn: the predictor has learned since.
        outlook = request.expected.outlook if request.expected is not None else Outlook(())
        request = dataclasses.replace(request, expected=Expected(tokens, outlook))
    return Sample(request=request, **values)
