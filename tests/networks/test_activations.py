"""Every activation is what its name says, whichever library computes it."""

import pytest
import torch

from alfish.networks import activations
from alfish.networks.activations import tanh_


@pytest.mark.parametrize("size", [7, 10_000])
def test_the_tangent_and_its_gradient(size):
    values = torch.linspace(-12.0, 12.0, size)
    weight = torch.tensor(1.5, requires_grad=True)
    result = tanh_(values * weight)
    torch.testing.assert_close(result, torch.tanh(values * 1.5), rtol=0.0, atol=1e-6)
    (slope,) = torch.autograd.grad(result.sum(), weight, create_graph=True)
    expected = (values.double() * (1.0 - torch.tanh(values.double() * 1.5) ** 2)).sum()
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-3)
    (bend,) = torch.autograd.grad(slope, weight)
    bent = torch.tanh(values.double() * 1.5)
    expected = (-2.0 * values.double() ** 2 * bent * (1.0 - bent**2)).sum()
    torch.testing.assert_close(bend.double(), expected, rtol=1e-5, atol=1e-3)


def test_extreme_values():
    values = torch.tensor([float("inf"), -float("inf"), float("nan"), -0.0]).repeat(2_000)
    result = tanh_(values)
    assert result[:2].tolist() == [1.0, -1.0] and result[2].isnan() and result[3] == 0.0


def test_a_large_product_is_overwritten_and_others_are_torchs(monkeypatch):
    large = torch.full((activations._MANY,), 0.5)
    assert tanh_(large).data_ptr() == large.data_ptr() and large[0] < 0.5
    monkeypatch.setattr(activations, "_overwritten", lambda values: pytest.fail("numpy was asked"))
    for product in (
        torch.zeros(activations._MANY - 1),
        torch.zeros(activations._MANY, dtype=torch.float64),
        torch.zeros(activations._MANY, dtype=torch.bfloat16),
        torch.zeros(activations._MANY, 2)[:, 0],
    ):
        assert tanh_(product).dtype == product.dtype


def test_under_inference_mode():
    with torch.inference_mode():
        assert float(tanh_(torch.ones(activations._MANY))[0]) == pytest.approx(0.7615942)
