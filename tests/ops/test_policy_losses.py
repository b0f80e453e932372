import math

import pytest
import torch

from alfish.ops.policy_losses import (
    approximate_kl,
    candidate_cross_entropy,
    clip_fraction,
    clipped_surrogate_loss,
)

# ratio, advantage, loss and gradient in the ratio, at clip ratio 0.2: figure 1 of the paper, point by point.
CASES = [
    (1.0, 2.0, -2.0, -2.0),
    (1.1, 2.0, -2.2, -2.0),
    (1.5, 2.0, -2.4, 0.0),  # gained enough
    (0.5, 2.0, -1.0, -2.0),  # lost too much: pulled back
    (1.0, -2.0, 2.0, 2.0),
    (0.5, -2.0, 1.6, 0.0),
    (1.5, -2.0, 3.0, 2.0),
    (1.5, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("ratio", "advantage", "loss", "gradient"), CASES)
def test_clipped_surrogate_by_hand(ratio, advantage, loss, gradient):
    ratio_tensor = torch.tensor([ratio], requires_grad=True)
    result = clipped_surrogate_loss(ratio_tensor, torch.tensor([advantage]), 0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    # At a ratio of exactly 1 both branches are equal, and half of each gradient adds up to the whole.
    assert ratio_tensor.grad.item() == pytest.approx(gradient)


def test_approximate_kl_is_the_kl_in_expectation():
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    estimates = approximate_kl((new / old).log())
    assert (estimates >= 0).all()
    exact = (old * (old / new).log()).sum()
    torch.testing.assert_close((old * estimates).sum(), exact)


def test_clip_fraction():
    ratio = torch.tensor([1.0, 1.1, 0.75, 1.3])
    assert clip_fraction(ratio, 0.2).tolist() == [0.0, 0.0, 1.0, 1.0]


def test_candidate_cross_entropy_by_hand():
    policy = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]])
    log_prob = torch.tensor([[-1.0, -2.0, -math.inf], [0.0, math.nan, 3.0]], requires_grad=True)
    loss = candidate_cross_entropy(policy, log_prob)
    assert loss.tolist() == [1.25, 0.0]
    loss.sum().backward()
    assert log_prob.grad.tolist() == [[-0.75, -0.25, 0.0], [0.0, 0.0, 0.0]]
