"""Log-probabilities of a reference, read once and kept on the disk: what training on logged samples holds to.

They are at temperature 1, whatever the samples were drawn at: a constraint, not an importance weight.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator

from reasonrl.errors import DataError
from reasonrl.trainers.logged_rows import LoggedSample

ABOUT = "about.json"
#: Tokens of one file.
FILE_TOKENS = 1 << 22

#: Log-probabilities of the response tokens of some samples, one tensor each; with every rank together.
Read = Callable[[Sequence[int]], list[torch.Tensor]]


class ReferenceLogprobs:
    """Log-probabilities of the samples' response tokens, in files of many samples each.

    Args:
        directory: of the files.
        samples: what is read, in this order.
        made_by: what changes the numbers besides the samples: the model's name, its precision.
        accelerator: shares the files out over the processes.
        file_tokens: of one file, more or less.
    """

    def __init__(
        self,
        directory: Path,
        samples: Sequence[LoggedSample],
        made_by: dict[str, Any],
        accelerator: Accelerator,
        file_tokens: int = FILE_TOKENS,
    ) -> None:
        self.directory, self.accelerator, self.samples = directory, accelerator, samples
        self.parts = _parts([len(sample.completion_ids) for sample in samples], file_tokens)
        self.about = {**made_by, "samples": _digest(samples), "files": len(self.parts)}
        self._place: dict[int, tuple[int, int]] = {}
        for number, part in enumerate(self.parts):
            lengths = [len(samples[row].completion_ids) for row in part]
            for row, start in zip(part, itertools.accumulate(lengths, initial=0), strict=False):
                self._place[row] = (number, start)
        self._files: dict[int, numpy.ndarray] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the files that are not there yet."""
        return [number for number in range(len(self.parts)) if not self._path(number).is_file()]

    def make(self, read: Read, report: Callable[[int, int], None] = lambda done, total: None) -> int:
        """Read what is missing; all processes call it. Returns how many files were made here and now, by all of them.

        Args:
            read: of some samples; every process calls it equally often.
            report: is told files done and in all, on every process.

        Raises:
            DataError: the reference gives a sample a log-probability that is no finite number.
        """
        if self.accelerator.is_main_process:
            self._begin()
        self.accelerator.wait_for_everyone()
        missing, world = self.missing, self.accelerator.num_processes
        self.accelerator.wait_for_everyone()  # nobody writes before everybody has looked
        for first in range(0, len(missing), world):
            turn = missing[first : first + world]
            # A process without a file of its own reads along: parts of a model may be with the others.
            own = self.accelerator.process_index
            mine = turn[own] if own < len(turn) else None
            found = read(self.parts[mine] if mine is not None else [])
            if mine is not None:
                self._write(mine, found)
            report(len(self.parts) - len(missing) + first + len(turn), len(self.parts))
        self.accelerator.wait_for_everyone()
        return len(missing)

    def rows(self, places: Sequence[int], width: int) -> torch.Tensor:
        """(B, width) of some samples, zero beyond their ends, on the CPU."""
        found = [self[place] for place in places]
        out = torch.zeros((len(places), width), dtype=torch.from_numpy(found[0][:0].copy()).dtype)
        for row, values in enumerate(found):
            out[row, : len(values)] = torch.from_numpy(values.copy())
        return out

    def __getitem__(self, place: int) -> numpy.ndarray:
        """(T,) of one sample."""
        number, start = self._place[place]
        if number not in self._files:
            self._files[number] = numpy.load(self._path(number), mmap_mode="r")
        return self._files[number][start : start + len(self.samples[place].completion_ids)]

    def _begin(self) -> None:
        about = self.directory / ABOUT
        if about.is_file() and json.loads(about.read_text()) == self.about:
            return
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        about.write_text(json.dumps(self.about))

    def _write(self, number: int, found: Sequence[torch.Tensor]) -> None:
        part = self.parts[number]
        for row, values in zip(part, found, strict=True):
            if not bool(torch.isfinite(values).all()):
                at = int((~torch.isfinite(values)).nonzero()[0])
                raise DataError(
                    f"bcpg: the reference gives token {at} of sample {self.samples[row].id!r} the log-probability"
                    f" {float(values[at])} -> is it the model that drew the samples?"
                )
        values = torch.cat([v.cpu() for v in found])
        array = values.numpy() if values.dtype == torch.float64 else values.float().numpy()
        staging = self.directory / f".{number}.partial.npy"
        numpy.save(staging, array)
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(self._path(number))

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:05d}.npy"


def _parts(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Samples in their order, in runs of about so many tokens."""
    parts: list[list[int]] = []
    room = 0
    for place, length in enumerate(lengths):
        if not parts or room < length:
            parts.append([])
            room = tokens
        parts[-1].append(place)
        room -= length
    return parts


def _digest(samples: Sequence[LoggedSample]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for sample in samples:
        digest.update(f"{sample.id}/{len(sample.prompt_ids)}/{len(sample.completion_ids)}/".encode())
        digest.update(sample.prompt_ids.tobytes() + sample.completion_ids.tobytes())
    return digest.hexdigest()
