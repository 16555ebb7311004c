"""Step scores: one packed pass reads what the model says of every prefix by itself."""

from __future__ import annotations

import random

import pytest
import torch

from reasonrl.data_tools.prompts import as_messages, prompt_ids
from reasonrl.errors import DataError, ModelError
from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.prm.encoding import Encoder, step_logits
from reasonrl.prm.scoring import StepScorer, load_scorer, score_solutions
from reasonrl.prm.steps import spans_of, steps_from_pieces

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=2"


def solutions(count: int = 9, seed: int = 0) -> list[dict[str, object]]:
    draw = random.Random(seed)
    made = []
    for number in range(count):
        pieces = [
            f"{draw.choice(['Wait, ', 'So ', 'é→ß ', ''])}{draw.randint(1, 999)} + {draw.randint(1, 9)}"
            f"{draw.choice([' = 7', ''])}{draw.choice([chr(10), chr(10) * 2, '. '])}"
            for _ in range(draw.randint(1, 6))
        ]
        text = "".join(pieces)
        made.append(
            {
                "id": f"s{number}",
                "problem": f"Add {number % 3}.",
                "text": text,
                "steps": spans_of(steps_from_pieces(pieces)),
            }
        )
    return made


@pytest.fixture(scope="module")
def prm() -> tuple[ScalarHeadModel, object]:
    model = ScalarHeadModel.from_pretrained(TINY, seed=3, dtype=torch.float64)
    with torch.no_grad():
        model.head.weight *= 60  # scores spread over (0, 1)
    return model.eval(), load_tokenizer(TINY)


def alone(model, tokenizer, solution) -> list[float]:
    """P(right) of each step from its own pass over the prompt and the text up to the step's end."""
    prompt = prompt_ids(tokenizer, as_messages(solution))
    whole = tokenizer(solution["text"], add_special_tokens=False)["input_ids"]
    scores = []
    for _, end in solution["steps"]:
        # The tokens that begin before the step's end, found by decoding ever more of them.
        count = next(
            n
            for n in range(1, len(whole) + 1)
            if len(tokenizer.decode(whole[:n])) >= end and not tokenizer.decode(whole[:n]).endswith("�")
        )
        with torch.no_grad():
            values = model(input_ids=torch.tensor([prompt + whole[:count]]))
        scores.append(float(torch.sigmoid(values[0, -1])))
    return scores


def test_scores_are_those_of_every_prefix_by_itself(prm) -> None:
    model, tokenizer = prm
    given = solutions()
    expected = [alone(model, tokenizer, solution) for solution in given]
    spread = [score for row in expected for score in row]
    assert max(spread) - min(spread) > 0.2
    for tokens in (60, 100_000):
        scorer = StepScorer(model, tokenizer, tokens_per_microbatch=tokens)
        assert scorer.packed, scorer.obstacle
        packed = scorer(given)
        scorer.packed = False
        for found in (packed, scorer(given), score_solutions(model, tokenizer, given, tokens)):
            assert [len(row) for row in found] == [len(row) for row in expected]
            for row, right in zip(found, expected, strict=True):
                assert row == pytest.approx(right, abs=1e-9)


def test_one_pass_per_solution(prm) -> None:
    model, tokenizer = prm
    given = solutions(7)
    seen: list[int] = []

    def counted(**inputs):
        seen.append(inputs["input_ids"].numel())
        return model(**inputs)

    rows = [Encoder(tokenizer)(solution) for solution in given]
    with torch.no_grad():
        logits = step_logits(counted, rows, torch.device("cpu"), packed=True, pad_token_id=0)
    assert seen == [sum(map(len, rows))]
    assert len(logits) == sum(len(row.ends) for row in rows)


def test_what_lies_beyond_max_length_has_no_score(prm) -> None:
    model, tokenizer = prm
    given = solutions(9, seed=2)
    whole = StepScorer(model, tokenizer)(given)
    for room in (3, 30, 45):
        encoder = Encoder(tokenizer, max_length=room)
        scorer = StepScorer(model, tokenizer, max_length=room)
        found = scorer(given)
        sizes = [len(Encoder(tokenizer)(solution)) for solution in given]
        assert scorer.cut == sum(size > room for size in sizes)
        for solution, row, full in zip(given, found, whole, strict=True):
            reached = [end is not None for end in encoder(solution).ends]
            assert [score is not None for score in row] == reached
            assert reached == sorted(reached, reverse=True)
            assert [s for s in row if s is not None] == pytest.approx(full[: sum(reached)], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "solution s0: it has no steps"),
        ({"steps": [[0, 2]]}, "solution s0: the steps end at character 2"),
        ({"text": ""}, "solution s0: text is ''"),
        ({"images": ["a.png"]}, "solution s0: it has pictures"),
    ],
)
def test_records_that_cannot_be_read(prm, change, message) -> None:
    with pytest.raises(DataError, match=message):
        Encoder(prm[1])({**solutions(1)[0], **change})


def test_a_policy_is_no_process_reward_model() -> None:
    with pytest.raises(ModelError, match="no trained process reward model"):
        load_scorer(TINY)
