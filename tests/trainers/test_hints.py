"""Hints for groups that are all wrong: drawn again with the hint in the prompt, marked, and kept out of evaluation."""

from __future__ import annotations

import pytest
import torch
from helpers import make_run

from reasonrl.errors import DataError
from reasonrl.trainers.hints import Hints

SOLUTION = "First add.\n  Then  halve it: {x}."


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(1.0, SOLUTION), (0.5, "First add.\n  Then"), (0.01, "First"), (0.67, "First add.\n  Then  halve it:")],
)
def test_a_hint_is_the_first_words_as_they_stand(fraction, text):
    assert Hints("solution", fraction).text({"solution": f" {SOLUTION} "}) == text


def test_a_hint_goes_into_the_users_last_message():
    hints = Hints("hint", template="{prompt} ({hint})")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": r"What is \frac{1}{2} {hint}?"}]},
    ]
    row = {"prompt": turns, "hint": "see {prompt}"}
    told = hints.hinted(row)["prompt"]
    assert told[1]["content"][1]["text"] == r"What is \frac{1}{2} {hint}? (see {prompt})"
    assert told[0] == turns[0] and told[1]["content"][0] == {"type": "image"}
    assert row["prompt"] is turns and turns[1]["content"][1]["text"].endswith("{hint}?")
    assert hints.hinted({"prompt": "1+1?", "hint": "2"})["prompt"] == "1+1? (2)"
    for nothing in (None, "", " \n"):
        assert hints.hinted({"prompt": "1+1?", "hint": nothing}) is None


def graded(completions, completion_ids, prompts, id, log_extra, **columns):
    """Right by chance with a hint, and for odd ids; never otherwise. Sees whether there was a hint."""
    seen = columns.get("hinted", [False] * len(id))
    verdicts = []
    for ids, prompt, name, hinted in zip(completion_ids, prompts, id, seen, strict=True):
        assert hinted == ("!answer" in prompt[-1]["content"])
        can = hinted or int(name) % 2 == 1
        verdicts.append("correct" if can and sum(ids) % 2 else "wrong")
    log_extra("verdict", verdicts)
    return [float(verdict == "correct") for verdict in verdicts]


@pytest.mark.parametrize("dynamic", [False, True])
def test_groups_that_are_all_wrong_are_drawn_again_with_the_hint(tmp_path, dynamic):
    run = make_run(
        tmp_path,
        rewards=[graded],
        dtype=torch.float64,
        rows=9,
        eval_rows=6,
        prompts_per_step=6,
        num_generations=3,
        advantage="group",
        hint_column="answer",
        hint_template="{prompt} !answer {hint}",
        dynamic_sampling=dynamic,
        max_steps=1,
        num_generations_eval=2,
        eval_strategy="steps",
        eval_steps=1,
    )
    run.trainer.train()
    line, rows = run.metrics[0], run.samples[1]
    plain = [row for row in rows if not row["hinted"]]
    hinted = [row for row in rows if row["hinted"]]
    right = {row["id"] for row in plain if row["verdict"] == "correct"}
    failed = {row["id"] for row in plain} - right
    assert failed and right
    # Exactly those whose samples were all wrong got the hint, and it stands in the prompt that is trained on.
    assert {row["id"] for row in hinted} == failed and len(hinted) == 3 * len(failed)
    assert all(f"!answer {row['answer']}" in row["prompt"] for row in hinted)
    assert not any("!answer" in row["prompt"] for row in plain)
    # Their first samples are not trained on; without dynamic sampling all else is.
    assert all(row["dropped"] for row in plain if row["id"] in failed)
    trained = [row for row in rows if not row["dropped"]]
    if not dynamic:
        assert {(row["id"], row["hinted"]) for row in trained} == {(n, True) for n in failed} | {
            (n, False) for n in right
        }
    else:
        assert all(
            len({row["reward"] for row in trained if row["id"] == name}) > 1 for name in {r["id"] for r in trained}
        )
    assert len(trained) == 18
    assert line["hinted_fraction"] == pytest.approx(sum(row["hinted"] for row in trained) / 18)
    assert line["hints/groups"] == len(failed)
    solved = {row["id"] for row in hinted if row["verdict"] == "correct"}
    assert line["hints/solved_groups"] == len(solved) > 0
    # Reward and accuracy are of the samples without a hint, and validation never has one.
    correct = [row for row in plain if row["verdict"] == "correct"]
    assert line["reward"] == pytest.approx(len(correct) / len(plain))
    stopped = [row for row in correct if row["finish_reason"] == "stop"]
    assert line["accuracy"] == pytest.approx(len(stopped) / len(plain))
    assert 0 < line["eval/accuracy"] <= 0.5, "prompts of even ids are right with a hint only"
    assert len({row["text"] for row in hinted} - {row["text"] for row in plain}) > 0


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"hint_column = 'hint'.*there are id, prompt, answer"):
        make_run(tmp_path, hint_column="hint")
    with pytest.raises(ValueError, match=r"does not hold \{hint\}"):
        make_run(tmp_path, hint_column="answer", hint_template="{prompt}")
    with pytest.raises(ValueError, match="there is no hint_column"):
        make_run(tmp_path, hint_fraction=0.5)
