"""Trainings of a process reward model, one after the other, under however many processes are started, plain or under
ZeRO; rank 0 writes whole weights and lines. Used by test_prm_ranks.py: `prm_ranks_run.py ZERO FOLDER SETTINGS …`.

ZERO is zero2, zero3, full_shard (FSDP) or none; settings are JSON: `lora` (settings of an adapter), `vision` (a kind
of vision-language model, trained on pictures and text), `fault` (what is planted), `resume`; the rest are PRMConfig's.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))
from prm_runs import SETTINGS, make
from test_prm import examples, fresh
from vision_runs import load

from reasonrl.models import load_tokenizer
from reasonrl.models.lora import Lora
from reasonrl.pipeline.stages.logged import accelerator_for
from reasonrl.trainers import engine
from reasonrl.trainers.fsdp import under_fsdp
from reasonrl.trainers.prm import PRMConfig, PRMTrainer
from reasonrl.trainers.zero import zero_stage

PLAIN = engine.backward
TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def lost(accelerator, model, loss):
    """What the second rank found is lost."""
    PLAIN(accelerator, model, loss * (accelerator.process_index == 0))


def trainer_of(vision, lora, settings, **own):
    if vision:
        return make(vision, torch.float32, lora=lora, **settings, **own)
    model = fresh(torch.float32)
    if lora is not None:
        model.add_lora(lora, seed=3, autocast=False)
    return PRMTrainer(model, load_tokenizer(TINY), PRMConfig(**{**SETTINGS, **settings}), examples(24), **own)


def run_in(out, settings, accelerator):
    resume, lora, vision = (settings.pop(name, None) for name in ("resume", "lora", "vision"))
    engine.backward = lost if settings.pop("fault", None) == "a rank is lost" else PLAIN
    lines = []
    trainer = trainer_of(
        vision,
        None if lora is None else Lora(**lora),
        settings,
        accelerator=accelerator,
        output=out / "run",
        on_metrics=lines.append,
    )
    start = trainer.model.whole_state()
    trainer.train(None if resume is None else Path(resume))
    end = trainer.model.whole_state()
    if accelerator.is_main_process:
        torch.save({"start": start, "end": end}, out / "weights.pt")
        (out / "metrics.json").write_text(json.dumps(lines))


def main():
    zero = None if sys.argv[1] == "none" else sys.argv[1]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    split = zero == "full_shard"
    launch = SimpleNamespace(deepspeed=None if split else zero, fsdp=zero if split else None)
    config = SimpleNamespace(bf16=False, max_grad_norm=0.5, launch=launch)
    context = SimpleNamespace(name="prm", base_directory=Path(), world_size=ranks)
    for settings in sys.argv[3::2]:
        if kind := json.loads(settings).get("vision"):
            load(kind, torch.float32)  # with DeepSpeed's settings made, ZeRO-3 would have it in parts
    accelerator = accelerator_for(config, context, unused=True)
    assert accelerator.num_processes == ranks and under_fsdp(accelerator) == split
    assert zero_stage(accelerator) == (int(zero[-1]) if zero and not split else 0)
    for folder, settings in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        run_in(Path(folder), json.loads(settings), accelerator)


if __name__ == "__main__":
    main()
