import pytest
import torch

from alfish.ops.value_losses import categorical_cross_entropy, clipped_squared_error, huber_loss, squared_error


def test_squared_error_has_no_half():
    assert squared_error(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 1.0])).tolist() == [4.0, 9.0]


@pytest.mark.parametrize(
    ("value", "loss", "gradient"),
    [
        (1.1, 0.81, -1.8),  # within the clip: the plain error against the target 2
        (1.5, 0.64, 0.0),  # further than 0.2 towards the target: the error of 1.2, no gradient
        (0.5, 2.25, -3.0),  # further than 0.2 away from it: the plain error
    ],
)
def test_clipped_squared_error_by_hand(value, loss, gradient):
    value_tensor = torch.tensor([value], requires_grad=True)
    result = clipped_squared_error(value_tensor, torch.tensor([1.0]), torch.tensor([2.0]), 0.2)
    result.sum().backward()
    assert result.item() == pytest.approx(loss, rel=1e-5)
    assert value_tensor.grad.item() == pytest.approx(gradient, rel=1e-5)


def test_cross_entropy_by_hand():
    # softmax of (log 1, log 3) is (1/4, 3/4)
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log().requires_grad_()
    target = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    loss = categorical_cross_entropy(logits, target)
    expected = 0.5 * torch.tensor(4.0).log() + 0.5 * torch.tensor(4.0 / 3.0).log()
    torch.testing.assert_close(loss, torch.stack([expected, torch.zeros(())]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25], [0.0, 0.0]]))


def test_cross_entropy_is_torchs():
    torch.manual_seed(0)
    logits, target = torch.randn(4, 3, 7), torch.softmax(torch.randn(4, 3, 7), -1)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(0, 1), reduction="none")
    torch.testing.assert_close(categorical_cross_entropy(logits, target).flatten(), expected)


@pytest.mark.parametrize(
    ("value", "threshold", "loss", "gradient"),
    [
        (2.5, 1.0, 0.125, 0.5),  # within the threshold: half of the square
        (5.0, 1.0, 2.5, 1.0),  # beyond it: 1 * (3 - 1/2)
        (-1.0, 2.0, 4.0, -2.0),  # 2 * (3 - 1)
        (1e30, 1.0, 1e30, 1.0),  # finite where the square is not
    ],
)
def test_huber_loss_by_hand(value, threshold, loss, gradient):
    value_tensor = torch.tensor([value], requires_grad=True)
    result = huber_loss(value_tensor, torch.tensor([2.0]), threshold)
    result.sum().backward()
    assert result.item() == pytest.approx(loss)
    assert value_tensor.grad.item() == pytest.approx(gradient)
