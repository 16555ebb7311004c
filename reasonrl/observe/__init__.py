"""Watching a run: metrics lines, completions on disk, progress, pictures, the HTML report, trackers, the run listing.

Nothing heavy is imported here: matplotlib, jinja2, pyarrow and rich come in when a function that needs them is called.
"""

from reasonrl.observe.completions import CompletionsWriter, completion_files, read_parquet, write_parquet
from reasonrl.observe.metrics import (
    TIME_FIELDS,
    TIME_PREFIXES,
    MetricsWriter,
    format_number,
    format_seconds,
    is_time_field,
    read_metrics,
    step_line,
    write_atomically,
)
from reasonrl.observe.progress import Progress
from reasonrl.observe.trackers import Trackers

__all__ = [
    "TIME_FIELDS",
    "TIME_PREFIXES",
    "CompletionsWriter",
    "MetricsWriter",
    "Progress",
    "Trackers",
    "completion_files",
    "format_number",
    "format_seconds",
    "is_time_field",
    "read_metrics",
    "read_parquet",
    "step_line",
    "write_atomically",
    "write_parquet",
]
