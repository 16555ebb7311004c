"""What a recipe needs on given hardware, by arithmetic: memory per process, tokens, FLOPs, time, placement.

Pure functions of numbers; nothing is loaded or measured. `docs/plan.md` states every formula with what it leaves out.
"""

from reasonrl.plan.hardware import GPUS, Efficiency, Gpu
from reasonrl.plan.memory import Memory, training_memory
from reasonrl.plan.shapes import PUBLIC, ModelShape, shape_of_config
from reasonrl.plan.timing import StepWork, decode_seconds, training_seconds

__all__ = [
    "GPUS",
    "PUBLIC",
    "Efficiency",
    "Gpu",
    "Memory",
    "ModelShape",
    "StepWork",
    "decode_seconds",
    "shape_of_config",
    "training_memory",
    "training_seconds",
]
