"""One rank of a test: the gradient of log-probabilities and entropies under DDP, FSDP or DeepSpeed ZeRO-3, read
through the output layer and from plain logits. Usage: head_ranks.py KIND TIED OUT, under torchrun.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch
import torch.distributed
import transformers
from accelerate import Accelerator

from reasonrl.models import lm_head
from reasonrl.models.lm_head import LogprobReader
from reasonrl.models.weights import full
from reasonrl.trainers.fsdp import fsdp_plugin, is_split, ready_for_fsdp

KIND, TIED, OUT = sys.argv[1], sys.argv[2] == "tied", Path(sys.argv[3])
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def wrapped(model):
    """The model as it is trained."""
    if KIND == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    if KIND == "fsdp":
        accelerator = Accelerator(cpu=True, fsdp_plugin=fsdp_plugin("full_shard"))
        engine, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.5))
        assert is_split(engine) and is_split(engine.lm_head)
        return engine
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def weights(model) -> dict[str, torch.Tensor]:
    gathered = contextlib.nullcontext()
    if KIND == "zero3":
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(model.parameters()))
    with gathered:
        return {name: full(tensor.detach()).clone() for name, tensor in model.named_parameters()}


def train(limit: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Two steps of plain gradient descent on this rank's share; the weights before and afterwards."""
    lm_head.PLAIN_LOGITS = limit
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SIZES, tie_word_embeddings=TIED))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    engine, reader, rank = wrapped(model), LogprobReader(0.7), torch.distributed.get_rank()
    engine.train()
    start = weights(model)
    ids = torch.randint(1, 97, (2, 2, 10), generator=torch.Generator().manual_seed(1))[rank]
    labels = ids.clone()
    labels[:, :3], labels[1, 7:] = -100, -100
    for step in range(2):
        if step == 1 and rank == 1:
            labels[:] = -100  # a rank that has nothing to score
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        logprobs, entropy = reader(engine, labels, inputs, entropy_grad=step == 0)
        loss = -(logprobs.sum() + 0.5 * (entropy.sum() if step == 0 else 0)) / 20
        if KIND in ("ddp", "fsdp"):
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.5 * parameter.grad
                    parameter.grad = None
        else:
            engine.backward(loss)
            engine.step()
    assert (reader._heads[model] is not None) if limit == 0 else not len(reader._heads)
    return start, weights(model)


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    if KIND == "fsdp":
        ready_for_fsdp()
    if KIND == "zero3":
        import deepspeed

        deepspeed.init_distributed("gloo")
    found = [train(limit) for limit in (1 << 62, 0)]
    if torch.distributed.get_rank() == 0:
        torch.save(found, OUT)
    torch.distributed.destroy_process_group()
