"""Tiny vision-language models learn to see: random weights do not settle on the best answer without looking."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from reasonrl.data_tools.worlds import get_world
from reasonrl.models import load_policy, load_processor
from reasonrl.rollout.picture_prompts import PicturePrompts
from reasonrl.trainers.picture_collator import PictureCollator

# The size of the pictures at which a cell of the 4 x 4 field is at most a token: fast, and nothing is scaled away.
KINDS = {"tiny:llava": 56, "tiny:qwen2_5_vl": 112, "tiny:idefics3": 64}
STEPS, BATCH = 90, 24


def batch_of(name: str) -> tuple[dict[str, torch.Tensor], float]:
    """Pictures with one to four circles and the boxed number; and the least loss without seeing them."""
    processor = load_processor(name)
    prompts = PicturePrompts(processor)
    rows = get_world("visual").rows(BATCH, kinds="count", difficulty=1, size=KINDS[name])
    examples = []
    for row in rows:
        ids = list(prompts.prompt({**row, "prompt": row["problem"]}).ids)
        written = processor.tokenizer.encode(f"{row['solution']}<|im_end|>")
        assert len(written) == 4, "box, digit, brace and end: only the digit has to be seen"
        examples.append({"input_ids": ids + written, "labels": [-100] * len(ids) + written, "pictures": row["images"]})
    shares = [count / len(rows) for count in Counter(row["answer"] for row in rows).values()]
    return PictureCollator(prompts)(examples), -sum(share * math.log(share) for share in shares) / 4


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_what_only_the_pictures_tell(name):
    batch, blind = batch_of(name)
    model, _ = load_policy(name)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    least = math.inf
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 10)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        least = min(least, loss.item())
        if least < blind / 2:
            break
    assert least < blind / 2, f"after {step + 1} steps the loss is {least:.3f}; without seeing it can be {blind:.3f}"
    # Text alone cannot have told: the rows are equal but for the picture.
    turned = {key: torch.roll(value, len(value) // 2, 0) if "pixel" in key else value for key, value in batch.items()}
    with torch.no_grad():
        assert model(**turned).loss > blind
