"""What stages that train on logged samples share: the rows as they stand on the disk, and the processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RunError
from reasonrl.pipeline.context import StageContext
from reasonrl.pipeline.stages.common import load_source

if TYPE_CHECKING:
    from reasonrl.data_tools.files import PlacedRow
    from reasonrl.recipe import DataSource, Reference


def placed_rows(source: DataSource | Reference, context: StageContext) -> Iterable[PlacedRow]:
    """(place, row) of a source, row by row from its files as they stand there; a source that is filtered or shuffled is
    read whole.
    """
    from reasonrl.data_tools.files import read_paths
    from reasonrl.recipe import Reference

    if isinstance(source, Reference):
        return read_paths(context.data_of(source), None, None, None)
    if isinstance(source.path, Reference) or source.path is None or source.keep or source.shuffle or source.columns:
        rows = load_source(source, context, ("problem",)).rows
        return ((f"{rows.report.source}: row {number}", row) for number, row in enumerate(rows, start=1))
    path = list(source.path) if isinstance(source.path, tuple) else source.path
    return itertools.islice(read_paths(path, source.format, source.split, context.base_directory), source.limit)


def accelerator_for(config: Any, context: StageContext, *, unused: bool = False) -> Any:
    """The processes of a stage that makes its own loop: plain, DDP, DeepSpeed or FSDP.

    Args:
        config: the stage's: `bf16`, `max_grad_norm`, `launch`.
        context: of the stage.
        unused: whether some parameters may be left without a gradient.
    """
    import torch
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    precision = "bf16" if config.bf16 else "no"
    if config.launch.deepspeed is not None:
        from accelerate.utils import DeepSpeedPlugin, InitProcessGroupKwargs

        from reasonrl.trainers.zero import deepspeed_settings, ready_for_deepspeed

        ready_for_deepspeed()
        settings = deepspeed_settings(config.launch.deepspeed, context.base_directory)
        settings |= {"bf16": {"enabled": config.bf16}, "gradient_clipping": config.max_grad_norm}
        settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        # Without an accelerator, accelerate finds no way to talk by itself and would have each process train alone.
        talk = [] if torch.cuda.is_available() else [InitProcessGroupKwargs(backend="gloo")]
        plugin = DeepSpeedPlugin(hf_ds_config=settings)
        made = Accelerator(mixed_precision=precision, deepspeed_plugin=plugin, kwargs_handlers=talk)
        if made.num_processes != context.world_size:
            raise RunError(
                f"stage {context.name!r}: DeepSpeed sees {made.num_processes} processes, and {context.world_size} were"
                " started -> start the stage by its recipe (launch.num_processes)"
            )
        return made
    if config.launch.fsdp is not None:
        from reasonrl.trainers.fsdp import fsdp_plugin, ready_for_fsdp

        ready_for_fsdp()
        return Accelerator(
            cpu=not torch.cuda.is_available(), mixed_precision=precision, fsdp_plugin=fsdp_plugin(config.launch.fsdp)
        )
    keywords = DistributedDataParallelKwargs(find_unused_parameters=unused)
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, kwargs_handlers=[keywords])
