"""What holds for every family of action distributions, and which family a spec gets."""

import math

import pytest
import torch

from alfish import nest
from alfish.ops.beta_distribution import BetaDistribution
from alfish.ops.box_distributions import DiagonalNormal, SquashedNormal
from alfish.ops.categorical_distributions import Categorical, MultiCategorical
from alfish.ops.distributions import make_action_distribution
from alfish.ops.nested_distribution import NestedDistribution
from alfish.specs import BoundedTensorSpec, TensorSpec

# One list for every family: the spec, the family of boxes that is asked for, and the family that it gives.
CASES = [
    (BoundedTensorSpec((), torch.int64, 0, 3), "normal", Categorical),
    (BoundedTensorSpec((), torch.int32, -2, 4), "beta", Categorical),
    (BoundedTensorSpec((3,), torch.int64, (0, 0, -1), (1, 4, 1)), "normal", MultiCategorical),
    (BoundedTensorSpec((2, 2), torch.int8, 0, 1), "squashed_normal", MultiCategorical),
    (BoundedTensorSpec((2,), torch.bool, False, True), "normal", MultiCategorical),
    (BoundedTensorSpec((2,), torch.float32, -1.0, (0.5, 1.0)), "normal", DiagonalNormal),
    (BoundedTensorSpec((), torch.float32, -0.1, 0.1), "normal", DiagonalNormal),
    (BoundedTensorSpec((2, 3), torch.float64, -0.1, 0.1), "normal", DiagonalNormal),
    (BoundedTensorSpec((2,), torch.float32, -math.inf, math.inf), "normal", DiagonalNormal),
    (BoundedTensorSpec((2,), torch.float32, -1.0, (0.5, 1.0)), "squashed_normal", SquashedNormal),
    (BoundedTensorSpec((), torch.float32, -0.1, 0.1), "squashed_normal", SquashedNormal),
    (BoundedTensorSpec((2, 3), torch.float64, 3.0, 3.1), "squashed_normal", SquashedNormal),
    (BoundedTensorSpec((2,), torch.float32, -1.0, (0.5, 1.0)), "beta", BetaDistribution),
    (BoundedTensorSpec((), torch.float32, -0.1, 0.1), "beta", BetaDistribution),
    (BoundedTensorSpec((2, 3), torch.float64, 3.0, 3.1), "beta", BetaDistribution),
    (
        {
            "move": BoundedTensorSpec((2,), torch.float32, -2.0, 2.0),
            "jump": BoundedTensorSpec((), torch.int64, 0, 2),
            "signals": (BoundedTensorSpec((2,), torch.int64, 0, 1), BoundedTensorSpec((), torch.float32, 0.0, 1.0)),
        },
        "beta",
        NestedDistribution,
    ),
    ([BoundedTensorSpec((), torch.int64, 0, 2)], "normal", NestedDistribution),
]


def torch_distribution(family, parameters):
    """torch.distributions' own, of samples with one axis of elements; of a squashed normal the normal."""
    if family is BetaDistribution:
        first, second = (1.0 + torch.nn.functional.softplus(parameters)).chunk(2, -1)
        beta = torch.distributions.Beta(first, second)
        return torch.distributions.TransformedDistribution(beta, torch.distributions.AffineTransform(-1.0, 2.0))
    mean, log_std = parameters.chunk(2, -1)
    return torch.distributions.Normal(mean, log_std.exp())


def log_prob_by_torch(spec, family, parameters, sample):
    """The log probability, and the entropy or None where torch has none."""
    if family is NestedDistribution:
        total = [torch.zeros(parameters.shape[:-1])] * 2
        for part, leaf in zip(nest.leaves(spec), nest.leaves(sample), strict=True):
            distribution = make_action_distribution(part, "beta")
            own, parameters = parameters.tensor_split([distribution.num_parameters], dim=-1)
            found = log_prob_by_torch(part, type(distribution), own, leaf)
            total = [a + b for a, b in zip(total, found, strict=True)]
        return total
    flat = sample.reshape(*sample.shape[: sample.ndim - len(spec.shape)], -1)
    if spec.dtype.is_floating_point:
        reference = torch_distribution(family, parameters)
        if family is SquashedNormal:
            # By its parts: torch's whole one inverts tanh, which loses all digits near the bounds.
            slope = torch.distributions.TanhTransform().log_abs_det_jacobian(flat, torch.tanh(flat))
            return (reference.log_prob(flat) - slope).sum(-1), None
        if family is BetaDistribution:
            entropy = reference.base_dist.entropy() + math.log(2.0)
            return reference.log_prob(2.0 * flat - 1.0).sum(-1), entropy.sum(-1)
        return reference.log_prob(flat.float()).sum(-1), reference.entropy().sum(-1)
    minimum, maximum = (bound.expand(spec.shape).flatten() for bound in spec.bounds())
    counts = [int(top) - int(bottom) + 1 for top, bottom in zip(maximum, minimum, strict=True)]
    log_prob, entropy = torch.zeros(flat.shape[:-1]), torch.zeros(flat.shape[:-1])
    for i, count in enumerate(counts):
        logits = parameters.unflatten(-1, (len(counts), -1))[..., i, :count]
        part = torch.distributions.Categorical(logits=logits)
        log_prob += part.log_prob(flat[..., i].long() - int(minimum[i]))
        entropy += part.entropy()
    return log_prob, entropy


def draw(spec, box_distribution, shape, seed=0):
    torch.manual_seed(seed)
    distribution = make_action_distribution(spec, box_distribution)
    parameters = torch.randn(*shape, distribution.num_parameters).clamp(-2.0, 2.0)  # the largest log std
    return distribution, parameters, *distribution.sample(parameters)


@pytest.mark.parametrize(("spec", "box_distribution", "family"), CASES)
def test_against_torch(spec, box_distribution, family):
    distribution, parameters, sample, log_prob = draw(spec, box_distribution, (5, 7))
    assert type(distribution) is family
    assert nest.structure(sample) == nest.structure(spec) and log_prob.shape == (5, 7)
    for part, leaf in zip(nest.leaves(spec), nest.leaves(sample), strict=True):
        assert leaf.shape == (5, 7) + part.shape
    evaluated, entropy = distribution.evaluate(parameters, sample)
    expected_log_prob, expected_entropy = log_prob_by_torch(spec, family, parameters, sample)
    torch.testing.assert_close(log_prob, expected_log_prob, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(evaluated, log_prob, rtol=1e-4, atol=1e-5)
    if expected_entropy is not None:
        torch.testing.assert_close(entropy, expected_entropy, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("spec", "box_distribution", "family"), CASES)
def test_actions_are_in_bounds(spec, box_distribution, family):
    distribution, parameters, sample, _ = draw(spec, box_distribution, (64,))
    for candidate in (sample, distribution.mode(parameters), distribution.mode(1e4 * parameters)):
        action = distribution.clip(candidate)
        assert distribution.clips or action is candidate
        for part, leaf in zip(nest.leaves(spec), nest.leaves(action), strict=True):
            minimum, maximum = part.bounds()
            assert leaf.dtype == part.dtype and leaf.shape == (64,) + part.shape
            assert (leaf >= minimum).all() and (leaf <= maximum).all()


@pytest.mark.parametrize(
    ("spec", "box_distribution", "family"), [case for case in CASES if case[2] is not SquashedNormal]
)
def test_the_mode_is_the_most_likely(spec, box_distribution, family):
    distribution, parameters, _, log_prob = draw(spec, box_distribution, (256,))
    mode_log_prob, _ = distribution.evaluate(parameters, distribution.mode(parameters))
    assert (mode_log_prob >= log_prob - 1e-5).all()


@pytest.mark.parametrize(("spec", "box_distribution", "family"), CASES)
def test_the_entropy_is_the_mean_of_the_negative_log_prob(spec, box_distribution, family):
    distribution = make_action_distribution(spec, box_distribution)
    torch.manual_seed(1)
    parameters = torch.randn(distribution.num_parameters).expand(20_000, -1)
    sample, log_prob = distribution.sample(parameters)
    _, entropy = distribution.evaluate(parameters[:1], nest.map_structure(lambda leaf: leaf[:1], sample))
    bound = 5.0 * float(log_prob.std()) / math.sqrt(len(log_prob)) + 1e-4
    assert abs(float(entropy) + float(log_prob.mean())) < bound


@pytest.mark.parametrize(("spec", "box_distribution", "family"), CASES)
def test_torchs_global_generator_decides(spec, box_distribution, family):
    draws = [nest.leaves(draw(spec, box_distribution, (64,), seed)[2])[0] for seed in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


REPARAMETERIZED = [case for case in CASES if make_action_distribution(case[0], case[1]).has_rsample]


def test_continuous_families_are_reparameterized():
    assert {case[2] for case in REPARAMETERIZED} == {DiagonalNormal, SquashedNormal, BetaDistribution}


@pytest.mark.parametrize(("spec", "box_distribution", "family"), REPARAMETERIZED)
def test_reparameterized_samples_have_the_gradient_of_expectations(spec, box_distribution, family):
    """The gradients of E[sample] and of the entropy, E[-log p], by `rsample` beside exact ones."""
    distribution = make_action_distribution(spec, box_distribution)
    torch.manual_seed(2)
    point = 0.5 * torch.randn(distribution.num_parameters)
    leaf = point.clone().requires_grad_()
    sample, log_prob = distribution.rsample(leaf.expand(40_000, -1))
    (found_entropy,) = torch.autograd.grad(-log_prob.mean(), leaf, retain_graph=True)
    (found_mean,) = torch.autograd.grad(sample.sum() / 40_000, leaf)
    exact = point.clone().requires_grad_()
    _, entropy = distribution.evaluate(exact, distribution.mode(point))
    (expected_entropy,) = torch.autograd.grad(entropy, exact)
    torch.testing.assert_close(found_entropy, expected_entropy, atol=0.03, rtol=0.0)
    size = distribution.num_parameters // 2
    if family is BetaDistribution:
        first, second = (1.0 + torch.nn.functional.softplus(exact)).chunk(2)
        (expected_mean,) = torch.autograd.grad((first / (first + second)).sum(), exact)
    else:
        expected_mean = torch.cat((torch.ones(size), torch.zeros(size)))  # of u, or of the normal: the mean itself
    torch.testing.assert_close(found_mean.float(), expected_mean, atol=0.03, rtol=0.0)


@pytest.mark.parametrize(("spec", "box_distribution", "family"), REPARAMETERIZED)
def test_rsample_draws_what_sample_draws(spec, box_distribution, family):
    distribution, parameters, sample, log_prob = draw(spec, box_distribution, (8,))
    torch.manual_seed(0)
    torch.randn_like(parameters)
    again, log_prob_again = distribution.rsample(parameters)
    assert torch.equal(sample, again) and torch.equal(log_prob, log_prob_again)


def test_which_parameters_are_log_stds():
    box, choice = BoundedTensorSpec((2,), torch.float32, -1.0, 1.0), BoundedTensorSpec((), torch.int64, 0, 3)
    for box_distribution, expected in (("normal", (2, 3)), ("squashed_normal", (2, 3)), ("beta", ())):
        assert make_action_distribution(box, box_distribution).log_std_indices == expected
    assert make_action_distribution(choice).log_std_indices == ()
    # b's four logits lie between the parameters of a and c.
    assert make_action_distribution({"a": box, "b": choice, "c": box}).log_std_indices == (2, 3, 10, 11)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"a": BoundedTensorSpec((), torch.int64, 0, 1), "b": TensorSpec((2,))}, r"action\.b: .*one BoundedTensorSpec"),
        (({}, ()), "has no parts; expected .*: give the environment an action space with a part"),
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


@pytest.mark.parametrize("box_distribution", ["squashed_normal", "beta"])
@pytest.mark.parametrize("maximum", [math.inf, (1.0, math.inf)])
def test_families_between_bounds_need_bounds(box_distribution, maximum):
    with pytest.raises(ValueError, match='without bounds.* use box_distribution = "normal"'):
        make_action_distribution(BoundedTensorSpec((2,), torch.float32, 0.0, maximum), box_distribution)


def test_unknown_families_are_refused():
    with pytest.raises(ValueError, match=r"box_distribution is 'gauss'; expected one of \['beta', 'normal', 'squashed"):
        make_action_distribution(BoundedTensorSpec((), torch.int64, 0, 1), "gauss")
