"""Reading data: rows from files, hub datasets and synthetic worlds, and the one place where a prompt becomes text.

rows = load_rows("train.jsonl", columns={"problem": "question"}, keep="solve_rate < 0.9", limit=1000)
print(rows.report)                                  # what was kept, and what was set aside and why
ids = prompt_ids(tokenizer, as_messages(rows[0]))   # what SFT, rollouts and evaluation all feed the model
"""

from reasonrl.data_tools.loading import Rows, load_rows
from reasonrl.data_tools.prompts import as_messages, prompt_ids, render_prompt
from reasonrl.data_tools.report import RowReport

__all__ = ["RowReport", "Rows", "as_messages", "load_rows", "prompt_ids", "render_prompt"]
