"""The objective on logged samples: the spec's golden numbers, finite differences, cases by hand of each method."""

from __future__ import annotations

import math

import pytest
import torch

from reasonrl.algorithms.bcpg import logged_advantages, logged_loss, start_tau

NOW = [[-0.5, -1, -0.25], [-0.2, -2, -0.7, -0.1], [-1.5, -0.3], [-0.4, -0.6, -0.8]]
REF = [[-0.6, -0.9, -0.30], [-0.3, -1.5, -0.7, -0.2], [-1.2, -0.3], [-0.4, -0.5, -1.0]]
REWARDS = [1, 0, 1, 1]
RIGHT_OF_SECOND = [1, 0, 0, 1]


def padded(rows, fill=0.0):
    return torch.tensor([[*row, *[fill] * (4 - len(row))] for row in rows], dtype=torch.float64)


MASK = padded([[1] * len(row) for row in NOW])


def golden(beta, tau, **options):
    weights = torch.ones(4, 4, dtype=torch.float64)
    weights[1][torch.tensor(RIGHT_OF_SECOND) == 1] = beta
    advantages = torch.tensor(logged_advantages(REWARDS, "aaaa", options.get("method", "bcpg")), dtype=torch.float64)
    # What lies beyond a response's end must not matter.
    now = padded(NOW, fill=-7.0).requires_grad_()
    sums = logged_loss(
        now, padded(REF, fill=3.0), MASK, advantages, weights, 1 / (4 * MASK.sum(dim=1)), tau=tau, **options
    )
    sums.loss.backward()
    return sums, now.grad


@pytest.mark.parametrize(
    ("beta", "tau", "objective", "gradient"),
    [
        (1, 0, 0.010416667, [-0.046875] * 4),
        (1, 0.1, 0.009520833, [-0.045] * 4),
        (0.5, 0.1, 0.002489583, [-0.0215625, -0.045, -0.045, -0.0215625]),
        (-0.5, 0.1, -0.011572917, [0.0253125, -0.045, -0.045, 0.0253125]),
        (0.5, 1e-3, 0.003376458, [-0.02341875, -0.04685625, -0.04685625, -0.02341875]),
    ],
)
def test_golden_numbers(beta, tau, objective, gradient) -> None:
    sums, grad = golden(beta, tau)
    assert -sums.loss.item() == pytest.approx(objective, abs=1e-9)
    assert (-grad[1]).tolist() == pytest.approx(gradient, abs=1e-9)
    assert grad[MASK == 0].abs().max() == 0
    assert float(sums.policy - sums.penalty) == pytest.approx(objective, abs=1e-9)
    assert sums.rho.tolist() == pytest.approx([sum(a) - sum(b) for a, b in zip(NOW, REF, strict=True)])


@pytest.mark.parametrize("options", [{}, {"quadratic": "token"}, {"method": "grpo_offline"}])
def test_gradients_are_finite_differences(options) -> None:
    """Of the objective written out anew in plain Python (`topr` has no objective: its ratio carries no gradient)."""
    tau, beta = 0.07, -0.4
    _, grad = golden(beta, tau, **options)

    def plain(rows) -> float:
        mean, total = sum(REWARDS) / 4, 0.0
        spread = math.sqrt(sum((r - mean) ** 2 for r in REWARDS) / 3) + 1e-4
        for row, (now, ref) in enumerate(zip(rows, REF, strict=True)):
            terms = []
            for place, (a, b) in enumerate(zip(now, ref, strict=True)):
                weight = beta if row == 1 and RIGHT_OF_SECOND[place] else 1
                if options.get("method") == "grpo_offline":
                    signed, ratio = weight * (REWARDS[row] - mean) / spread, math.exp(a - b)
                    terms.append(min(ratio * signed, min(max(ratio, 0.8), 1.2) * signed))
                else:
                    terms.append(weight * (REWARDS[row] - mean) * a)
            gaps = [a - b for a, b in zip(now, ref, strict=True)]
            squares = sum(gap**2 for gap in gaps) if options.get("quadratic") == "token" else sum(gaps) ** 2
            total += (sum(terms) - tau / 2 * squares) / len(now) / 4
        return total

    for row, values in enumerate(NOW):
        for place in range(len(values)):
            up, down = [list(r) for r in NOW], [list(r) for r in NOW]
            up[row][place] += 1e-5
            down[row][place] -= 1e-5
            slope = (plain(up) - plain(down)) / 2e-5
            assert -float(grad[row, place]) == pytest.approx(slope, abs=1e-8)


def test_any_split_adds_up_to_the_whole() -> None:
    whole, grad = golden(0.5, 0.1)
    advantages = torch.tensor(logged_advantages(REWARDS, "aaaa", "bcpg"))
    weights = torch.where(padded([[], RIGHT_OF_SECOND, [], []]) == 1, 0.5, 1.0)
    share = 1 / (4 * MASK.sum(dim=1))
    total, parts = 0.0, []
    for rows in ([2], [0, 3], [1]):
        now = padded(NOW)[rows].requires_grad_()
        sums = logged_loss(now, padded(REF)[rows], MASK[rows], advantages[rows], weights[rows], share[rows], tau=0.1)
        sums.loss.backward()
        total += sums.loss.item()
        parts.append((rows, now.grad))
    assert total == pytest.approx(whole.loss.item(), rel=1e-12)
    for rows, found in parts:
        assert torch.allclose(found, grad[rows], rtol=1e-12, atol=0)


def test_advantages() -> None:
    mixed = ["x", "y", "x", "y", "x", "z"]
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    centred = logged_advantages(rewards, mixed, "bcpg")
    assert centred == pytest.approx([2 / 3, -0.5, -1 / 3, 0.5, -1 / 3, 0.0])
    spread = math.sqrt((4 / 9 + 1 / 9 + 1 / 9) / 2) + 1e-4
    assert logged_advantages(rewards, mixed, "grpo_offline")[0] == pytest.approx(2 / 3 / spread)
    assert logged_advantages(rewards, mixed, "topr") == [1, -1, -1, 1, -1, 1]
    assert logged_advantages(rewards, mixed, "w_reinforce", positive_weight=0.25) == [0.25, -1, -1, 0.25, -1, 0.25]
    assert logged_advantages([1, 1, 1], "aaa", "bcpg") == [0, 0, 0]
    with pytest.raises(ValueError, match="allowed are bcpg, grpo_offline"):
        logged_advantages([1], "a", "dpo")  # type: ignore[arg-type]


def test_a_wrong_answer_counts_less_the_less_likely_it_has_become() -> None:
    """TOPR: exp(rho) of wrong answers at most 1; right ones count whole whatever their ratio."""
    _, grad = golden(1.0, 0.0, method="topr")
    rho = sum(NOW[1]) - sum(REF[1])
    assert rho < 0
    assert (-grad[1]).tolist() == pytest.approx([-math.exp(rho) / 16] * 4)
    assert (-grad[0, :3]).tolist() == pytest.approx([1 / 12] * 3)
    now = padded([[x + 1 for x in row] for row in REF]).requires_grad_()  # every ratio is above 1
    advantages = torch.tensor([1.0, -1.0, 1.0, 1.0])
    sums = logged_loss(
        now, padded(REF), MASK, advantages, torch.ones(4, 4), 1 / (4 * MASK.sum(dim=1)), tau=0, method="topr"
    )
    sums.loss.backward()
    assert now.grad[1].tolist() == pytest.approx([1 / 16] * 4)
    assert float(sums.clipped) == pytest.approx(1 / 4)


def test_the_start_value_of_tau() -> None:
    assert start_tau(7922) == pytest.approx(1e-3)
    assert start_tau(300) == pytest.approx(0.0264, abs=1e-4)
    with pytest.raises(ValueError, match="above 0 tokens"):
        start_tau(0)
