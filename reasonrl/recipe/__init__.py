"""Recipes: schema, composing, validation, batch arithmetic. Imports neither torch, transformers, trl nor vllm."""

from reasonrl.recipe.annotate_stage import AnnotateStage, SegmentConfig
from reasonrl.recipe.batch import BatchPlan, plan_batch
from reasonrl.recipe.bcpg_stage import BCPGStage
from reasonrl.recipe.composing import ResolvedRecipe, load_recipe, load_runs
from reasonrl.recipe.dpo_stage import DPOStage
from reasonrl.recipe.episodes_stage import EpisodesStage
from reasonrl.recipe.expansion import StageInstance, expand_stages
from reasonrl.recipe.identity import extensible_of, identity_key, identity_of
from reasonrl.recipe.launching import LaunchConfig
from reasonrl.recipe.origins import Origin
from reasonrl.recipe.pacore_eval_stage import PacoreEvalStage
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.printing import composed_yaml, print_config
from reasonrl.recipe.prm_eval_stage import PRMEvalStage
from reasonrl.recipe.prm_stage import PRMStage
from reasonrl.recipe.references import Reference
from reasonrl.recipe.rollout_stage import RolloutStage
from reasonrl.recipe.schema import Recipe
from reasonrl.recipe.shipped import find_recipe, shipped_recipes
from reasonrl.recipe.sources import DataSource, Loop, RewardTerm, RolloutConfig, Study
from reasonrl.recipe.stage_base import Stage, TrainingStage
from reasonrl.recipe.stages import CompareStage, EvalStage, SFTStage, StageConfig, SuiteConfig

__all__ = [
    "AnnotateStage",
    "BCPGStage",
    "BatchPlan",
    "CompareStage",
    "DPOStage",
    "DataSource",
    "EpisodesStage",
    "EvalStage",
    "LaunchConfig",
    "Loop",
    "Origin",
    "PPOStage",
    "PRMEvalStage",
    "PRMStage",
    "PacoreEvalStage",
    "Recipe",
    "Reference",
    "ResolvedRecipe",
    "RewardTerm",
    "RolloutConfig",
    "RolloutStage",
    "SFTStage",
    "SegmentConfig",
    "Stage",
    "StageConfig",
    "StageInstance",
    "Study",
    "SuiteConfig",
    "TrainingStage",
    "composed_yaml",
    "expand_stages",
    "extensible_of",
    "find_recipe",
    "identity_key",
    "identity_of",
    "load_recipe",
    "load_runs",
    "plan_batch",
    "print_config",
    "shipped_recipes",
]
