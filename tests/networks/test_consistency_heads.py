import pytest
import torch

from alfish.networks.consistency_heads import SimSiamHeads


def test_the_loss_is_one_minus_the_cosine():
    torch.manual_seed(0)
    heads = SimSiamHeads(6, projection_size=8, prediction_size=5)
    predicted, observed = torch.randn(2, 7, 6)
    loss = heads(predicted, observed)
    first = heads._prediction(heads._projection(predicted))
    second = heads._projection(observed)
    cosine = (first * second).sum(1) / (first.norm(dim=1) * second.norm(dim=1))
    torch.testing.assert_close(loss, 1.0 - cosine)
    assert loss.shape == (7,)


def test_gradients_stop_at_what_was_observed():
    heads = SimSiamHeads(6)
    predicted, observed = torch.randn(2, 7, 6).requires_grad_().unbind()
    predicted.retain_grad()
    heads(predicted, observed).sum().backward()
    assert predicted.grad.abs().sum() > 0
    gradient = torch.autograd.grad(heads(predicted, observed).sum(), observed, allow_unused=True)
    assert gradient == (None,)
    assert all(parameter.grad.abs().sum() > 0 for parameter in heads.parameters())


def test_predictions_come_to_agree():
    """Rows of a hidden state in two views: the loss falls, and the projections of different rows stay different."""
    torch.manual_seed(0)
    heads = SimSiamHeads(8, 16, 8)
    state, view = torch.randn(64, 8), torch.randn(8, 8)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.003)
    losses = []
    for _ in range(100):
        loss = heads(torch.tanh(state @ view), state).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 < 0.7 < losses[0]
    projected = torch.nn.functional.normalize(heads._projection(state), dim=1)
    assert (projected @ projected.T).fill_diagonal_(0).mean() < 0.5


@pytest.mark.parametrize("name", ["projection_size", "prediction_size"])
def test_sizes_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=rf"SimSiamHeads\.{name} is 0"):
        SimSiamHeads(4, **{name: 0})
