import math

import pytest
import torch

from alfish.ops.policy_losses import (
    approximate_kl,
    candidate_cross_entropy,
    clip_fraction,
    clipped_surrogate_loss,
    policy_gradient_loss,
    soft_actor_loss,
    temperature_loss,
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


def test_policy_gradient_loss_by_hand():
    log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantage = torch.tensor([3.0, -0.5], requires_grad=True)
    weight = torch.tensor([2.0, 1.0], requires_grad=True)
    loss = policy_gradient_loss(log_prob, advantage, weight)
    assert loss.tolist() == [6.0, -1.0]
    loss.sum().backward()
    assert log_prob.grad.tolist() == [-6.0, 0.5]
    assert advantage.grad is None and weight.grad is None
    assert policy_gradient_loss(log_prob, advantage).tolist() == [3.0, -1.0]


def test_policy_gradient_is_that_of_the_expected_reward():
    # Actions of mu, weighted: the gradient of sum_a pi(a) reward(a) in the logits is pi(a) (reward(a) - mean reward).
    logits, reward = torch.tensor([0.3, -0.2, 0.5], requires_grad=True), torch.tensor([1.0, 2.0, -1.0])
    mu = torch.tensor([0.2, 0.5, 0.3])
    log_prob = torch.log_softmax(logits, dim=-1)
    loss = (mu * policy_gradient_loss(log_prob, reward, log_prob.exp() / mu)).sum()
    loss.backward()
    pi = log_prob.exp().detach()
    torch.testing.assert_close(-logits.grad, pi * (reward - (pi * reward).sum()))


def test_soft_actor_loss_by_hand():
    log_prob = torch.tensor([-1.0], requires_grad=True)
    q_value = torch.tensor([3.0], requires_grad=True)
    loss = soft_actor_loss(log_prob, q_value, 0.5)
    assert loss.tolist() == [-3.5]
    loss.sum().backward()
    assert (log_prob.grad.item(), q_value.grad.item()) == (0.5, -1.0)


def test_temperature_loss_by_hand():
    log_temperature = torch.tensor(math.log(0.5), requires_grad=True)
    entropy = torch.tensor([1.0, -3.0], requires_grad=True)
    loss = temperature_loss(log_temperature, entropy, -1.0)
    assert loss.tolist() == pytest.approx([0.5 * 2.0, 0.5 * -2.0])
    # Where the number of legal actions differs from row to row, so does the target.
    assert temperature_loss(log_temperature, entropy, torch.tensor([0.0, -1.0])).tolist() == pytest.approx([0.5, -1.0])
    # More random than asked for: a step against the gradient lowers log α. Less: it raises it.
    for row, gradient in ((0, 1.0), (1, -1.0)):
        (found,) = torch.autograd.grad(loss[row], log_temperature, retain_graph=True)
        assert found.item() == pytest.approx(gradient)
    loss.sum().backward()
    assert entropy.grad is None
