"""Annotation of solutions with step labels: streams in and out, in shards that outlive kills."""

from reasonrl.prm.annotation.labelling import Assembly
from reasonrl.prm.annotation.rows import Reading, Unusable
from reasonrl.prm.annotation.run import Batch, JudgeSpec, Measure, Summary, annotate
from reasonrl.prm.annotation.store import Folder, Shards

__all__ = [
    "Assembly",
    "Batch",
    "Folder",
    "JudgeSpec",
    "Measure",
    "Reading",
    "Shards",
    "Summary",
    "Unusable",
    "annotate",
]
