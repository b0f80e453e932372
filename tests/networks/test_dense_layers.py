"""The fast products equal torch's own, gradients included, whatever processor the test runs on."""

import pytest
import torch

from alfish.networks import dense_layers
from alfish.networks.critics import StackedMLP
from alfish.networks.mlp import MLP

MAKERS = {
    "critics": lambda: StackedMLP(2, 4, (24, 16), 1, "relu"),
    "many outputs": lambda: StackedMLP(3, 4, (24,), 5, "relu"),
    "one": lambda: MLP(4, (24, 16), 3),
    "without a last layer": lambda: MLP(4, (24, 16)),
    "linear": lambda: MLP(4, (), 3),
}


@pytest.fixture(params=["onednn", "plain"])
def fast(request, monkeypatch):
    """Every product is large enough; by oneDNN where torch has it, and by what the layers would be without."""
    monkeypatch.setattr(dense_layers, "_LARGE", 1)
    monkeypatch.setattr(dense_layers, "_onednn_is_faster", lambda: True)
    if request.param == "plain":

        def product(left, right, bias=None, rectified=False):
            result = torch.nn.functional.linear(left, right, bias)
            return torch.relu(result) if rectified else result

        monkeypatch.setattr(dense_layers, "_onednn", product)
    elif not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN")


def gradients(network, inputs):
    values = network(inputs)
    return values, torch.autograd.grad(
        (values * torch.arange(values.numel()).view_as(values)).sum(), [inputs, *network.parameters()]
    )


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.usefixtures("fast")
def test_values_and_gradients(name, monkeypatch):
    torch.manual_seed(0)
    network = MAKERS[name]()
    block = torch.randn(3, 7, 5, 4)
    inputs = block[:, :-1].clone().requires_grad_()
    assert dense_layers.takes_fast_path(inputs, network._largest_relu_layer)
    fast_values, fast_gradients = gradients(network, inputs)
    strided = network(block[:, :-1])
    monkeypatch.setattr(dense_layers, "_onednn_is_faster", lambda: False)
    values, expected = gradients(network, inputs)
    torch.testing.assert_close(fast_values, values)
    torch.testing.assert_close(strided, values)
    for found, own in zip(fast_gradients, expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-3)


@pytest.mark.usefixtures("fast")
def test_only_what_is_asked_for_gets_a_gradient():
    network = MLP(4, (8,), 2)
    inputs = torch.randn(3, 4)
    network(inputs).sum().backward()
    assert inputs.grad is None and network.output.weight.grad.shape == (2, 8)
    network.requires_grad_(False)
    inputs.requires_grad_()
    network(inputs).sum().backward()
    assert inputs.grad.shape == (3, 4)
    with torch.inference_mode():
        assert network(inputs).shape == (3, 2)


def test_small_products_and_other_activations_are_torchs():
    ones = torch.ones(8, 16)
    assert not dense_layers.takes_fast_path(ones, 16 * 16)
    assert not dense_layers.takes_fast_path(ones.double().expand(4096, 8, 16), 16 * 16 * 1024)
    assert MLP(4, (8,), 2, "tanh")._largest_relu_layer == 0
    assert MLP(4, (8, 9), 2)._largest_relu_layer == 72


@pytest.mark.usefixtures("fast")
def test_autocast_takes_torchs_own_products():
    network, inputs = MLP(16, (16,), 2), torch.ones(512, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert not dense_layers.takes_fast_path(inputs, 256)
        outputs = network(inputs)
    assert outputs.dtype == torch.bfloat16
    outputs.float().sum().backward()
    assert network.output.weight.grad.dtype == torch.float32
    assert dense_layers.takes_fast_path(inputs, 256)


def test_a_torch_without_such_a_product_is_noticed(monkeypatch):
    def missing(*arguments):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(dense_layers, "_onednn", missing)
    assert dense_layers._onednn_is_faster.__wrapped__() is False
