"""Training on logged samples, run after run, under however many processes are started, plain or under ZeRO.

Rank 0 writes whole weights and lines. Used by test_bcpg_ranks.py: `bcpg_ranks_run.py ZERO FOLDER SETTINGS …`; ZERO is
zero2, zero3, full_shard (FSDP) or none; settings are JSON: `lora`, `double` (float64), `fault`, `resume`; the rest are
BCPGConfig's.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))
from logged_world import TINY, make, read, sample_rows

from reasonrl.models import load_tokenizer
from reasonrl.models.lora import Lora, whole_state
from reasonrl.pipeline.stages.logged import accelerator_for
from reasonrl.trainers import bcpg
from reasonrl.trainers.fsdp import under_fsdp
from reasonrl.trainers.zero import zero_stage


def run_in(out, settings, accelerator):
    out.mkdir(parents=True, exist_ok=True)
    lora, resume, fault = (settings.pop(name, None) for name in ("lora", "resume", "fault"))
    dtype = torch.float64 if settings.pop("double", False) else torch.float32
    tokenizer = load_tokenizer(TINY)
    data = read(sample_rows(tokenizer), tokenizer)
    plain = bcpg.logged_loss
    if fault and accelerator.process_index:
        # What the second process finds is a little off.
        bcpg.logged_loss = lambda a, b, c, d, e, share, **o: plain(a, b, c, d, e, share * (1 + 1e-4), **o)
    trainer, lines = make(
        out,
        data,
        dtype,
        None if lora is None else Lora(**lora),
        accelerator,
        output=out / "checkpoints",
        tokens_per_microbatch=60,
        **settings,
    )
    start = whole_state(trainer.model)
    trainer.train(Path(resume) if resume else None)
    end = whole_state(trainer.model)
    bcpg.logged_loss = plain
    if accelerator.is_main_process:
        torch.save({"start": start, "end": end}, out / "weights.pt")
        (out / "lines.json").write_text(json.dumps(lines))
    accelerator.wait_for_everyone()


def main():
    zero = None if sys.argv[1] == "none" else sys.argv[1]
    split = zero == "full_shard"
    launch = SimpleNamespace(deepspeed=None if split else zero, fsdp=zero if split else None)
    config = SimpleNamespace(bf16=False, max_grad_norm=0.5, launch=launch)
    context = SimpleNamespace(base_directory=Path(), name="ranks", world_size=int(os.environ.get("WORLD_SIZE", "1")))
    accelerator = accelerator_for(config, context)
    assert zero_stage(accelerator) == (int(zero[-1]) if zero and not split else 0)
    assert under_fsdp(accelerator) == split
    for folder, settings in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        run_in(Path(folder), json.loads(settings), accelerator)


if __name__ == "__main__":
    main()
