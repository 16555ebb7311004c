"""The mathematics: advantages, losses and batch plans as pure functions of tensors and numbers.

Nothing here knows a config, a trainer or a file. Losses are weighted token sums: the weights belong to the objective
and are fixed before a batch is split, so every split into micro-batches and ranks gives the same gradient.

Notation: B sequences, T response tokens, P prompts, G samples a prompt. Masks are 1 where a token counts.
"""

from reasonrl.algorithms.advantages import (
    decoupled_gae,
    gae,
    group_advantages,
    kl_shaped_rewards,
    length_adaptive_lambda,
    masked_moments,
    normalize,
    rewards_to_go,
    terminal_rewards,
)
from reasonrl.algorithms.batching import pad_plans, plan_microbatches, plan_packed_rows, shuffled_parts
from reasonrl.algorithms.bcpg import LOGGED_METHODS, LoggedMethod, LoggedSums, logged_advantages, logged_loss, start_tau
from reasonrl.algorithms.importance import IMPORTANCE_MODES, Importance, ImportanceMode, importance_weights
from reasonrl.algorithms.kl import kl_estimate, kl_loss
from reasonrl.algorithms.logprobs import token_logprobs
from reasonrl.algorithms.losses import PolicySums, ValueSums, policy_loss, value_loss, weighted_sum
from reasonrl.algorithms.masks import Bands, entropy_threshold, ratio_bands
from reasonrl.algorithms.ratios import level_log_ratios
from reasonrl.algorithms.statistics import explained_variance
from reasonrl.algorithms.weights import counted_by, token_weights

__all__ = [
    "IMPORTANCE_MODES",
    "LOGGED_METHODS",
    "Bands",
    "Importance",
    "ImportanceMode",
    "LoggedMethod",
    "LoggedSums",
    "PolicySums",
    "ValueSums",
    "counted_by",
    "decoupled_gae",
    "entropy_threshold",
    "explained_variance",
    "gae",
    "group_advantages",
    "importance_weights",
    "kl_estimate",
    "kl_loss",
    "kl_shaped_rewards",
    "length_adaptive_lambda",
    "level_log_ratios",
    "logged_advantages",
    "logged_loss",
    "masked_moments",
    "normalize",
    "pad_plans",
    "plan_microbatches",
    "plan_packed_rows",
    "policy_loss",
    "ratio_bands",
    "rewards_to_go",
    "shuffled_parts",
    "start_tau",
    "terminal_rewards",
    "token_logprobs",
    "token_weights",
    "value_loss",
    "weighted_sum",
]
