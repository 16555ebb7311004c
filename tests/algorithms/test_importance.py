"""The correction for samples of another distribution, against numbers by hand and against TRL's own lines."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap

import pytest
import torch

from reasonrl.algorithms import IMPORTANCE_MODES, importance_weights

#: Ratios 1/2, 1, 2, 4 | 3, 3, masked, masked.
OLD = torch.log(torch.tensor([[0.1, 0.3, 0.4, 0.8], [0.3, 0.6, 0.9, 0.9]], dtype=torch.float64))
BEHAVIOUR = torch.log(torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.1, 0.2, 0.1, 0.1]], dtype=torch.float64))
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize(
    ("mode", "clip_max", "clip_min", "weights", "outside"),
    [
        ("token_truncate", 2.5, None, [[0.5, 1, 2, 2.5], [2.5, 2.5, 0, 0]], [[0, 0, 0, 1], [1, 1, 0, 0]]),
        ("token_truncate", 2.5, 0.8, [[0.8, 1, 2, 2.5], [2.5, 2.5, 0, 0]], [[1, 0, 0, 1], [1, 1, 0, 0]]),
        ("token_mask", 2.5, None, [[0.5, 1, 2, 0], [0, 0, 0, 0]], [[0, 0, 0, 1], [1, 1, 0, 0]]),
        ("token_mask", 2.5, 0.8, [[0, 1, 2, 0], [0, 0, 0, 0]], [[1, 0, 0, 1], [1, 1, 0, 0]]),
        ("token_mask", None, 0.8, [[0, 1, 2, 4], [3, 3, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0]]),
        ("sequence_truncate", 5.0, None, [[4, 4, 4, 4], [5, 5, 0, 0]], [[0, 0, 0, 0], [1, 1, 0, 0]]),
        ("sequence_mask", 5.0, None, [[4, 4, 4, 4], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 1, 0, 0]]),
    ],
)
def test_by_hand(mode, clip_max, clip_min, weights, outside):
    found = importance_weights(OLD, BEHAVIOUR, MASK, mode=mode, clip_max=clip_max, clip_min=clip_min)
    torch.testing.assert_close(found.weights, torch.tensor(weights, dtype=torch.float64))
    assert found.outside.tolist() == outside
    ratio = [[4.0] * 4, [9.0, 9, 0, 0]] if mode.startswith("sequence") else [[0.5, 1, 2, 4], [3.0, 3, 0, 0]]
    torch.testing.assert_close(found.ratio, torch.tensor(ratio, dtype=torch.float64))


def trls_ratio(old, behaviour, mask, mode, clip_max, clip_min):
    """TRL's own statements, taken out of the trainer and run on these tensors."""
    trl = pytest.importorskip("trl.trainer.grpo_trainer")
    source = textwrap.dedent(inspect.getsource(trl.GRPOTrainer._generate_and_score_completions))
    block = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.If)
        and "vllm_importance_sampling_correction" in ast.unparse(node.test)
        and "per_token_logps_diff" in ast.unparse(node)
        and "beta" not in ast.unparse(node)
    )

    class Settings:
        vllm_importance_sampling_mode = mode
        vllm_importance_sampling_clip_max = clip_max
        vllm_importance_sampling_clip_min = clip_min

    names = {
        "self": Settings,
        "torch": torch,
        "math": math,
        "completion_mask": mask,
        "tool_mask": None,
        "old_per_token_logps": old,
        "sampling_per_token_logps": behaviour,
    }
    exec(compile(ast.Module(block.body, []), "trl", "exec"), names)
    return names["vllm_importance_sampling_ratio"]


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
@pytest.mark.parametrize(("clip_max", "clip_min"), [(2.0, None), (3.0, 0.5), (None, 0.9), (1.2, 0.0)])
def test_equals_trls_own_lines(mode, clip_max, clip_min):
    generator = torch.Generator().manual_seed(len(mode))
    old = -torch.rand(16, 9, generator=generator, dtype=torch.float64) * 4
    behaviour = old + torch.randn(16, 9, generator=generator, dtype=torch.float64) * 0.5
    behaviour[3, 4] = math.nan
    mask = (torch.arange(9) < torch.randint(1, 10, (16, 1), generator=generator)).long()
    theirs = trls_ratio(old, behaviour, mask, mode, clip_max, clip_min)
    ours = importance_weights(old, behaviour, mask, mode=mode, clip_max=clip_max, clip_min=clip_min)
    assert torch.equal(ours.weights, theirs.expand_as(old) * mask)
    assert 0 < ours.outside.sum() < mask.sum() or clip_min == 0.9


def test_what_lies_outside_the_mask_does_not_count():
    behaviour = BEHAVIOUR.clone()
    behaviour[1, 2:] = torch.tensor([math.nan, -math.inf])
    same = importance_weights(OLD, BEHAVIOUR, MASK, mode="sequence_truncate", clip_max=20.0)
    other = importance_weights(OLD, behaviour, MASK, mode="sequence_truncate", clip_max=20.0)
    assert torch.equal(same.weights, other.weights)


def test_no_gradient_flows():
    old = OLD.clone().requires_grad_()
    found = importance_weights(old, BEHAVIOUR, MASK, mode="token_truncate", clip_max=2.0)
    assert not found.weights.requires_grad


@pytest.mark.parametrize(
    ("mode", "clip_max", "clip_min", "says"),
    [
        ("token_clip", 2.0, None, "allowed are 'token_truncate', 'token_mask'"),
        ("token_mask", None, None, "both None"),
        ("token_mask", 0.5, None, "must lie within"),
        ("token_mask", 2.0, 1.5, "must lie within"),
        ("token_mask", 2.0, -1.0, "must lie within"),
    ],
)
def test_settings_without_sense_are_refused(mode, clip_max, clip_min, says):
    with pytest.raises(ValueError, match=says):
        importance_weights(OLD, BEHAVIOUR, MASK, mode=mode, clip_max=clip_max, clip_min=clip_min)
