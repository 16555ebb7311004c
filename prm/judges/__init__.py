"""Judges of steps: who says of every step of a solution whether it is right."""

from reasonrl.prm.judges.base import JUDGES, Judge, Judged, Solution, Task, Usage, build_judge
from reasonrl.prm.judges.endpoint import EndpointJudge, read_steps
from reasonrl.prm.judges.known import FunctionJudge, NoisyJudge, OracleJudge

__all__ = [
    "JUDGES",
    "EndpointJudge",
    "FunctionJudge",
    "Judge",
    "Judged",
    "NoisyJudge",
    "OracleJudge",
    "Solution",
    "Task",
    "Usage",
    "build_judge",
    "read_steps",
]
