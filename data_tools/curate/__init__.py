"""Curation: from sources to a training set, step by step on the disk; every row that goes is counted, with the reason.

    steps = [("rules", rules(characters={"problem": (10, 4000)})), ("deduplicate", deduplicate(0.8))]
    curate(folder, lambda tally: take_in({"math": rows}, tally, folder), steps)

Each step reads a file of rows and writes one, so memory does not grow with the rows beyond a few numbers each.
"""

from reasonrl.data_tools.curate.duplicates import deduplicate
from reasonrl.data_tools.curate.intake import take_in
from reasonrl.data_tools.curate.pictures import PictureRules
from reasonrl.data_tools.curate.rules import keep_when, rules
from reasonrl.data_tools.curate.run import curate
from reasonrl.data_tools.curate.scores import drop_by_loss, drop_by_votes, join_samples, with_columns
from reasonrl.data_tools.curate.spool import Ledger, RowFile
from reasonrl.data_tools.curate.suites import decontaminate
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.data_tools.curate.weighing import mix, stratify

__all__ = [
    "Ledger",
    "PictureRules",
    "RowFile",
    "Tally",
    "curate",
    "decontaminate",
    "deduplicate",
    "drop_by_loss",
    "drop_by_votes",
    "join_samples",
    "keep_when",
    "mix",
    "rules",
    "stratify",
    "take_in",
    "with_columns",
]
