"""Rules between the options of advantages and targets: every pair composes or is refused, in recipe and config alike,
and what docs/algorithms.md makes of papers composes.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from reasonrl.recipe.advantage_rules import ADVANTAGE_HINTS, advantage_problems
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.trainers.ppo_config import PPOConfig

PAGE = (Path(__file__).parents[2] / "docs" / "algorithms.md").read_text(encoding="utf-8")
STAGE = {
    "model": "tiny:qwen2",
    "data": {"world": "arithmetic", "n": 64},
    "reward": "math",
    "prompts_per_step": 48,
    "max_completion_length": 8,
    "max_steps": 1,
}
CHOICES = {
    "advantage": ["gae", "group", "rloo", "reinforce_pp", "reinforce_pp_baseline"],
    "scale_rewards": ["group", "batch", "none"],
    "gamma": [1.0, 0.9],
    "lam": [1.0, 0.9],
    "lam_value": [None, 1.0],
    "lam_horizon_fraction": [None, 0.05],
    "truncation_bootstrap": [False, True],
    "mask_truncated_completions": [False, True],
    "reward_requires_stop": [True, False],
    "normalize_advantages": [True, False],
    "train_while_generating": [False, True],
    "num_generations": [4, 1],
}
# What may not stand together, said once more and by hand; a value alone that its kind of advantage does not know.
GAE_ONLY = {"lam": 0.9, "lam_value": 1.0, "lam_horizon_fraction": 0.05, "truncation_bootstrap": True}


def refused(o) -> bool:
    kind = o["advantage"]
    return any(
        (
            kind != "gae" and any(o[key] == value for key, value in GAE_ONLY.items()),
            kind not in ("gae", "reinforce_pp") and o["gamma"] != 1,
            kind != "group" and o["scale_rewards"] != "group",
            kind in ("group", "rloo", "reinforce_pp_baseline") and o["num_generations"] == 1,
            o["lam"] != 1 and o["lam_horizon_fraction"] is not None,
            o["truncation_bootstrap"] and (o["mask_truncated_completions"] or not o["reward_requires_stop"]),
            o["train_while_generating"] and kind not in ("group", "rloo") and o["normalize_advantages"],
            o["train_while_generating"] and o["scale_rewards"] == "batch",
        )
    )


def test_every_combination_composes_or_is_refused():
    accepted = 0
    for values in itertools.product(*CHOICES.values()):
        given = dict(zip(CHOICES, values, strict=True))
        issues = advantage_problems(given)
        assert bool(issues) == refused(given), (given, issues)
        assert all(issue.key in CHOICES and issue.message and issue.fix for issue in issues)
        accepted += not issues
    assert accepted > 50


PAIRS = [
    {"advantage": "rloo", "lam_value": 1.0},
    {"advantage": "group", "gamma": 0.9},
    {"advantage": "rloo", "scale_rewards": "batch"},
    {"lam": 0.9, "lam_horizon_fraction": 0.05},
    {"truncation_bootstrap": True, "mask_truncated_completions": True},
    {"truncation_bootstrap": True, "reward_requires_stop": False},
    {"advantage": "reinforce_pp", "train_while_generating": True},
    {"advantage": "group", "scale_rewards": "batch", "train_while_generating": True},
    {"advantage": "reinforce_pp_baseline", "num_generations": 1},
    {"advantage": "group", "critic_warmup_steps": 2},
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_recipe_and_config_refuse_alike(pair, tmp_path):
    given = {"num_generations": 4, **pair}
    issues = advantage_problems({"advantage": "gae", **given})
    assert issues
    with pytest.raises(ValidationError) as of_stage:
        PPOStage(**STAGE, **given)
    with pytest.raises(ValueError) as of_config:
        PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], **given)
    for issue in issues:
        assert issue.message in str(of_stage.value)
        assert f"{issue.key} {issue.message} -> {issue.fix}" in str(of_config.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lam": 1.1}, "lam is 1.1; allowed: 0 to 1"),
        ({"lam_horizon_fraction": 0.0}, "allowed: above 0, up to 1"),
        ({"scale_rewards": "prompt"}, "is 'prompt'; allowed: group, batch, none"),
        ({"advantage": "grup"}, "is 'grup'; allowed: gae, group"),
    ],
)
def test_the_config_refuses_values_that_a_recipe_cannot_hold(given, says, tmp_path):
    with pytest.raises(ValueError, match=re.escape(says)):
        PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], num_generations=4, **given)


def test_words_of_other_libraries_lead_to_keys_that_are_there():
    assert set(ADVANTAGE_HINTS.values()) <= PPOStage.model_fields.keys()
    assert not set(ADVANTAGE_HINTS) & PPOStage.model_fields.keys()


LINES = re.findall(r"^\| ([^|]+) \| `(\{.*\})` \|$", PAGE, re.MULTILINE)


def test_the_page_has_papers():
    assert len(LINES) >= 10


@pytest.mark.parametrize(("paper", "keys"), LINES, ids=[paper.split(",")[0] for paper, _ in LINES])
def test_a_papers_keys_compose(paper, keys, tmp_path):
    """What the page shows is a recipe, and a trainer's settings; and it says nothing that is the default anyway."""
    given = yaml.safe_load(keys)
    stage = PPOStage(**STAGE, **given)
    PPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], prompts_per_step=48, **given)
    idle = [key for key, value in given.items() if value == PPOStage.model_fields[key].default]
    assert set(idle) <= {"epsilon", "num_generations"}, f"{paper}: {idle}"
    assert all(getattr(stage, key) == value for key, value in given.items())


def test_the_page_names_every_key_and_its_default():
    for key in ("scale_rewards", "lam_value", "lam_horizon_fraction", "truncation_bootstrap", "gamma", "lam"):
        default = PPOStage.model_fields[key].default
        shown = (
            "null" if default is None else f"`{str(default).lower()}`" if not isinstance(default, float) else default
        )
        assert re.search(rf"^\| `{key}` \| {re.escape(str(shown))}", PAGE, re.MULTILINE), key
