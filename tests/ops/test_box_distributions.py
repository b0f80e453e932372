"""Normals, plain and squashed: numbers by hand, integrals, bounds and extremes."""

import math

import pytest
import torch

from alfish.ops.box_distributions import DiagonalNormal, SquashedNormal
from alfish.ops.distributions import make_action_distribution
from alfish.specs import BoundedTensorSpec

UNIT = BoundedTensorSpec((1,), torch.float32, -1.0, 1.0)
HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


def test_clipping_is_not_in_the_log_prob():
    distribution = DiagonalNormal(UNIT)
    parameters = torch.tensor([[3.0, 0.0]])
    assert distribution.clip(distribution.mode(parameters)).item() == 1.0
    log_prob, entropy = distribution.evaluate(parameters, torch.tensor([[3.0]]))
    assert log_prob.item() == pytest.approx(-HALF_LOG_TWO_PI)
    assert entropy.item() == pytest.approx(HALF_LOG_TWO_PI + 0.5)


def test_squashed_normal_by_hand():
    # At u = 0 tanh has the slope 1: the density is the normal's, whatever the box.
    parameters = torch.tensor([[0.0, math.log(2.0)]])
    for spec in (UNIT, BoundedTensorSpec((1,), torch.float32, -20.0, 60.0)):
        log_prob, _ = SquashedNormal(spec).evaluate(parameters, torch.zeros(1, 1))
        assert log_prob.item() == pytest.approx(-math.log(2.0) - HALF_LOG_TWO_PI)
    # At u = artanh(1/2) the slope is 3/4, and the noise is u / 2.
    sample = torch.tensor([[math.atanh(0.5)]])
    log_prob, _ = SquashedNormal(UNIT).evaluate(parameters, sample)
    expected = -0.5 * (math.atanh(0.5) / 2.0) ** 2 - math.log(2.0) - HALF_LOG_TWO_PI - math.log(0.75)
    assert log_prob.item() == pytest.approx(expected)
    assert SquashedNormal(UNIT).clip(sample).item() == pytest.approx(0.5)
    assert SquashedNormal(BoundedTensorSpec((1,), torch.float32, -20.0, 60.0)).clip(sample).item() == pytest.approx(
        40.0
    )


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.1), (0.0, 1.0), (2.0, 0.5), (-1.0, 3.0), (0.3, 7.0)])
def test_the_squashed_density_and_its_entropy_by_integration(mean, std):
    number = torch.linspace(mean - 9.0 * std, mean + 9.0 * std, 100_001, dtype=torch.float64)
    mass = torch.exp(-0.5 * ((number - mean) / std) ** 2) / (std * math.sqrt(2.0 * math.pi))  # of each du
    slope = 1.0 / torch.cosh(number) ** 2  # dtanh(u) / du
    parameters = torch.tensor([[mean, math.log(std)]], dtype=torch.float64)
    log_prob, entropy = SquashedNormal(UNIT).evaluate(parameters.expand(len(number), 2), number.unsqueeze(1))
    torch.testing.assert_close(log_prob, (mass / slope).log(), rtol=1e-6, atol=1e-6)
    width = number[1] - number[0]
    assert (log_prob.exp() * slope * width).sum().item() == pytest.approx(1.0, abs=1e-6)
    expected = -(mass * width * log_prob).sum().item()
    assert entropy[0].item() == pytest.approx(expected, abs=0.03 if std > 5.0 else 0.005)


def test_squashed_entropies_are_at_most_that_of_the_uniform_distribution():
    distribution = SquashedNormal(BoundedTensorSpec((1,), torch.float32, -9.0, 9.0))
    log_std = torch.linspace(-20.0, 2.0, 200)
    _, entropy = distribution.evaluate(torch.stack((torch.zeros(200), log_std), dim=1), torch.zeros(200, 1))
    assert entropy.max().item() == pytest.approx(math.log(2.0), abs=0.02)  # near a std of 0.87
    assert entropy.argmax() not in (0, 199)


def test_the_squashed_mode_is_the_median():
    distribution = SquashedNormal(BoundedTensorSpec((1,), torch.float32, 0.0, 4.0))
    parameters = torch.tensor([[0.7, 1.5]])
    torch.manual_seed(0)
    action = distribution.clip(distribution.sample(parameters.expand(20_000, 2))[0])
    mode = distribution.clip(distribution.mode(parameters)).item()
    assert mode == pytest.approx(2.0 + 2.0 * math.tanh(0.7))
    assert (action < mode).float().mean().item() == pytest.approx(0.5, abs=0.011)


def test_squashed_log_probs_are_exact_and_finite_where_tanh_rounds_to_the_bound():
    distribution = SquashedNormal(BoundedTensorSpec((1,), torch.float32, 0.0, 4.0))
    parameters = torch.tensor([[0.0, 2.0]], requires_grad=True)
    sample = torch.tensor([[30.0]])
    assert distribution.clip(sample).item() == 4.0
    log_prob, _ = distribution.evaluate(parameters, sample)
    # log(1 - tanh(30)^2) is log 4 - 60 up to e^-60.
    expected = -0.5 * (30.0 / math.exp(2.0)) ** 2 - 2.0 - HALF_LOG_TWO_PI - (math.log(4.0) - 60.0)
    assert log_prob.item() == pytest.approx(expected, rel=1e-6)
    log_prob.sum().backward()
    assert parameters.grad.isfinite().all()


def test_the_squashed_action_passes_its_gradient_on():
    distribution = SquashedNormal(BoundedTensorSpec((2,), torch.float32, (0.0, -1.0), (4.0, 1.0)))
    parameters = torch.tensor([[0.5, -0.3, 0.0, -1.0]], requires_grad=True)
    torch.manual_seed(0)
    sample, _ = distribution.rsample(parameters)
    (gradient,) = torch.autograd.grad(distribution.clip(sample).sum(), parameters)
    slope = torch.tensor([2.0, 1.0]) * (1.0 - torch.tanh(sample) ** 2)
    moved = torch.cat((slope, slope * (sample - parameters[:, :2])), dim=1)
    torch.testing.assert_close(gradient, moved.detach())


def test_the_log_prob_of_a_reparameterized_sample_has_its_whole_gradient():
    # log p(u(noise)): as u moves with the mean, the normal's part stays and only the slope of tanh changes:
    # d/du of -log(1 - tanh(u)^2) is 2 tanh(u).
    distribution = SquashedNormal(UNIT)
    parameters = torch.tensor([[0.5, -1.0]], requires_grad=True)
    torch.manual_seed(0)
    sample, log_prob = distribution.rsample(parameters)
    (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
    pull = 2.0 * torch.tanh(sample).item()
    noise_part = (sample - 0.5).item()  # du / dlog_std = std * noise
    assert gradient[0].tolist() == pytest.approx([pull, pull * noise_part - 1.0], rel=1e-5)


def test_rounding_stays_inside():
    generator = torch.Generator().manual_seed(0)
    minimum = torch.randn(1000, generator=generator)
    maximum = minimum + torch.rand(1000, generator=generator)
    spec = BoundedTensorSpec.from_arrays((1000,), torch.float32, minimum.numpy(), maximum.numpy())
    distribution = SquashedNormal(spec)
    lowest, highest = distribution.clip(torch.full((2, 1000), 50.0) * torch.tensor([[-1.0], [1.0]]))
    assert (lowest >= minimum).all() and (highest <= maximum).all()
    torch.testing.assert_close(torch.stack((lowest, highest)), torch.stack((minimum, maximum)))


def test_equal_bounds_are_a_constant():
    spec = BoundedTensorSpec((2,), torch.float32, (0.1, 0.1), (0.1, 0.7))
    distribution = SquashedNormal(spec)
    minimum, maximum = spec.bounds()
    sample, log_prob = distribution.sample(torch.randn(500, 4) * 10.0)
    action = distribution.clip(torch.cat((sample, torch.tensor([[-1e30, -1e30], [1e30, 1e30]]))))
    assert (action[:, 0] == minimum[0]).all() and log_prob.isfinite().all()
    assert (action >= minimum).all() and (action <= maximum).all()
    torch.testing.assert_close(action[-2:], torch.stack((minimum, maximum)))


def test_widest_bounds_do_not_overflow():
    most = torch.finfo(torch.float32).max
    distribution = SquashedNormal(BoundedTensorSpec((), torch.float32, -most, most))
    assert distribution.clip(torch.tensor([-50.0, 0.0, 50.0])).tolist() == [-most, 0.0, most]


@pytest.mark.parametrize("box_distribution", ["normal", "squashed_normal"])
@pytest.mark.parametrize("mean", [0.0, 30.0, -1e4])
@pytest.mark.parametrize("log_std", [-1e30, -100.0, -20.0, 2.0, 100.0, 1e30])
def test_extreme_parameters_give_finite_numbers_and_gradients(box_distribution, mean, log_std):
    distribution = make_action_distribution(UNIT, box_distribution)
    parameters = torch.tensor([[mean, log_std]]).repeat(64, 1).requires_grad_()
    torch.manual_seed(0)
    sample, log_prob = distribution.rsample(parameters)
    (gradient,) = torch.autograd.grad((log_prob + distribution.clip(sample).sum(-1)).sum(), parameters)
    evaluated, entropy = distribution.evaluate(parameters, sample.detach())
    (other,) = torch.autograd.grad((evaluated + entropy).sum(), parameters)
    for numbers in (sample, log_prob, gradient, evaluated, entropy, other):
        assert numbers.isfinite().all()


def test_log_stds_are_limited():
    narrow = SquashedNormal(UNIT, min_log_std=-1.0, max_log_std=0.5)
    for given, used in ((-3.0, -1.0), (3.0, 0.5)):
        parameters = torch.tensor([[0.0, given]], requires_grad=True)
        log_prob, _ = narrow.evaluate(parameters, torch.zeros(1, 1))
        assert log_prob.item() == pytest.approx(-used - HALF_LOG_TWO_PI, rel=1e-5)
        log_prob.sum().backward()
        assert parameters.grad[0, 1] == 0.0
    for limits in ((0.0, 0.0), (-21.0, 2.0), (-5.0, math.nan), (-5.0, 21.0)):
        with pytest.raises(ValueError, match="expected -20 <= min_log_std < max_log_std <= 20"):
            SquashedNormal(UNIT, *limits)
