"""Draws, log probabilities and entropies agree with each other and with what a reader can compute."""

import math

import pytest
import torch

from alfish.ops.distributions import make_action_distribution
from alfish.ops.sampled_box import SampledBox
from alfish.ops.sampled_policies import SampledChoices, make_sampled_policy
from alfish.specs import BoundedTensorSpec

TEMPERATURES = [0.5, 1.0, 2.0, math.inf]
UNBOUNDED = (-math.inf, math.inf)


def choices(num, first=0):
    return SampledChoices(BoundedTensorSpec((), torch.int64, first, first + num - 1))


def box(shape=(1,), minimum=-1.0, maximum=1.0, **options):
    return SampledBox(BoundedTensorSpec(shape, torch.float32, minimum, maximum), **options)


def several():
    """Choices of 2, 4 and 3 values that start at 1, 0 and -1."""
    return SampledChoices(BoundedTensorSpec((3,), torch.int32, (1, 0, -1), (2, 3, 1)))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_choices_are_drawn_as_often_as_they_should(temperature):
    probabilities = torch.tensor([0.1, 0.6, 0.0, 0.3])
    expected = torch.where(probabilities > 0, probabilities ** (1 / temperature), 0.0)
    expected /= expected.sum()
    policy, logits = choices(4), probabilities.log().expand(2, -1)
    drawn = policy.sample(logits, 20_000, temperature, torch.Generator().manual_seed(0))
    assert drawn.shape == (2, 20_000)
    share = torch.bincount(drawn.flatten(), minlength=4) / 40_000
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)
    assert share[2] == 0
    log_prob = policy.log_prob(logits[0], torch.arange(4), temperature)
    torch.testing.assert_close(log_prob.exp(), expected)


def test_logits_at_the_ends_of_their_range():
    largest = torch.finfo(torch.float32).max
    logits = torch.tensor([[largest, -largest, 0.0], [-math.inf, -largest, -largest]])
    for temperature in (0.01, 1.0, 100.0):
        drawn = choices(3).sample(logits, 100, temperature)
        assert (drawn[0] == 0).all()
        assert (drawn[1] > 0).all()
        log_prob = choices(3).log_prob(logits, torch.arange(3).expand(2, -1), temperature)
        assert torch.equal(log_prob == -math.inf, logits == -math.inf)
        torch.testing.assert_close(log_prob.exp(), torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]))


def test_a_row_that_cannot_be_drawn_from_stays_within_the_choices():
    logits = torch.tensor([[math.nan, 0.0], [-math.inf, -math.inf], [math.inf, 0.0]])
    drawn = choices(2).sample(logits, 5)
    assert ((drawn >= 0) & (drawn < 2)).all()
    log_prob = choices(2).log_prob(logits, drawn)
    assert log_prob[0].isnan().all()
    assert (log_prob[1] == -math.inf).all()
    assert log_prob[2].isnan().all()


def test_several_choices_are_independent():
    policy = several()
    assert (policy.num_parameters, policy.num_choices, policy.vector_size) == (12, None, 12)
    parameters = torch.randn(2, 12)
    drawn = policy.sample(parameters, 6000, 0.7, torch.Generator().manual_seed(1))
    assert drawn.shape == (2, 6000, 3)
    assert [drawn[..., i].max().item() for i in range(3)] == [1, 3, 2]
    logits = parameters.view(2, 3, 4)
    log_prob = torch.zeros(2, 6000)
    for i, num in enumerate((2, 4, 3)):
        probabilities = torch.softmax(logits[:, i, :num] / 0.7, dim=-1)
        share = torch.stack([(drawn[..., i] == value).float().mean(1) for value in range(num)], dim=1)
        torch.testing.assert_close(share, probabilities, atol=0.025, rtol=0)
        log_prob += probabilities.log().gather(1, drawn[..., i])
    torch.testing.assert_close(policy.log_prob(parameters, drawn, 0.7), log_prob)


def test_choices_as_networks_and_environments_see_them():
    policy = several()
    action = torch.tensor([[0, 3, 1], [1, 0, 2]])
    in_environment = torch.tensor([[1, 3, 0], [2, 0, 1]], dtype=torch.int32)
    assert torch.equal(policy.to_environment(action), in_environment)
    assert policy.to_environment(action).dtype == torch.int32
    assert torch.equal(policy.from_environment(in_environment), action)
    # Zeros, as on the first row of an episode, are not among the values of the first choice.
    assert policy.from_environment(torch.zeros(3, dtype=torch.int32)).tolist() == [0, 0, 1]
    assert policy.as_vector(action[0]).tolist() == [1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0]
    assert choices(3, first=-1).as_vector(torch.tensor([0, 2])).tolist() == [[1, 0, 0], [0, 0, 1]]
    assert choices(3, first=-1).to_environment(torch.tensor([0, 2])).tolist() == [-1, 1]


@pytest.mark.parametrize("spec", [(), (3,)])
def test_the_entropy_of_choices(spec):
    action_spec = BoundedTensorSpec(spec, torch.int64, 0, 4 if spec == () else (1, 4, 2))
    parameters = torch.randn(6, 5 if spec == () else 15)
    distribution = make_action_distribution(action_spec)
    sample, _ = distribution.sample(parameters)
    expected_log_prob, expected_entropy = distribution.evaluate(parameters, sample)
    policy = make_sampled_policy(action_spec)
    torch.testing.assert_close(policy.entropy(parameters), expected_entropy)
    torch.testing.assert_close(policy.log_prob(parameters, sample.unsqueeze(1)).squeeze(1), expected_log_prob)


def test_illegal_choices_have_no_part_in_entropy_and_gradient():
    parameters = torch.tensor([[0.3, -math.inf, 1.0]], requires_grad=True)
    entropy = choices(3).entropy(parameters)
    log_prob = choices(3).log_prob(parameters, torch.tensor([[0, 2]]))
    legal = torch.tensor([[0.3, 1.0]])
    torch.testing.assert_close(entropy, choices(2).entropy(legal))
    (entropy.sum() + log_prob.sum()).backward()
    assert parameters.grad.isfinite().all()
    assert parameters.grad[0, 1] == 0.0


def parameters_of(policy, mean, std):
    """The parameters of a box's normal with this mean and std, in the unit of the box."""
    softplus = (torch.tensor(std) - policy._smallest_std) / policy._spread
    mean = math.atanh(mean) if policy.has_uniform else mean
    return torch.tensor([mean, softplus.expm1().log().item() - math.log(math.e - 1.0)])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.9, 0.3), (-0.99, 0.2), (0.3, 4.0)])
def test_a_box_is_drawn_as_its_log_probabilities_say(mean, std, temperature):
    policy = box(minimum=1.0, maximum=5.0)  # middle 3, unit 2
    parameters = parameters_of(policy, mean, std)
    drawn = policy.sample(parameters.expand(1, -1), 40_000, temperature, torch.Generator().manual_seed(0)).flatten()
    assert ((drawn >= 1.0) & (drawn <= 5.0)).all()
    # The probability of ten intervals and two bounds, by trapezoids under the density in units of the box.
    points = torch.linspace(-1.0 + 1e-6, 1.0 - 1e-6, 2001, dtype=torch.float64)
    density = policy.log_prob(parameters, (3.0 + 2.0 * points).float().unsqueeze(-1), temperature).exp().double()
    inside = torch.stack([torch.trapezoid(density[i : i + 201], points[i : i + 201]) for i in range(0, 2000, 200)])
    ends = policy.log_prob(parameters, torch.tensor([[1.0], [5.0]]), temperature).exp().double()
    assert (inside.sum() + ends.sum()).item() == pytest.approx(1.0, abs=2e-3)
    shares = torch.histc(drawn[(drawn > 1.0) & (drawn < 5.0)], 10, 1.0, 5.0) / 40_000
    torch.testing.assert_close(shares.double(), inside, atol=0.01, rtol=0)
    at_ends = torch.tensor([(drawn == 1.0).double().mean(), (drawn == 5.0).double().mean()])
    torch.testing.assert_close(at_ends, ends, atol=0.01, rtol=0)


def test_the_mean_and_std_of_a_box():
    policy = box((2,), (-2.0, 0.0), (2.0, 10.0))
    mean, std = policy._mean_and_std(torch.zeros(4), 1.0)
    assert mean.tolist() == [0.0, 0.0]
    assert std.tolist() == pytest.approx([0.5, 0.5])
    mean, std = policy._mean_and_std(torch.tensor([100.0, -100.0, -100.0, 0.0]), 4.0)
    assert mean.tolist() == pytest.approx([1.0, -1.0])
    assert std.tolist() == pytest.approx([0.1, 1.0])  # times 2, the root of the temperature
    half_open = box((2,), (0.0, -1.0), (math.inf, 1.0))
    mean, _ = half_open._mean_and_std(torch.tensor([9.0, 9.0, 0.0, 0.0]), 1.0)
    assert mean.tolist() == pytest.approx([9.0, 1.0])


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, math.inf), (-math.inf, 3.0), UNBOUNDED])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.5), (0.9, 0.1), (-0.99, 0.2), (0.3, 3.0)])
def test_the_entropy_of_a_box_is_the_mean_of_minus_its_log_probabilities(bounds, mean, std):
    policy = box((), *bounds)
    parameters = parameters_of(policy, mean, std)
    drawn = policy.sample(parameters.expand(1, -1), 40_000, 1.0, torch.Generator().manual_seed(0))
    expected = -policy.log_prob(parameters, drawn).mean()
    assert policy.entropy(parameters).item() == pytest.approx(expected.item(), abs=0.03)


def test_without_bounds_it_is_a_normal():
    policy = box((2,), *UNBOUNDED)
    mean, std = torch.tensor([0.5, -7.0]), torch.tensor([0.3, 0.7])
    first, second = (parameters_of(policy, m, s) for m, s in zip(mean.tolist(), std.tolist(), strict=True))
    parameters = torch.stack((first, second), dim=1).flatten()
    action = torch.randn(5, 2) * 3
    expected = torch.distributions.Normal(mean, std).log_prob(action).sum(-1)
    torch.testing.assert_close(policy.log_prob(parameters, action), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, math.inf), UNBOUNDED, (2.0, 2.0)])
def test_gradients_are_finite(bounds):
    policy = box((1,), *bounds)
    parameters = torch.tensor([[40.0, -40.0], [-40.0, -40.0], [0.0, 60.0], [0.0, 0.0]], requires_grad=True)
    action = policy.from_environment(torch.tensor([[-5.0], [0.3], [5.0]])).expand(4, 3, 1)
    loss = policy.log_prob(parameters, action).sum() + policy.entropy(parameters).sum()
    loss.backward()
    assert loss.isfinite()
    assert parameters.grad.isfinite().all()


def test_boxes_as_networks_and_environments_see_them():
    policy = SampledBox(BoundedTensorSpec((2, 1), torch.float64, ((-2.0,), (0.0,)), ((2.0,), (10.0,))))
    action = torch.tensor([[[-2.0], [10.0]], [[1.0], [5.0]]])
    assert policy.as_vector(action).tolist() == [[-1.0, 1.0], [0.5, 0.0]]
    assert policy.to_environment(action).dtype == torch.float64
    assert torch.equal(policy.from_environment(policy.to_environment(action)), action)
    assert policy.from_environment(torch.tensor([[-9.0], [99.0]])).tolist() == [[-2.0], [10.0]]
    assert policy.sample(torch.zeros(3, 4), 5).shape == (3, 5, 2, 1)
    assert box((), -1.0, 1.0).sample(torch.zeros(3, 2), 5).shape == (3, 5)


def test_what_there_is_no_policy_for():
    with pytest.raises(ValueError, match="SampledBox.smallest_std is 0.5"):
        box(smallest_std=0.5)
    with pytest.raises(ValueError, match="no action distribution"):
        make_sampled_policy((BoundedTensorSpec((), torch.int64, 0, 1),))
    assert not box((), 0.0, math.inf).has_uniform
    assert isinstance(make_sampled_policy(BoundedTensorSpec((2,), torch.float32, -1, 1)), SampledBox)
