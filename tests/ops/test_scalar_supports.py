"""What the outputs of a network stand for and cost, by hand and for all supports alike."""

import math

import pytest
import torch

from alfish.ops.scalar_supports import OrderedSupport, QuantileSupport, SquaredSupport
from alfish.ops.value_transforms import CategoricalSupport, SignedHyperbolicTransform

TRANSFORM = SignedHyperbolicTransform()
SUPPORTS = {
    "categorical": lambda: CategoricalSupport(-4.0, 4.0, 17, TRANSFORM),
    "ordered": lambda: OrderedSupport(-4.0, 4.0, 17, TRANSFORM),
    "quantile": lambda: QuantileSupport(8, transform=TRANSFORM),
    "pinball": lambda: QuantileSupport(8, kappa=0.0, transform=TRANSFORM),
    "squared": lambda: SquaredSupport(TRANSFORM),
}


@pytest.fixture(params=SUPPORTS)
def support(request):
    return SUPPORTS[request.param]()


def test_zeros_stand_for_0(support):
    torch.testing.assert_close(support.to_scalar(torch.zeros(2, 3, support.num_outputs)), torch.zeros(2, 3))


def test_reading_is_reading_the_transformed_scale(support):
    logits = torch.randn(6, support.num_outputs)
    expected = TRANSFORM.inverse(support.to_transformed(logits))
    torch.testing.assert_close(support.to_scalar(logits), expected, rtol=0, atol=0)


def test_the_least_loss_is_at_the_target(support):
    """Outputs of their own, moved down the gradient of the loss, come to stand for the target."""
    target = torch.tensor([-7.0, -0.3, 0.0, 2.0, 11.0])
    logits = torch.zeros(5, support.num_outputs, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(600):
        loss = support.loss(logits, target)
        assert loss.shape == (5,)
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    torch.testing.assert_close(support.to_scalar(logits), target, rtol=0.05, atol=0.15)
    # Of all five outputs each target likes its own best.
    every = support.loss(logits.detach().expand(5, 5, -1), target.unsqueeze(1).expand(5, 5))
    assert every.argmin(dim=1).tolist() == [0, 1, 2, 3, 4]


def test_a_target_that_is_not_finite_is_seen(support):
    logits = torch.zeros(2, support.num_outputs)
    loss = support.loss(logits, torch.tensor([math.nan, 1.0]))
    assert loss[0].isnan()
    assert loss[1].isfinite()


def test_the_target_gets_no_say_in_the_gradient_of_others(support):
    logits = torch.randn(2, support.num_outputs, requires_grad=True)
    support.loss(logits, torch.tensor([1.0, 2.0]))[0].backward()
    assert not logits.grad[1].any()


def test_they_are_not_saved(support):
    assert support.state_dict() == {}


# Bins at -1, 0, 1, 2: three questions. 0.25 is beyond the first interval and a quarter into the second.


def test_ordered_by_hand():
    support = OrderedSupport(-1.0, 2.0, 4)
    assert support.num_outputs == 3
    probabilities = torch.tensor([0.75, 0.5, 0.25])
    logits = torch.logit(probabilities)
    assert support.to_scalar(logits).item() == pytest.approx(-1.0 + 1.5)
    expected = -(math.log(0.75) + math.log(0.5) + math.log(0.75))
    assert support.loss(logits, torch.tensor(0.25)).item() == pytest.approx(expected)
    shared = -math.log(0.75) - 0.25 * math.log(0.5) - 0.75 * math.log(0.5) - math.log(0.75)
    assert expected == pytest.approx(shared)
    # Only questions below 2 are asked; beyond the ends the target is the end.
    for far, near in ((9.0, 2.0), (-9.0, -1.0)):
        assert support.loss(logits, torch.tensor(far)) == support.loss(logits, torch.tensor(near))


def test_ordered_gradient_by_hand():
    support = OrderedSupport(-1.0, 2.0, 4)
    logits = torch.zeros(3, requires_grad=True)
    support.loss(logits, torch.tensor(0.25)).backward()
    # sigmoid - share: 1/2 - (1, 1/4, 0)
    assert logits.grad.tolist() == pytest.approx([-0.5, 0.25, 0.5])


def test_ordered_counts_how_far_off():
    """Sure of bin 0, a neighbour is a smaller mistake than the far end; to classes both are the same."""
    logits = torch.tensor([-3.0, -3.0, -3.0])
    near, far = (OrderedSupport(-1.0, 2.0, 4).loss(logits, torch.tensor(x)) for x in (0.0, 2.0))
    assert far - near == pytest.approx(6.0)


def test_ordered_width():
    support = OrderedSupport(-2.0, 2.0, 3)  # bins at -2, 0, 2
    assert support.to_scalar(torch.tensor([50.0, 0.0])).item() == pytest.approx(1.0)
    loss = support.loss(torch.zeros(2, requires_grad=True), torch.tensor(1.0))
    assert loss.item() == pytest.approx(2 * math.log(2.0))


@pytest.mark.parametrize(
    ("kappa", "expected"),
    [
        # Levels 1/4 and 3/4; errors 3 - 1 = 2 and 3 - 4 = -1.
        (0.0, (0.25 * 2 + 0.25 * 1) / 2),
        (1.0, (0.25 * (2 - 0.5) + 0.25 * 0.5) / 2),
        (4.0, (0.25 * 4 / 8 + 0.25 * 1 / 8) / 2),
    ],
)
def test_quantiles_by_hand(kappa, expected):
    support = QuantileSupport(2, kappa)
    quantiles = torch.tensor([1.0, 4.0])
    assert support.to_scalar(quantiles).item() == 2.5
    assert support.loss(quantiles, torch.tensor(3.0)).item() == pytest.approx(expected)


def test_quantiles_are_found():
    """Of targets 0 … 99 the quantiles 1/8, 3/8, 5/8, 7/8."""
    support = QuantileSupport(4, kappa=0.0)
    logits = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=1.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, 600)
    target = torch.arange(100.0)
    for _ in range(600):
        optimizer.zero_grad()
        support.loss(logits.expand(100, 4), target).mean().backward()
        optimizer.step()
        schedule.step()
    assert logits.tolist() == pytest.approx([12.0, 37.0, 62.0, 87.0], abs=1.5)


def test_squared_by_hand():
    support = SquaredSupport(SignedHyperbolicTransform(0.0))  # h(3) = 1
    assert support.num_outputs == 1
    assert support.to_scalar(torch.tensor([1.0])).item() == pytest.approx(3.0)
    assert support.loss(torch.tensor([0.5]), torch.tensor(3.0)).item() == pytest.approx(0.25)
    assert SquaredSupport().loss(torch.tensor([0.5]), torch.tensor(3.0)).item() == pytest.approx(6.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OrderedSupport(0.0, 1.0, 1), r"OrderedSupport\.num_bins is 1"),
        (lambda: OrderedSupport(1.0, 1.0, 3), r"OrderedSupport\.minimum is 1\.0 and \.maximum is 1\.0"),
        (lambda: QuantileSupport(0), r"QuantileSupport\.num_quantiles is 0"),
        (lambda: QuantileSupport(5, -0.1), r"QuantileSupport\.kappa is -0\.1"),
        (lambda: QuantileSupport(5, math.nan), r"QuantileSupport\.kappa is nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
