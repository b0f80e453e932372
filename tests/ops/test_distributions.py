import math

import pytest
import torch

from alfish.ops.distributions import (
    Categorical,
    DiagonalNormal,
    MultiCategorical,
    categorical_entropy,
    make_action_distribution,
    sample_categorical,
)
from alfish.ops.masking import mask_logits
from alfish.specs import BoundedTensorSpec, TensorSpec

# One list for every family: the spec and the family that fits it.
CASES = [
    (BoundedTensorSpec((), torch.int64, 0, 3), Categorical),
    (BoundedTensorSpec((), torch.int32, -2, 4), Categorical),
    (BoundedTensorSpec((3,), torch.int64, (0, 0, -1), (1, 4, 1)), MultiCategorical),
    (BoundedTensorSpec((2, 2), torch.int8, 0, 1), MultiCategorical),
    (BoundedTensorSpec((2,), torch.bool, False, True), MultiCategorical),
    (BoundedTensorSpec((2,), torch.float32, -1.0, (0.5, 1.0)), DiagonalNormal),
    (BoundedTensorSpec((), torch.float32, -0.1, 0.1), DiagonalNormal),
    (BoundedTensorSpec((2, 3), torch.float64, -0.1, 0.1), DiagonalNormal),
    (BoundedTensorSpec((2,), torch.float32, -math.inf, math.inf), DiagonalNormal),
]


def log_prob_by_torch(spec, parameters, sample):
    """The log probability and the entropy by torch.distributions."""
    minimum, maximum = (bound.expand(spec.shape).flatten() for bound in spec.bounds())
    flat = sample.reshape(*sample.shape[: sample.ndim - len(spec.shape)], -1)
    if spec.dtype.is_floating_point:
        mean, log_std = parameters.chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        return normal.log_prob(flat.float()).sum(-1), normal.entropy().sum(-1)
    counts = [int(top) - int(bottom) + 1 for top, bottom in zip(maximum, minimum, strict=True)]
    log_prob, entropy = torch.zeros(flat.shape[:-1]), torch.zeros(flat.shape[:-1])
    for i, count in enumerate(counts):
        logits = parameters.unflatten(-1, (len(counts), -1))[..., i, :count]
        part = torch.distributions.Categorical(logits=logits)
        log_prob += part.log_prob(flat[..., i].long() - int(minimum[i]))
        entropy += part.entropy()
    return log_prob, entropy


@pytest.mark.parametrize(("spec", "family"), CASES)
def test_against_torch(spec, family):
    torch.manual_seed(0)
    distribution = make_action_distribution(spec)
    assert type(distribution) is family
    parameters = torch.randn(5, 7, distribution.num_parameters)
    sample, log_prob = distribution.sample(parameters)
    assert sample.dtype == spec.dtype and sample.shape == (5, 7) + spec.shape and log_prob.shape == (5, 7)
    evaluated, entropy = distribution.evaluate(parameters, sample)
    expected_log_prob, expected_entropy = log_prob_by_torch(spec, parameters, sample)
    torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evaluated, expected_log_prob, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy)


@pytest.mark.parametrize(("spec", "family"), CASES)
def test_actions_are_in_bounds_and_the_mode_is_the_most_likely(spec, family):
    torch.manual_seed(1)
    distribution = make_action_distribution(spec)
    parameters = torch.randn(64, distribution.num_parameters)
    sample, log_prob = distribution.sample(parameters)
    minimum, maximum = spec.bounds()
    for candidate in (sample, distribution.mode(parameters)):
        action = distribution.clip(candidate)
        assert action.dtype == spec.dtype and action.shape == (64,) + spec.shape
        assert (action >= minimum).all() and (action <= maximum).all()
        assert distribution.clips or action is candidate
    mode_log_prob, _ = distribution.evaluate(parameters, distribution.mode(parameters))
    assert (mode_log_prob >= log_prob - 1e-5).all()


@pytest.mark.parametrize(("spec", "family"), CASES)
def test_torchs_global_generator_decides(spec, family):
    distribution = make_action_distribution(spec)
    parameters = torch.zeros(64, distribution.num_parameters)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(distribution.sample(parameters)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_clipping_is_not_in_the_log_prob():
    distribution = make_action_distribution(BoundedTensorSpec((1,), torch.float32, -1.0, 1.0))
    parameters = torch.tensor([[3.0, 0.0]])
    assert distribution.clip(distribution.mode(parameters)).item() == 1.0
    log_prob, entropy = distribution.evaluate(parameters, torch.tensor([[3.0]]))
    assert log_prob.item() == pytest.approx(-0.5 * math.log(2 * math.pi))
    assert entropy.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e))


def test_sampling_frequencies():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    counts = sample_categorical(probabilities.log().expand(20_000, 3)).bincount(minlength=3) / 20_000
    # Three standard deviations are 0.011.
    torch.testing.assert_close(counts, probabilities, atol=0.011, rtol=0.0)


def test_impossible_choices_are_never_drawn():
    torch.manual_seed(0)
    legal = torch.tensor([False, True, False, True])
    logits = mask_logits(torch.tensor([50.0, -3.0, 50.0, -3.0]), legal).expand(5000, 4)
    assert legal[sample_categorical(logits)].all()
    assert set(sample_categorical(logits).tolist()) == {1, 3}
    unnormalised = torch.tensor([0.0, -math.inf]).expand(5000, 2)
    assert (sample_categorical(unnormalised) == 0).all()


def test_entropy_by_hand():
    assert categorical_entropy(torch.tensor([0.25] * 4).log()).item() == pytest.approx(math.log(4.0))


def test_surplus_logits_get_no_gradient():
    distribution = make_action_distribution(BoundedTensorSpec((2,), torch.int64, 0, (0, 2)))
    parameters = torch.randn(4, 6, requires_grad=True)
    log_prob, entropy = distribution.evaluate(parameters, torch.tensor([[0, 1]] * 4))
    (log_prob + entropy).sum().backward()
    assert (parameters.grad[:, :3] == 0).all()  # one value: nothing to learn, and two surplus logits
    assert (parameters.grad[:, 3:] != 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"a": BoundedTensorSpec((), torch.int64, 0, 1)}, "join the parts"),
        (TensorSpec((2,)), "expected one BoundedTensorSpec"),
        (BoundedTensorSpec((0,), torch.float32, 0.0, 1.0), "no elements"),
        (BoundedTensorSpec((), torch.int64, 3, 2), "check the bounds"),
        (BoundedTensorSpec((2,), torch.int64, 0, 2**62), "check the bounds"),
        (BoundedTensorSpec((2,), torch.float32, 1.0, 0.0), "minimum above its maximum"),
    ],
)
def test_specs_without_a_distribution_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        make_action_distribution(spec)
