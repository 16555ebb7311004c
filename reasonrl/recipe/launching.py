"""How a recipe's stages are started: processes, machines, ZeRO, environment, restarts, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.fields import OPERATIONAL, Config, Count, Issue, Name, NonNegativeCount, Positive, Text


class LaunchLimits(Config):
    """Seconds after which a process of a launched stage is taken for lost, and the stage fails naming it.

    Attributes:
        silence: that a process may not be heard of; start: until all have begun, and of all before the first step.
        phase: in any other phase; phases: of single ones (generate, values, critic, actor, work).
    """

    silence: Annotated[Positive, OPERATIONAL] = 300.0
    start: Annotated[Positive, OPERATIONAL] = 7200.0
    phase: Annotated[Positive, OPERATIONAL] = 14400.0
    phases: Annotated[dict[Name, Positive], OPERATIONAL] = Field(default_factory=dict)


class LaunchConfig(Config):
    """How a stage's processes are started.

    Attributes:
        num_processes: of a training stage, over all machines; num_machines: that share them equally.
        env: variables of the processes.
        max_restarts: of a launched stage that failed; it goes on from its last whole checkpoint.
        limits: after how long a process counts as lost.
        server_machines: further machines that only draw, with vLLM servers on them; slurm: options of sbatch by their
            long names. Both mean something to `reasonrl launch` alone.
        deepspeed: `zero1`, `zero2` or `zero3` split optimizer states, gradients and weights over the processes of a
            training stage; or a file of DeepSpeed's settings (JSON). None: every process holds all (DDP).
        fsdp: PyTorch's FSDP2 splits all three: `full_shard` gives a layer's weights back between its forward and its
            backward pass, `shard_grad_op` does not.
    """

    num_processes: Annotated[Count, OPERATIONAL] = 1
    num_machines: Annotated[Count, OPERATIONAL] = 1
    deepspeed: Annotated[Text | None, OPERATIONAL] = None
    fsdp: Annotated[Literal["full_shard", "shard_grad_op"] | None, OPERATIONAL] = None
    env: Annotated[dict[Name, str], OPERATIONAL] = Field(default_factory=dict)
    max_restarts: Annotated[NonNegativeCount, OPERATIONAL] = 0
    limits: LaunchLimits = Field(default_factory=LaunchLimits)
    server_machines: Annotated[NonNegativeCount, OPERATIONAL] = 0
    slurm: Annotated[dict[str, str | int], OPERATIONAL] = Field(default_factory=dict)
    hints: ClassVar[Mapping[str, str]] = {
        "zero": "deepspeed",
        "nproc": "num_processes",
        "nodes": "num_machines",
        "nnodes": "num_machines",
        "num_nodes": "num_machines",
        "restarts": "max_restarts",
        "timeouts": "limits",
        "environment": "env",
    }

    @property
    def splits(self) -> bool:
        """Whether a stage's processes share out what they train."""
        return self.deepspeed is not None or self.fsdp is not None

    @property
    def zero_stage(self) -> int:
        """The stage of ZeRO that says what is split; FSDP's two are the third and the second. 0 for none, or for a
        file of settings.
        """
        return {**ZERO_STAGES, "shard_grad_op": 2, "full_shard": 3}.get(self.deepspeed or self.fsdp or "", 0)

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        name = given.get("deepspeed")
        processes: Any = given.get("num_processes")
        machines: Any = given.get("num_machines")
        issues = []
        counted = [isinstance(count, int) and count > 0 for count in (processes, machines)]
        if all(counted) and processes % machines:
            text = f"is {processes}, which {machines} machines (launch.num_machines) cannot share equally"
            issues.append(Issue("num_processes", text, f"use {-(-processes // machines) * machines}"))
        if given.get("fsdp") is not None:
            issues += _fsdp_problems(given)
        if name is None:
            return issues
        if name not in ZERO_STAGES and not name.endswith(".json"):
            text = f"is {name!r}; allowed: {', '.join(ZERO_STAGES)}, or a file ending in .json"
            issues.append(Issue("deepspeed", text, "use zero3"))
        if given.get("num_processes") == 1:
            text = f"is {name}, but one process has nothing to share out"
            issues.append(Issue("deepspeed", text, "raise launch.num_processes, or remove launch.deepspeed"))
        return issues


def _fsdp_problems(given: Mapping[str, Any]) -> list[Issue]:
    if given.get("deepspeed") is not None:
        text = f"is {given['fsdp']}, and deepspeed is {given['deepspeed']}: only one of them can split"
        return [Issue("fsdp", text, "remove one of them")]
    if given.get("num_processes", 1) == 1:
        text = f"is {given['fsdp']}, but one process has nothing to share out"
        return [Issue("fsdp", text, "raise launch.num_processes, or remove launch.fsdp")]
    return []


#: Names of `launch.deepspeed` that stand for a stage of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054).
ZERO_STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
