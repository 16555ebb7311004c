"""`reasonrl export`: a finished stage's model, critic or adapter as a folder to give away: sharded safetensors and a
model card; pushed to the hub where asked.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.pipeline.directory import CONFIG, RunDirectory
from reasonrl.pipeline.files import write_text
from reasonrl.pipeline.model_card import model_card

PARTS = ("model", "critic", "adapter")
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def export_stage(
    run: Path,
    stage: str,
    target: Path,
    say: Callable[[str], None],
    *,
    part: str = "model",
    max_shard_size: str = "5GB",
    push: str | None = None,
    private: bool = True,
) -> Path:
    """Write a stage's `part` to `target` (new or empty), and push it.

    Args:
        run: the run directory.
        stage: a finished stage that made the part: a policy, a critic, a process reward model, an adapter.
        target: the folder.
        say: takes lines.
        part: of `PARTS`.
        max_shard_size: of one file of weights, as huggingface_hub writes sizes.
        push: a hub id, `owner/name`; None pushes nothing.
        private: whether a new repository there is.

    Raises:
        RunError: the stage is not done or made no such part, the target is not empty, or the hub refuses.
    """
    source = _source(run, stage, part)
    if target.exists() and any(target.iterdir()):
        raise RunError(f"{target} is not empty -> name a new folder")
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.copytree(source, staging, ignore=lambda folder, names: [one for one in names if one.endswith(_WEIGHTS)])
    files = reshard(source, staging, max_shard_size)
    write_text(staging / "README.md", model_card(run, stage, part, _record(run, stage)))
    if target.exists():
        target.rmdir()
    staging.rename(target)
    say(f"wrote {target}: {files} file{'' if files == 1 else 's'} of weights, README.md with the model card")
    if push is not None:
        _push(target, push, private, say)
    return target


def _record(run: Path, stage: str) -> dict[str, Any]:
    done = RunDirectory(run).stage(stage).path / "done.json"
    try:
        record: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{done} cannot be read: stage {stage!r} of {run} is not done -> finish it first") from error
    return record


def _source(run: Path, stage: str, part: str) -> Path:
    if not (run / CONFIG).is_file():
        raise RunError(f"{run} is no run directory -> name the folder that holds {CONFIG}")
    folder = RunDirectory(run).stage(stage)
    if not folder.path.is_dir():
        there = sorted(path.name for path in (run / "stages").iterdir() if path.is_dir())
        raise RunError(f"{run} has no stage {stage!r}; stages: {', '.join(there)}")
    _record(run, stage)
    done = folder.read_done()
    made = None if done is None else {"model": done.result.model, "critic": done.result.critic}.get(part)
    if part == "adapter" and done is not None:
        made = (done.shared_from or folder.path) / "adapter"
    if made is None or not made.is_dir():
        raise RunError(f"stage {stage!r} made no {part} -> --part one of {', '.join(PARTS)} that it made")
    return made


def reshard(source: Path, target: Path, max_shard_size: str) -> int:
    """Copy a checkpoint's weights into files of at most this size with an index; gives how many files there are.

    One file is in memory at a time. Raises RunError where there are no safetensors.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors import safe_open
    from safetensors.torch import save_file

    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise RunError(f"{source} holds no safetensors")
    if len(files) == 1 and files[0].name != "model.safetensors":  # an adapter: its name is what peft looks for
        shutil.copy2(files[0], target / files[0].name)
        return 1
    import torch

    place: dict[str, Path] = {}
    shapes: dict[str, Any] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                place[name] = file
                shapes[name] = opened.get_tensor(name).to(torch.device("meta"))
    # Tensors on the meta device share no storage, so that none is taken for a copy of another.
    plan = split_torch_state_dict_into_shards(
        shapes, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for filename, names in plan.filename_to_tensors.items():
        held = {}
        for name in names:
            with safe_open(place[name], framework="pt") as opened:
                held[name] = opened.get_tensor(name)
        save_file(held, target / filename, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_text(target / "model.safetensors.index.json", json.dumps(index, indent=2, sort_keys=True) + "\n")
    return len(plan.filename_to_tensors)


def _push(folder: Path, name: str, private: bool, say: Callable[[str], None]) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        place = api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="reasonrl export")
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fix = f"log in (hf auth login, or HF_TOKEN), or push {folder} by hand"
        raise RunError(f"{name}: the hub did not take it: {reason} -> {fix}") from error
    say(f"pushed to {place}")
