import pytest
import torch

from alfish.networks.latents import normalize_latent, scale_gradient


def test_normalize_by_hand():
    latent = torch.tensor([[1.0, 3.0, 5.0], [-2.0, -2.0, -2.0]])
    torch.testing.assert_close(normalize_latent(latent), torch.tensor([[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]))


def test_normalize_takes_the_whole_row_of_an_image():
    latent = torch.arange(8.0).view(1, 2, 2, 2)
    torch.testing.assert_close(normalize_latent(latent), latent / 7.0)


@pytest.mark.parametrize("shape", [(5, 7), (5, 2, 3, 4)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_normalized_latents_are_within_0_and_1(shape, size):
    normalized = normalize_latent(size * torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert normalized.shape == shape
    assert normalized.min() == 0.0
    assert 0.9 < normalized.max() <= 1.0


def test_the_gradient_of_normalize_is_right():
    latent = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(normalize_latent, latent)


def test_scale_gradient():
    tensor = torch.tensor([2.0, 3.0], requires_grad=True)
    scaled = scale_gradient(tensor, 0.5)
    assert torch.equal(scaled, tensor)
    # The other ways from the tensor to the loss are left alone: 1 * 0.5 + 10.
    (scaled.sum() + 10.0 * tensor.sum()).backward()
    assert tensor.grad.tolist() == [10.5, 10.5]


def test_scale_gradient_by_0_cuts_it():
    tensor = torch.ones(2, requires_grad=True)
    scale_gradient(tensor, 0.0).sum().backward()
    assert tensor.grad.tolist() == [0.0, 0.0]


def test_scale_gradient_without_a_gradient_is_the_tensor_itself():
    tensor = torch.ones(2)
    assert scale_gradient(tensor, 0.5) is tensor
