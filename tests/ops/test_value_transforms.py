import math

import pytest
import torch

from alfish.ops.value_transforms import CategoricalSupport, IdentityTransform, SignedHyperbolicTransform


def test_hyperbolic_by_hand():
    transform = SignedHyperbolicTransform(0.001)
    # sqrt(3 + 1) - 1 + 0.001 * 3 and sqrt(99 + 1) - 1 + 0.001 * 99
    expected = torch.tensor([0.0, 1.003, -1.003, 9.099])
    torch.testing.assert_close(transform.forward(torch.tensor([0.0, 3.0, -3.0, 99.0])), expected)
    torch.testing.assert_close(transform.inverse(expected), torch.tensor([0.0, 3.0, -3.0, 99.0]))


@pytest.mark.parametrize("epsilon", [0.0, 0.001, 0.01])
def test_hyperbolic_against_the_formulas_of_the_paper(epsilon):
    transform = SignedHyperbolicTransform(epsilon)
    values = torch.cat([torch.logspace(-4, 6, 50, dtype=torch.float64) * sign for sign in (-1.0, 1.0)])
    paper = values.sign() * ((values.abs() + 1).sqrt() - 1) + epsilon * values
    torch.testing.assert_close(transform.forward(values), paper)
    torch.testing.assert_close(transform.inverse(transform.forward(values)), values)
    if epsilon:
        root = ((1 + 4 * epsilon * (values.abs() + 1 + epsilon)).sqrt() - 1) / (2 * epsilon)
        torch.testing.assert_close(transform.inverse(values), values.sign() * (root.square() - 1), rtol=1e-5, atol=1e-9)


def test_hyperbolic_keeps_float32_precision_near_zero():
    transform = SignedHyperbolicTransform(0.001)
    values = torch.tensor([1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e5])
    # The formula of the paper is off by up to 1e-4 here.
    torch.testing.assert_close(transform.inverse(transform.forward(values)), values, rtol=1e-6, atol=0.0)


def test_hyperbolic_gradient_at_zero():
    value = torch.zeros((), requires_grad=True)
    SignedHyperbolicTransform(0.001).forward(value).backward()
    assert value.grad.item() == pytest.approx(0.501)
    value.grad = None
    SignedHyperbolicTransform(0.001).inverse(value).backward()
    assert value.grad.item() == pytest.approx(1 / 0.501)


def test_two_hot_by_hand():
    support = CategoricalSupport(-1.0, 1.0, 5)  # bins at -1, -0.5, 0, 0.5, 1
    probabilities = support.to_probabilities(torch.tensor([-1.0, -0.375, 0.5, 1.0]))
    expected = torch.tensor(
        [[1.0, 0, 0, 0, 0], [0, 0.75, 0.25, 0, 0], [0, 0, 0, 1.0, 0], [0, 0, 0, 0, 1.0]],
    )
    torch.testing.assert_close(probabilities, expected)


def test_two_hot_in_the_transformed_scale():
    support = CategoricalSupport(-2.0, 2.0, 5, SignedHyperbolicTransform(0.0))
    # h(3) = 1, h(1.25) = 0.5
    expected = torch.tensor([[0.0, 0, 0, 1.0, 0], [0, 0, 0.5, 0.5, 0]])
    torch.testing.assert_close(support.to_probabilities(torch.tensor([3.0, 1.25])), expected)
    torch.testing.assert_close(support.expectation(expected), torch.tensor([3.0, 1.25]))


def test_values_beyond_the_support_clamp():
    support = CategoricalSupport(-1.0, 1.0, 3)
    probabilities = support.to_probabilities(torch.tensor([-50.0, 50.0, math.inf]))
    torch.testing.assert_close(probabilities, torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 0, 1.0]]))


def test_nan_stays_visible():
    probabilities = CategoricalSupport(-1.0, 1.0, 3).to_probabilities(torch.tensor([math.nan, 0.0]))
    assert probabilities[0].isnan().any()
    torch.testing.assert_close(probabilities[1], torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("num_bins", [2, 51, 601])
@pytest.mark.parametrize("transform", [IdentityTransform(), SignedHyperbolicTransform()])
def test_round_trip(num_bins, transform):
    support = CategoricalSupport(-300.0, 300.0, num_bins, transform)
    scalars = torch.linspace(-250.0, 250.0, 60).view(3, 4, 5)
    probabilities = support.to_probabilities(scalars)
    assert probabilities.shape == (3, 4, 5, num_bins)
    assert (probabilities >= 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 4, 5))
    # The expectation has float32's 3e-5 at 300, and h^-1 has a slope of about 25 at h(250).
    torch.testing.assert_close(support.expectation(probabilities), scalars, rtol=1e-4, atol=1e-2)
    # Softmax turns logarithms of probabilities back into them.
    torch.testing.assert_close(support.to_scalar(probabilities.log()), scalars, rtol=1e-4, atol=1e-2)


def test_uniform_logits_give_the_middle():
    assert CategoricalSupport(-1.0, 3.0, 9).to_scalar(torch.zeros(9)).item() == pytest.approx(1.0)


def test_gradients():
    support = CategoricalSupport(-2.0, 2.0, 9, SignedHyperbolicTransform()).double()
    logits = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(support.to_scalar, (logits,))
    scalars = torch.tensor([-1.3, 0.2, 2.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(support.to_probabilities, (scalars,))


def test_it_moves_with_its_owner_but_is_not_saved():
    support = CategoricalSupport(-1.0, 1.0, 3)
    assert support.state_dict() == {}
    assert support.to(torch.float64).bins.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0, 1), "num_bins is 1"),
        ((1.0, 1.0, 5), "minimum is 1.0"),
        ((-math.inf, 1.0, 5), "minimum is -inf"),
    ],
)
def test_impossible_supports_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CategoricalSupport(*arguments)


def test_impossible_epsilon_is_refused():
    with pytest.raises(ValueError, match="epsilon is -1"):
        SignedHyperbolicTransform(-1.0)
