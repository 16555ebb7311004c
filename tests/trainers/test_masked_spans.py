"""Spans of a solution that the loss leaves out, token by token."""

from __future__ import annotations

import pytest

from reasonrl.data_tools.prompts import as_messages, prompt_ids, render_prompt
from reasonrl.data_tools.worlds import get_world
from reasonrl.errors import DataError
from reasonrl.models import load_processor, load_tokenizer
from reasonrl.rollout.picture_prompts import PicturePrompts
from reasonrl.trainers.sft import build_examples


def examples_of(rows, tokenizer, pictures=None):
    return build_examples(
        rows,
        tokenizer,
        messages_of=lambda row: as_messages(row, None, None),
        render=render_prompt,
        prompt_ids=prompt_ids,
        max_length=None,
        completion_only_loss=True,
        pictures=pictures,
    ).rows


@pytest.mark.parametrize("name", ["tiny:qwen2", "tiny:qwen2_5_vl"])
def test_planted_misreads_are_left_out_and_nothing_else(name):
    rows = get_world("grid").rows(60, mix="path/text", misread=0.6)
    pictured = load_processor(name) if "vl" in name else None
    tokenizer = load_tokenizer(name) if pictured is None else pictured.tokenizer
    masked = examples_of(rows, tokenizer, pictured and PicturePrompts(pictured))
    plain = examples_of([{**row, "masked": []} for row in rows], tokenizer, pictured and PicturePrompts(pictured))
    planted = 0
    for row, one, other in zip(rows, masked, plain, strict=True):
        assert one["input_ids"] == other["input_ids"]
        out = [place for place, (a, b) in enumerate(zip(one["labels"], other["labels"], strict=True)) if a != b]
        assert len(out) == len(row["masked"])
        for place, (start, _) in zip(out, row["masked"], strict=True):
            assert one["labels"][place] == -100
            assert tokenizer.decode([one["input_ids"][place]]) == row["solution"][start]
            before = tokenizer.decode(one["input_ids"][:place])
            assert before.endswith(row["solution"][:start])
            planted += 1
    assert planted > 20


def test_a_token_that_touches_a_span_is_left_out_whole():
    tokenizer = load_tokenizer("tiny:qwen2")
    rows = [{"problem": "x", "solution": "so \\boxed{4} é!", "masked": [[4, 5], [12, 14]]}]
    (example,) = examples_of(rows, tokenizer)
    kept = [token for token in example["labels"] if token != -100]
    assert tokenizer.decode(kept) == "so 4}!<|im_end|>"


@pytest.mark.parametrize("span", [[-1, 2], [3, 3], [0, 99]])
def test_spans_beyond_the_solution_are_refused(span):
    with pytest.raises(DataError, match=r"masked = .*spans \[start, end\) within it"):
        examples_of([{"problem": "x", "solution": "abcd", "masked": [span]}], load_tokenizer("tiny:qwen2"))
