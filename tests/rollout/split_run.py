"""Two ranks whose parameters are split: what `checkpoint_weights` and `adapter_weights` hand over on each of them, and
how much is held whole meanwhile. Used by test_split_weights.py; `zero3` or `fsdp2` says how.
"""

from __future__ import annotations

import sys
import weakref
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(Path(__file__).parent))
from vllm_help import small_policy

from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout.adapters import adapter_weights, base_weights
from reasonrl.rollout.transformers_copy import TransformersCopyEngine


def policy(adapter: bool):
    model, tokenizer = small_policy(tied=True)
    if adapter:
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "down_proj"]))
        generator = torch.Generator().manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    return model, tokenizer


def split(model, how: str):
    if how == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        for layer in inner.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return
    import deepspeed

    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    deepspeed.initialize(model=model, config=settings, optimizer=torch.optim.SGD(trained, lr=0.1))


def whole_now(model, how: str) -> int:
    """Parameters that are whole on this rank now."""
    if how == "fsdp2":
        return sum(not isinstance(parameter.data, dist.tensor.DTensor) for parameter in model.parameters())
    return sum(parameter.ds_status.name == "AVAILABLE" for parameter in model.parameters())


def compare(model, expected: dict, weights, how: str) -> None:
    """Name by name, and nothing but the tensor that was yielded is held whole."""
    seen, alive, tensor = set(), [], None
    for name, tensor in weights:
        assert tensor.shape == expected[name].shape, (name, tensor.shape)
        assert torch.allclose(tensor, expected[name], atol=1e-6, rtol=0), name
        alive.append(weakref.ref(tensor))
        seen.add(name)
        assert whole_now(model, how) == 0, f"gathered parameters are still there while {name} is read"
        assert sum(reference() is not None for reference in alive) <= 2, "more than this tensor and the one before"
    assert seen == expected.keys(), seen ^ expected.keys()


def main(how: str) -> None:
    if how == "zero3":
        import deepspeed

        deepspeed.init_distributed("gloo")
    else:
        dist.init_process_group("gloo")
    import torch.distributed.device_mesh

    dist.init_device_mesh = torch.distributed.device_mesh.init_device_mesh
    for adapter in (False, True):
        reference, tokenizer = policy(adapter)
        wholes = {name: t.detach().clone() for name, t in checkpoint_weights(reference)}
        model, _ = policy(adapter)
        split(model, how)
        sizes = [getattr(p, "ds_tensor", p.data).numel() for p in model.parameters()]
        local = sum(p.to_local().numel() for p in model.parameters()) if how == "fsdp2" else sum(sizes)
        assert local < 0.6 * sum(p.numel() for p in reference.parameters()), "nothing was split"
        compare(model, wholes, checkpoint_weights(model), how)
        engine = TransformersCopyEngine(small_policy(tied=True, seed=5)[0], tokenizer)
        engine.sync_weights(checkpoint_weights(model), 3)
        own = dict(engine.model.named_parameters())
        assert engine.weight_version == 3 and all(torch.allclose(own[n], wholes[n], atol=1e-6) for n in wholes)
        if adapter:
            compare(model, dict(base_weights(reference)), base_weights(model), how)
            compare(model, dict(adapter_weights(reference)), adapter_weights(model), how)
    dist.barrier()
    print(f"rank {dist.get_rank()}: equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
