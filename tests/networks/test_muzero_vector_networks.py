import pytest
import torch

from alfish.networks.muzero_vector_networks import VectorDynamics, VectorEncoding, VectorPrediction
from alfish.specs import BoundedTensorSpec, TensorSpec


def test_shapes_and_latents_within_0_and_1():
    encoding = VectorEncoding(TensorSpec((4,)), latent_size=6, hidden_sizes=(8,))
    dynamics = VectorDynamics(encoding.latent_shape, 3, 5, hidden_sizes=(8, 8))
    prediction = VectorPrediction(encoding.latent_shape, [3, 7, 1], hidden_sizes=(8,))
    latent = encoding(10.0 * torch.randn(2, 4))
    following, reward = dynamics(latent, torch.tensor([0, 2]))
    assert latent.shape == following.shape == (2, 6)
    assert reward.shape == (2, 5)
    assert [tuple(head.shape) for head in prediction(latent)] == [(2, 3), (2, 7), (2, 1)]
    for each in (latent, following):
        assert each.min() == 0.0
        assert 0.9 < each.max() <= 1.0


def test_heads_start_at_zero():
    dynamics = VectorDynamics((6,), 3, 5)
    following, reward = dynamics(torch.rand(2, 6), torch.tensor([0, 2]))
    assert not reward.any()
    assert following.std() > 0.0
    assert all(not head.any() for head in VectorPrediction((6,), [3, 7])(torch.rand(2, 6)))


def test_the_embedding_is_the_first_layer_of_latent_and_one_hot_action():
    dynamics = VectorDynamics((6,), 3, 5, hidden_sizes=(8,))
    torch.nn.init.normal_(dynamics._layers.output.weight)
    latent, action = torch.rand(4, 6), torch.tensor([0, 2, 1, 2])
    weight = torch.cat((dynamics._from_latent.weight, dynamics._from_action.weight.T), dim=1)
    joined = torch.cat((latent, torch.nn.functional.one_hot(action, 3).float()), dim=1)
    hidden = torch.relu(torch.nn.functional.linear(joined, weight, dynamics._from_latent.bias))
    outputs = dynamics._layers.output(hidden)
    changed = latent + outputs[:, :6]
    low, high = changed.min(dim=1, keepdim=True).values, changed.max(dim=1, keepdim=True).values
    following, reward = dynamics(latent, action)
    torch.testing.assert_close(reward, outputs[:, 6:])
    torch.testing.assert_close(following, (changed - low) / (high - low + 1e-5))


def test_the_action_matters():
    dynamics = VectorDynamics((6,), 3, 5)
    latent = torch.rand(1, 6).expand(3, 6)
    following, _ = dynamics(latent, torch.arange(3))
    assert (following[0] - following[1]).abs().max() > 1e-3
    assert (following[1] - following[2]).abs().max() > 1e-3


def test_dynamics_without_a_reward():
    following, reward = VectorDynamics((6,), 3, 0)(torch.rand(2, 6), torch.tensor([0, 1]))
    assert following.shape == (2, 6)
    assert reward.shape == (2, 0)


def test_nested_observations():
    spec = {"a": TensorSpec((2,)), "b": BoundedTensorSpec((), torch.int64, 0, 3)}
    encoding = VectorEncoding(spec, latent_size=6, hidden_sizes=())
    assert encoding({"a": torch.randn(2, 2), "b": torch.tensor([0, 3])}).shape == (2, 6)


def test_gradients_reach_every_parameter():
    dynamics = VectorDynamics((6,), 3, 5, hidden_sizes=(8, 8))
    following, reward = dynamics(torch.rand(16, 6), torch.randint(3, (16,)))
    (following.square().sum() + reward.sum()).backward()
    assert all(parameter.grad.any() for parameter in dynamics.parameters())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: VectorEncoding(TensorSpec((4,)), latent_size=0), "at least 1"),
        (lambda: VectorEncoding(TensorSpec((4,)), hidden_sizes=(8, -1)), "at least 1"),
        (lambda: VectorDynamics((6,), 3, 5, hidden_sizes=()), r"VectorDynamics\.hidden_sizes is empty"),
        (lambda: VectorDynamics((6,), 3, 5, hidden_sizes=(8, 0)), "at least 1"),
        (lambda: VectorPrediction((6,), [3, 7], hidden_sizes=(0,)), "at least 1"),
    ],
)
def test_sizes_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
