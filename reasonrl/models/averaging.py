"""The average of checkpoints, made file by file and piece by piece (Wortsman et al. 2022, arXiv 2203.05482).

Sums are in fp64; what is written has the kind of numbers that the first checkpoint has. LoRA adapters are averaged as
what they add to the base, sum_i w_i s_i B_i A_i: the mean of the factors A and B would be another model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasonrl.errors import ModelError
from reasonrl.models.tensor_files import INDEX, SINGLE, Checkpoint, TensorInfo, write_tensors

PIECE = 1 << 20
"""Numbers that are worked on at a time."""
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_OF_TRAINING = {"trainer_state.json", "complete.json", ADAPTER_CONFIG, "done.json", INDEX}
_TOGETHER = {".json", ".txt", ".model", ".jinja"}


def ema_weights(count: int, decay: float) -> list[float]:
    """Weights of the exponential moving average that starts at the first of `count` models: d^(n-1) for it,
    (1 - d) d^(n-1-i) for the i-th after it (from 0). They sum to 1.
    """
    return (
        [decay ** (count - 1) * (1.0 if i == 0 else (1 - decay) / decay**i) for i in range(count)]
        if decay
        else [float(i == count - 1) for i in range(count)]
    )


@dataclass(frozen=True)
class Averaged:
    """What an average is made of.

    Attributes:
        tensors, numbers: written.
        spread: root of the weighted mean squared distance of the models to their mean, over the mean's norm: how far
            apart they lie. NaN for files that an earlier attempt had made.
    """

    tensors: int
    numbers: int
    spread: float


class Average:
    """The weighted mean of checkpoints of one architecture.

    Args:
        folders: of the models, or of LoRA adapters over one base; not both.
        weights: one a model, none negative; they are divided by their sum. None counts all alike.
        base: folder of the model under the adapters; only for these.

    Raises:
        ModelError: a folder has no safetensors weights, or they do not fit together; the tensor is named.
    """

    def __init__(
        self, folders: Sequence[Path], weights: Sequence[float] | None = None, base: Path | None = None
    ) -> None:
        given = [1.0] * len(folders) if weights is None else [float(weight) for weight in weights]
        if (
            not folders
            or len(given) != len(folders)
            or min(given) < 0
            or not math.isfinite(sum(given))
            or not sum(given)
        ):
            raise ModelError(f"average: {len(folders)} models with the weights {given} -> one a model, not all 0")
        kinds = {is_adapter(folder) for folder in folders}
        if len(kinds) > 1:
            raise ModelError("average: some models are LoRA adapters and some are whole -> average one kind")
        self.folders, self.weights, self.total = list(folders), given, math.fsum(given)
        self.adapters: Adapters | None = None
        self.models: list[Checkpoint] = []
        if kinds == {True}:
            if base is None:
                raise ModelError(f"average: {folders[0]} is a LoRA adapter -> name the model under it: base: …")
            self.like, self.home = Checkpoint(base), base
            self.adapters = Adapters(self.folders, [weight / self.total for weight in given], self.like)
        else:
            self.models = [Checkpoint(folder) for folder in folders]
            self.like, self.home = self.models[0], self.folders[-1]
            self._check()

    def _check(self) -> None:
        for model in self.models[1:]:
            missing = sorted(set(self.like.where) ^ set(model.where))
            if missing:
                raise ModelError(
                    f"average: {missing[0]!r} is in one of {self.like.folder} and {model.folder} only"
                    f" ({len(missing)} such) -> average checkpoints of one model"
                )
            for name in self.like.where:
                ours, theirs = self.like.info(name), model.info(name)
                if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                    raise ModelError(
                        f"average: {name!r} is {ours.dtype} {list(ours.shape)} in {self.like.folder} and {theirs.dtype}"
                        f" {list(theirs.shape)} in {model.folder} -> average checkpoints of one model"
                    )

    @property
    def shards(self) -> list[str]:
        """Names of the files that are written."""
        return self.like.shards

    def numbers(self) -> int:
        """Numbers in the model."""
        return sum(self.like.info(name).count for name in self.like.where)

    def write(self, target: Path, *, report: Callable[[int, int], None] | None = None) -> Averaged:
        """Write the mean into a folder; files that are there already are kept, for they were written whole.

        Args:
            target: an existing folder.
            report: called with files done and files in all.
        """
        squares = torch.zeros(2, dtype=torch.float64)
        missing = False
        for done, shard in enumerate(self.shards):
            if (target / shard).is_file():
                missing = True
            else:
                file = self.like.files[shard]
                order = dict(sorted(file.tensors.items(), key=lambda item: item[1].start))
                pieces = (piece for name, info in order.items() for piece in self._tensor(name, info, squares))
                write_tensors(target / shard, order, file.metadata, pieces)
            if report is not None:
                report(done + 1, len(self.shards))
        if len(self.shards) > 1 or self.shards[0] != SINGLE:
            shutil.copyfile(self.like.folder / INDEX, target / INDEX)
        self._copy_about(target)
        spread = math.sqrt(max(0.0, float(squares[0] / squares[1]))) if float(squares[1]) else 0.0
        return Averaged(len(self.like.where), self.numbers(), math.nan if missing else spread)

    def _copy_about(self, target: Path) -> None:
        """Config, tokenizer and the like, of the last model; of the base for adapters."""
        for path in sorted(self.home.iterdir()):
            if path.is_file() and path.suffix in _TOGETHER and path.name not in _OF_TRAINING:
                shutil.copyfile(path, target / path.name)

    def _tensor(self, name: str, info: TensorInfo, squares: torch.Tensor) -> Iterator[torch.Tensor]:
        width = max(1, info.shape[-1]) if self.adapters is not None and len(info.shape) == 2 else 1
        step = max(width, PIECE // width * width)
        for start in range(0, info.count, step):
            count = min(step, info.count - start)
            if self.adapters is not None:
                yield self.adapters.piece(name, info, start, count)
            else:
                yield self._mean(name, start, count, squares)

    def _mean(self, name: str, start: int, count: int, squares: torch.Tensor) -> torch.Tensor:
        first = self.like.read(name, start, count)
        if not first.is_floating_point():
            for model in self.models[1:]:
                if not torch.equal(first, model.read(name, start, count)):
                    raise ModelError(
                        f"average: {name!r} holds whole numbers, which differ between {self.like.folder} and"
                        f" {model.folder} -> leave one out"
                    )
            return first
        mean = torch.zeros(count, dtype=torch.float64)
        second = 0.0
        for model, weight in zip(self.models, self.weights, strict=True):
            piece = model.read(name, start, count).double()
            if not bool(torch.isfinite(piece).all()):
                raise ModelError(f"average: {name!r} of {model.folder} is not finite -> leave that one out")
            mean.add_(piece, alpha=weight)
            second += weight / self.total * float(piece.dot(piece))
        mean /= self.total
        length = float(mean.dot(mean))
        squares += torch.tensor([second - length, length], dtype=torch.float64)
        return mean.to(first.dtype)

    def close(self) -> None:
        """Close all files."""
        for model in (*self.models, self.like):
            model.close()
        if self.adapters is not None:
            self.adapters.close()


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no whole model."""
    return (folder / ADAPTER).is_file() and not (folder / SINGLE).is_file() and not (folder / INDEX).is_file()


def adapter_base(folder: Path) -> str | None:
    """Path or id of the model under an adapter, as its own config names it."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    name = config.get("base_model_name_or_path")
    return str(name) if name else None


class Adapters:
    """What several LoRA adapters add to the weights of their base, on average.

    Args:
        folders, weights: of the adapters; the weights sum to 1.
        base: the model under them.
    """

    def __init__(self, folders: Sequence[Path], weights: Sequence[float], base: Checkpoint) -> None:
        self.base, self.weights = base, list(weights)
        self.files = [Checkpoint(folder, ADAPTER) for folder in folders]
        self.scales = [_scaling(folder) for folder in folders]
        self.transposed = any(scale.transposed for scale in self.scales)
        self.pairs: dict[str, str] = {}
        self.replaced: dict[str, str] = {}
        for name in self.files[0].where:
            path = name.removeprefix(_PREFIX)
            if path.endswith(".lora_A.weight"):
                self.pairs[on_disk(path.removesuffix(".lora_A.weight") + ".weight", base)] = name
            elif not path.endswith(".lora_B.weight"):
                if "lora_" in path:
                    raise ModelError(f"average: {name!r} is no matrix of plain LoRA -> merge such adapters beforehand")
                self.replaced[on_disk(path, base)] = name
        for file in self.files[1:]:
            differing = sorted(set(file.where) ^ set(self.files[0].where))
            if differing:
                raise ModelError(
                    f"average: the adapters {self.files[0].folder} and {file.folder} differ in {differing[0]!r} ->"
                    " average adapters of one run"
                )

    def piece(self, name: str, info: TensorInfo, start: int, count: int) -> torch.Tensor:
        """Whole rows of a weight with what the adapters add to it."""
        kept = self.base.read(name, start, count)
        if name in self.replaced:
            mean = torch.zeros(count, dtype=torch.float64)
            for file, weight in zip(self.files, self.weights, strict=True):
                mean.add_(file.read(self.replaced[name], start, count).double(), alpha=weight)
            return mean.to(kept.dtype)
        if name not in self.pairs:
            return kept
        rows, width = count // info.shape[1], info.shape[1]
        total = kept.double().view(rows, width)
        for file, weight, scale in zip(self.files, self.weights, self.scales, strict=True):
            total += weight * self._product(file, self.pairs[name], scale, (start // width, rows))
        return total.view(-1).to(kept.dtype)

    def _product(self, file: Checkpoint, left: str, scale: _Scaling, rows: tuple[int, int]) -> torch.Tensor:
        """Some rows of s B A, in fp64."""
        right = left.replace(".lora_A.weight", ".lora_B.weight")
        a_info, b_info = file.info(left), file.info(right)
        a = file.read(left, 0, a_info.count).double().view(a_info.shape)
        first, count = rows
        if scale.transposed:
            b = file.read(right, 0, b_info.count).double().view(b_info.shape)
            return scale.of(a_info.shape[0]) * (b @ a).T[first : first + count]
        rank = b_info.shape[1]
        b = file.read(right, first * rank, count * rank).double().view(count, rank)
        return scale.of(a_info.shape[0]) * (b @ a)

    def close(self) -> None:
        """Close the adapters' files."""
        for file in self.files:
            file.close()


@dataclass(frozen=True)
class _Scaling:
    alpha: float
    rank_stabilised: bool
    transposed: bool

    def of(self, rank: int) -> float:
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _scaling(folder: Path) -> _Scaling:
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    strange = [key for key in ("use_dora", "alpha_pattern", "lora_bias") if config.get(key)]
    if config.get("bias", "none") != "none":
        strange.append("bias")
    if strange:
        raise ModelError(f"average: the adapter {folder} has {strange[0]} -> merge it beforehand")
    return _Scaling(float(config["lora_alpha"]), bool(config.get("use_rslora")), bool(config.get("fan_in_fan_out")))


def on_disk(path: str, base: Checkpoint) -> str:
    """The name in a checkpoint of a module's weight: transformers writes some models under the names of their first
    release, which agree from the layer on.

    Raises:
        ModelError: none fits, or several.
    """
    if path in base.where:
        return path
    parts = path.split(".")
    for first in range(1, len(parts) - 1):
        ending = "." + ".".join(parts[first:])
        found = [name for name in base.where if ("." + name).endswith(ending)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ModelError(f"average: {path!r} may be {' or '.join(sorted(found)[:2])} of {base.folder} -> merge it")
    raise ModelError(f"average: {base.folder} has no weight {path!r}, which the adapter changes -> is it its base?")
