"""Beta distributions: numbers by hand, bounds and extremes. Beside torch.distributions: test_distributions.py."""

import math

import pytest
import torch

from alfish.ops.beta_distribution import BetaDistribution
from alfish.specs import BoundedTensorSpec

UNIT = BoundedTensorSpec((1,), torch.float32, -1.0, 1.0)
BOX = BoundedTensorSpec((1,), torch.float32, 2.0, 10.0)
ONE = math.log(math.e - 1.0)  # softplus(ONE) is 1
VERY_SMALL = -200.0  # its softplus is 0


def test_log_prob_mode_and_entropy_by_hand():
    # Beta(2, 3) has the density 12 x (1 - x)^2; that of the action in [-1, 1] is half of it.
    three = math.log(math.exp(2.0) - 1.0)
    parameters = torch.tensor([[ONE, three]])
    for spec in (UNIT, BOX):  # the unit is half the width
        log_prob, _ = BetaDistribution(spec).evaluate(parameters, torch.tensor([[0.25]]))
        assert log_prob.item() == pytest.approx(math.log(12 * 0.25 * 0.75**2 / 2), rel=1e-5)
    distribution = BetaDistribution(BOX)
    assert distribution.mode(parameters).item() == pytest.approx(1 / 3, rel=1e-5)
    assert distribution.clip(distribution.mode(parameters)).item() == pytest.approx(2.0 + 8.0 / 3, rel=1e-5)
    # The entropy of Beta(2, 3) by integration.
    x = torch.linspace(0.0, 1.0, 200_001, dtype=torch.float64)[1:-1]
    density = 6 * x * (1 - x) ** 2
    _, entropy = distribution.evaluate(parameters, torch.tensor([[0.5]]))
    assert entropy.item() == pytest.approx(-(density * density.log()).mean().item() * 2, abs=1e-4)


def test_the_smallest_parameters_are_the_uniform_distribution():
    distribution = BetaDistribution(BOX)
    parameters = torch.full((2000, 2), VERY_SMALL)
    torch.manual_seed(0)
    sample, log_prob = distribution.sample(parameters)
    _, entropy = distribution.evaluate(parameters, sample)
    torch.testing.assert_close(log_prob, torch.full((2000,), -math.log(2.0)))
    torch.testing.assert_close(entropy, torch.full((2000,), math.log(2.0)))
    assert distribution.mode(parameters)[0].item() == 0.5
    assert sample.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("parameters", [(0.0, 0.0), (VERY_SMALL, 3.0), (5.0, -5.0), (50.0, 50.0)])
def test_log_probs_are_finite_at_the_bounds(parameters):
    distribution = BetaDistribution(UNIT)
    leaf = torch.tensor([parameters] * 2, requires_grad=True)
    sample = torch.tensor([[0.0], [1.0]])
    assert distribution.clip(sample).flatten().tolist() == [-1.0, 1.0]
    log_prob, _ = distribution.evaluate(leaf, sample)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and leaf.grad.isfinite().all()
    assert (log_prob < 2.0).all()


@pytest.mark.parametrize("parameters", [(1e30, 1e30), (-1e30, 1e30), (1e30, -1e30), (-1e30, -1e30), (1e6, 1e6)])
def test_extreme_parameters_give_finite_numbers_and_gradients(parameters):
    distribution = BetaDistribution(UNIT)
    leaf = torch.tensor(parameters).expand(64, 2).clone().requires_grad_()
    torch.manual_seed(0)
    sample, log_prob = distribution.rsample(leaf)
    (gradient,) = torch.autograd.grad((log_prob + distribution.clip(sample).sum(-1)).sum(), leaf)
    evaluated, entropy = distribution.evaluate(leaf, sample.detach())
    (other,) = torch.autograd.grad((evaluated + entropy).sum(), leaf)
    mode = distribution.mode(leaf)
    for numbers in (sample, log_prob, gradient, evaluated, entropy, other, mode):
        assert numbers.isfinite().all()
    assert (sample >= 0.0).all() and (sample <= 1.0).all()


def test_narrow_distributions_keep_their_digits():
    # Beta(a, a) with a = 10,001 is nearly a normal of std 1 / sqrt(4 (2a + 1)); of 2x - 1 twice that.
    leaf = torch.full((1, 2), 1.0e4)
    log_prob, entropy = BetaDistribution(UNIT).evaluate(leaf, torch.tensor([[0.5]]))
    std = 1.0 / math.sqrt(2.0 * 10_001.0 + 1.0)
    assert log_prob.item() == pytest.approx(-math.log(std * math.sqrt(2 * math.pi)), abs=1e-4)
    assert entropy.item() == pytest.approx(math.log(std * math.sqrt(2 * math.pi * math.e)), abs=1e-4)


def test_equal_bounds_are_a_constant():
    spec = BoundedTensorSpec((2,), torch.float32, (0.1, 0.1), (0.1, 0.7))
    distribution = BetaDistribution(spec)
    torch.manual_seed(0)
    sample, log_prob = distribution.sample(torch.randn(500, 4) * 3.0)
    action = distribution.clip(torch.cat((sample, torch.zeros(1, 2), torch.ones(1, 2))))
    minimum, maximum = spec.bounds()
    assert log_prob.isfinite().all() and (action[:, 0] == minimum[0]).all()
    assert (action >= minimum).all() and (action <= maximum).all()
    torch.testing.assert_close(action[-2:], torch.stack((minimum, maximum)))


def test_the_action_passes_its_gradient_on():
    distribution = BetaDistribution(BOX)
    parameters = torch.tensor([[0.5, 0.5]], requires_grad=True)
    torch.manual_seed(0)
    sample, _ = distribution.rsample(parameters)
    (of_sample,) = torch.autograd.grad(sample.sum(), parameters, retain_graph=True)
    (of_action,) = torch.autograd.grad(distribution.clip(sample).sum(), parameters)
    torch.testing.assert_close(of_action, 8.0 * of_sample)
    assert of_action[0, 0] > 0.0 > of_action[0, 1]
