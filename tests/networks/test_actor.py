import pytest
import torch

from alfish.networks.actor import ActorNetwork
from alfish.ops.distributions import make_action_distribution
from alfish.specs import BoundedTensorSpec, TensorSpec

CHOICE = BoundedTensorSpec((), torch.int64, 0, 4)
BOX = BoundedTensorSpec((3,), torch.float32, -1.0, 1.0)
OBSERVATION = {"position": TensorSpec((2,)), "button": TensorSpec((), torch.bool)}


@pytest.mark.parametrize("action_spec", [CHOICE, BOX, {"a": BOX, "b": CHOICE}])
@pytest.mark.parametrize("family", ["squashed_normal", "beta", "normal"])
def test_it_gives_the_parameters_of_the_distribution(action_spec, family):
    network = ActorNetwork(OBSERVATION, action_spec, (8,), "tanh", family)
    observation = {"position": torch.randn(4, 5, 2), "button": torch.ones(4, 5, dtype=torch.bool)}
    parameters = network(observation)
    assert parameters.shape == (4, 5, make_action_distribution(action_spec, family).num_parameters)


def test_by_default_two_layers_of_256():
    sizes = [tuple(parameter.shape) for parameter in ActorNetwork(TensorSpec((3,)), BOX).parameters()]
    assert sizes == [(256, 3), (256,), (256, 256), (256,), (6, 256), (6,)]


def test_without_hidden_layers():
    assert ActorNetwork(TensorSpec((3,)), BOX, hidden_sizes=())(torch.randn(2, 3)).shape == (2, 6)
