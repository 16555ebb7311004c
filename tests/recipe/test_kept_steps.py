"""References to checkpoints that will not be there are refused before anything is trained."""

from __future__ import annotations

import pytest

from reasonrl.errors import RecipeError
from reasonrl.recipe import load_recipe

RECIPE = """
recipe: kept
model: tiny:qwen2
data: {{train: {{world: arithmetic, n: 8}}}}
stages:
  sft: {{kind: sft, data: "${{data.train}}", max_steps: {steps}{saving}}}
  more: {{kind: sft, model: "${{stage:sft@step={step}}}", data: "${{data.train}}", max_steps: 1}}
"""


def simulated(steps: int, every: int, kept: int) -> list[int]:
    """What transformers leaves: every so many steps and at the end, the oldest removed."""
    return [step for step in range(1, steps + 1) if step % every == 0 or step == steps][-kept:]


@pytest.mark.parametrize(("steps", "every", "kept"), [(6, 2, 2), (7, 2, 2), (7, 3, 1), (4, 8, 2), (6, 1, 3), (6, 2, 9)])
def test_only_kept_steps_are_taken(tmp_path, steps, every, kept):
    saving = f", save_steps: {every}, save_total_limit: {kept}"
    taken = []
    for step in range(1, steps + 1):
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(steps=steps, step=step, saving=saving))
        try:
            load_recipe(tmp_path / "recipe.yaml")
        except RecipeError as error:
            assert len(error.problems) == 1
        else:
            taken.append(step)
    assert taken == simulated(steps, every, kept)


@pytest.mark.parametrize(
    ("step", "saving", "message"),
    [
        (
            2,
            "",
            "does not say save_steps, so nobody can tell whether it keeps that one -> set stages.sft.save_steps to 2",
        ),
        (3, ", save_steps: 2", "saves every 2 steps, and 3 is none of them -> use step 2 or 4, or change"),
        (2, ", save_steps: 2", "keeps its last 2 checkpoints, and saves 2 after step 2 -> set"),
    ],
)
def test_the_message_says_what_to_set(tmp_path, step, saving, message):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(steps=6, step=step, saving=saving))
    with pytest.raises(RecipeError) as raised:
        load_recipe(tmp_path / "recipe.yaml")
    (problem,) = raised.value.problems
    assert message in str(problem) and "recipe.yaml:7" in str(problem)


def test_the_last_step_is_always_kept(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(steps=6, step=6, saving=""))
    assert load_recipe(tmp_path / "recipe.yaml")
