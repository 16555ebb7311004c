"""Samples kept for training: drawn or read from logs, verified, grouped by problem, in one parquet file."""

from reasonrl.eval.rollouts.collecting import SAMPLES_FOLDER, Collected, collect, finish
from reasonrl.eval.rollouts.importing import import_logs
from reasonrl.eval.rollouts.rows import COLUMNS, ROLLOUTS

__all__ = ["COLUMNS", "ROLLOUTS", "SAMPLES_FOLDER", "Collected", "collect", "finish", "import_logs"]
