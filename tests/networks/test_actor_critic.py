import copy
import math

import pytest
import torch

from alfish import specs
from alfish.networks.actor_critic import ActorCriticNetwork
from alfish.networks.mlp import MLP, ObservationFlattener
from alfish.specs import BoundedTensorSpec, TensorSpec

DISCRETE = BoundedTensorSpec((), torch.int64, 0, 2)
BOX = BoundedTensorSpec((2,), torch.float32, -1.0, 1.0)


def test_shapes_and_separate_trunks():
    network = ActorCriticNetwork(TensorSpec((4,)), DISCRETE)
    parameters, value = network(torch.randn(5, 4))
    assert parameters.shape == (5, 3) and value.shape == (5,)
    value.sum().backward()
    assert all(parameter.grad is None for parameter in network.policy.parameters())
    assert all(parameter.grad is not None for parameter in network.value.parameters())


def test_initialisation_is_that_of_stable_baselines3():
    network = ActorCriticNetwork(TensorSpec((4,)), DISCRETE)
    for mlp, gain in ((network.policy, 0.01), (network.value, 1.0)):
        assert [tuple(layer.weight.shape) for layer in mlp.hidden] == [(64, 4), (64, 64)]
        second = mlp.hidden[1].weight
        torch.testing.assert_close(second @ second.T, 2.0 * torch.eye(64), atol=1e-5, rtol=0.0)
        rows = len(mlp.output.weight)
        torch.testing.assert_close(mlp.output.weight @ mlp.output.weight.T, gain**2 * torch.eye(rows))
        assert all((layer.bias == 0).all() for layer in [*mlp.hidden, mlp.output])


def test_the_forward_pass_by_hand():
    network = ActorCriticNetwork(TensorSpec((4,)), DISCRETE, hidden_sizes=(8,), activation="relu")
    observation = torch.randn(5, 4)
    hidden = torch.relu(observation @ network.policy.hidden[0].weight.T)
    torch.testing.assert_close(network(observation)[0], hidden @ network.policy.output.weight.T)


def test_box_parameters_are_means_and_log_stds():
    network = ActorCriticNetwork(TensorSpec((4,)), BOX, initial_log_std=-0.5)
    parameters, _ = network(torch.randn(5, 4))
    assert parameters.shape == (5, 4)
    torch.testing.assert_close(parameters[:, 2:], torch.full((5, 2), -0.5))
    parameters[:, 2:].sum().backward()
    torch.testing.assert_close(network.log_std.grad, torch.full((2,), 5.0))


def test_a_copy_is_independent():
    network = ActorCriticNetwork(TensorSpec((4,)), DISCRETE)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert twin(torch.ones(1, 4))[0].abs().sum() > 0


def test_a_vector_is_read_without_a_copy():
    observation = torch.randn(5, 4)
    assert ObservationFlattener(TensorSpec((4,)))(observation) is observation


def test_nested_observations_by_hand():
    spec = {
        "bytes": TensorSpec((1, 2), torch.uint8),
        "flag": TensorSpec((), torch.bool),
        "position": TensorSpec((2,), torch.float64),
        "tile": BoundedTensorSpec((), torch.int64, 1, 3),
        "tiles": BoundedTensorSpec((2,), torch.int32, 0, 1),
    }
    flatten = ObservationFlattener(spec)
    observation = {
        "bytes": torch.tensor([[[0, 255]]], dtype=torch.uint8),
        "flag": torch.tensor([True]),
        "position": torch.tensor([[0.25, -3.0]], dtype=torch.float64),
        "tile": torch.tensor([3]),
        "tiles": torch.tensor([[1, 0]], dtype=torch.int32),
    }
    vector = flatten(observation)
    assert vector.dtype == torch.float32 and flatten.size == 12
    torch.testing.assert_close(vector, torch.tensor([[0.0, 1, 1, 0.25, -3, 0, 0, 1, 0, 1, 1, 0]]))


@pytest.mark.parametrize("dims", [(6,), (2, 3)])
def test_any_leading_axes(dims):
    spec = (TensorSpec((2, 2)), TensorSpec(()), BoundedTensorSpec((), torch.int64, 0, 4))
    assert ObservationFlattener(spec)(specs.zeros(spec, dims)).shape == dims + (10,)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"camera": TensorSpec((2,), torch.complex64)}, "camera: an MLP cannot read"),
        ({"tile": TensorSpec((), torch.int64)}, "tile: .* needs their bounds"),
        ({"tile": BoundedTensorSpec((), torch.int64, 0, 10**9)}, "tile: .* 1000000001 values"),
        ("text", "the observation: an MLP cannot read"),
        ((), "holds no elements; expected at least one: give the environment's observation an element"),
        (TensorSpec((0,)), "holds no elements"),
    ],
)
def test_observations_that_cannot_be_read_are_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        ActorCriticNetwork(spec, DISCRETE)


def test_wrong_layers_are_refused():
    with pytest.raises(ValueError, match="activation is 'sigmoid'"):
        MLP(4, (8,), 1, "sigmoid")
    with pytest.raises(ValueError, match=r"\[4, 0, 1\]"):
        MLP(4, (0,), 1)


def test_an_mlp_without_hidden_or_output_layers():
    inputs = torch.randn(2, 4)
    assert MLP(4, ())(inputs) is inputs
    assert MLP(4, (), 3)(inputs).shape == (2, 3)
    assert MLP(4, (7,)).output_size == 7
    weights = MLP(4, (8,), 1).hidden[0].weight
    assert weights.abs().max() <= 1.0 / math.sqrt(4)  # torch's own initialisation


def test_nested_actions_have_their_log_stds_where_the_distribution_reads_them():
    # Parameters: two means and two log stds of "arm", three logits of "grip", a mean and a log std of "wrist".
    wrist = BoundedTensorSpec((), torch.float32, -1.0, 1.0)
    network = ActorCriticNetwork(TensorSpec((4,)), {"arm": BOX, "grip": DISCRETE, "wrist": wrist}, initial_log_std=-0.5)
    with torch.no_grad():
        network.log_std.copy_(torch.tensor([-1.0, -2.0, -3.0]))
        network.policy.output.weight.zero_()
        network.policy.output.bias.copy_(torch.arange(6.0))
    parameters, _ = network(torch.randn(5, 7, 4))
    assert parameters.shape == (5, 7, 9)
    assert parameters[0, 0].tolist() == [0, 1, -1, -2, 2, 3, 4, 5, -3]


def test_a_family_without_log_stds_takes_all_parameters_from_the_observation():
    network = ActorCriticNetwork(TensorSpec((4,)), BOX, box_distribution="beta")
    assert network.log_std is None and network(torch.randn(5, 4))[0].shape == (5, 4)
    squashed = ActorCriticNetwork(TensorSpec((4,)), BOX, box_distribution="squashed_normal")
    assert squashed.log_std.shape == (2,)
