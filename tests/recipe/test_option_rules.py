"""Rules between the options of the policy loss: every refusal names its keys and a way out, and nothing idle passes."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reasonrl.recipe.option_rules import option_problems
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.trl_args import owned_args

STAGE = {
    "kind": "ppo",
    "model": "tiny:qwen2",
    "data": {"world": "arithmetic", "n": 8},
    "reward": "math",
    "prompts_per_step": 4,
    "max_completion_length": 8,
    "max_steps": 1,
}
CISPO = {"loss_type": "cispo", "epsilon_high": 5.0}
KL = {"beta": 0.1, "kl_in": "loss"}
STREAMED = {"train_while_generating": True, "normalize_advantages": False}
REFUSED = [
    ({"ratio": "none", "loss_type": "sapo"}, "ratio", "loss_type: sapo"),
    ({"ratio": "none", "epsilon": 0.1}, "epsilon", "ratio: none"),
    ({"ratio": "none", "epsilon_high": 0.3}, "epsilon_high", "ratio: none"),
    ({"ratio": "none", "delta": 3.0}, "delta", "ratio: none"),
    ({"ratio": "none", "importance_sampling_level": "sequence"}, "importance_sampling_level", "ratio: none"),
    ({"loss_type": "cispo"}, "epsilon_high", "loss_type: cispo"),
    ({"loss_type": "cispo", "epsilon_high": 0.28}, "epsilon_high", "at least 1"),
    ({**CISPO, "epsilon": 0.1}, "epsilon", "loss_type: cispo"),
    ({**CISPO, "delta": 9.0}, "delta", "loss_type: cispo"),
    ({**CISPO, "importance_sampling_level": "sequence_token"}, "importance_sampling_level", "loss_type: cispo"),
    ({"loss_type": "sapo", "epsilon_high": 0.3}, "epsilon_high", "loss_type: sapo"),
    ({"sapo_temperature_neg": 2.0}, "sapo_temperature_neg", "loss_type: dapo"),
    ({"delta": 1.2}, "delta", "1 + epsilon_high = 1.2"),
    ({"delta": 1.25, "epsilon_high": 0.28}, "delta", "1.28"),
    (
        {"importance_sampling_level": "sequence", "token_ratio_band": [0.5, 2.0]},
        "importance_sampling_level",
        "token_ratio_band",
    ),
    (
        {"importance_sampling_level": "sequence", "top_entropy_quantile": 0.2},
        "importance_sampling_level",
        "top_entropy_quantile",
    ),
    ({"token_ratio_band": [1.1, 2.0]}, "token_ratio_band", "1 (equal policies)"),
    ({"sequence_ratio_band": [1.2, 0.8]}, "sequence_ratio_band", "[0.996, 1.001]"),
    ({"sequence_ratio_band": [0.9, 1.1], "top_p": 0.9}, "top_p", "sequence_ratio_band"),
    ({"kl_in": "loss"}, "kl_in", "beta is 0"),
    ({"kl_estimator": "k3"}, "kl_estimator", "beta is 0"),
    ({"use_bias_correction_kl": False}, "use_bias_correction_kl", "beta is 0"),
    ({"beta": 0.1, "use_bias_correction_kl": False}, "use_bias_correction_kl", "kl_in: reward"),
    ({**KL, "use_bias_correction_kl": False}, "kl_estimator", "zero on average"),
    ({"positive_above": 0.0}, "positive_above", "positive_weight"),
    ({**STREAMED, "top_entropy_quantile": 0.2}, "top_entropy_quantile", "train_while_generating"),
    ({**STREAMED, "positive_nll_coef": 0.1}, "positive_nll_coef", "train_while_generating"),
    ({**STREAMED, "entropy_coef": 0.1, "loss_type": "grpo"}, "entropy_coef", "train_while_generating"),
]
ALLOWED = [
    {"delta": 3.0, "epsilon_high": 0.28},
    {"ratio": "none", "token_ratio_band": [0.5, 2.0], "sequence_ratio_band": [0.996, 1.001]},
    {**CISPO, "importance_sampling_level": "sequence"},
    {"loss_type": "sapo", "sapo_temperature_neg": 2.0, "importance_sampling_level": "sequence_token"},
    {"importance_sampling_level": "sequence_token", "top_entropy_quantile": 0.2, "token_ratio_band": [0.5, 2.0]},
    {**KL, "kl_estimator": "k2", "use_bias_correction_kl": False},
    {"beta": 0.1, "kl_estimator": "k3"},
    KL,
    {"positive_above": 0.0, "positive_weight": 0.1},
    {**STREAMED, "entropy_coef": 0.1},
]


@pytest.mark.parametrize(("given", "key", "said"), REFUSED)
def test_what_cannot_work_is_refused_by_its_key(given, key, said):
    with pytest.raises(ValidationError) as raised:
        PPOStage(**STAGE, **given)
    found = [error for error in raised.value.errors() if error["loc"] == (key,)]
    text = " ".join([*(error["msg"] for error in found), *(error["ctx"]["fix"] for error in found)])
    assert said in text, raised.value.errors()


@pytest.mark.parametrize("given", ALLOWED)
def test_what_works_is_taken(given):
    stage = PPOStage(**STAGE, **given)
    assert all(getattr(stage, key) == value for key, value in given.items())


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"loss_type": "vespo"}, "loss_type"),
        ({"importance_sampling_level": "row"}, "importance_sampling_level"),
        ({"ratio": "v-trace"}, "ratio"),
        ({"kl_in": "value"}, "kl_in"),
        ({"kl_estimator": "k4"}, "kl_estimator"),
        ({"entropy_coef": -0.1}, "entropy_coef"),
        ({"positive_weight": -1.0}, "positive_weight"),
        ({"top_entropy_quantile": 0.0}, "top_entropy_quantile"),
    ],
)
def test_a_wrong_value_is_refused_in_a_stage_and_by_the_shared_rules(given, key):
    with pytest.raises(ValidationError) as raised:
        PPOStage(**STAGE, **given)
    assert [error["loc"] for error in raised.value.errors()] == [(key,)]
    (issue,) = option_problems(given)
    assert issue.key == key and issue.fix


def test_keys_of_other_tools_are_pointed_to_ours():
    for theirs, ours in (("dual_clip", "delta"), ("clip_ratio_c", "delta"), ("kl_loss_type", "kl_estimator")):
        assert PPOStage.meant_by(theirs) == ours


def test_loss_options_of_trl_that_we_do_not_have_say_so():
    reasons = owned_args("GRPOConfig")
    for name in ("use_adaptive_entropy", "entropy_target", "vespo_k_pos", "off_policy_mask_threshold"):
        assert name in reasons, f"{name} would be taken and do nothing"
