"""Critics as one module equal C networks of their own."""

import math

import pytest
import torch

from alfish.networks.critics import ActionVector, CriticsNetwork, StackedMLP, frozen
from alfish.networks.mlp import MLP
from alfish.specs import BoundedTensorSpec, TensorSpec

BOX = BoundedTensorSpec((2,), torch.float32, -1.0, 1.0)
CHOICE = BoundedTensorSpec((), torch.int64, 3, 6)
OBSERVATION = TensorSpec((3,))


def separate(stacked, activation):
    """The members of a StackedMLP as MLPs."""
    members = []
    for c in range(len(stacked.biases[0])):
        sizes = [stacked.weights[0].shape[2], *(bias.shape[1] for bias in stacked.biases)]
        member = MLP(sizes[0], sizes[1:-1], sizes[-1], activation)
        with torch.no_grad():
            for layer, weight, bias in zip(
                [*member.hidden, member.output], stacked.weights, stacked.biases, strict=True
            ):
                layer.weight.copy_(weight[c])
                layer.bias.copy_(bias[c])
        members.append(member)
    return members


class OnAnotherDevice(torch.Tensor):
    """A CPU tensor that says that it is not."""

    @property
    def device(self):
        return torch.device("meta")


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize(("hidden_sizes", "activation"), [((7, 5), "relu"), ((7,), "tanh"), ((), "relu")])
def test_each_is_an_mlp_of_its_own(hidden_sizes, activation, batched):
    stacked = StackedMLP(3, 4, hidden_sizes, 2, activation)
    inputs = torch.randn(5, 6, 4)
    found = stacked(inputs.as_subclass(OnAnotherDevice) if batched else inputs).as_subclass(torch.Tensor)
    expected = torch.stack([member(inputs) for member in separate(stacked, activation)], dim=-2)
    torch.testing.assert_close(found, expected)


def test_they_begin_different_and_as_linear_layers_do():
    stacked = StackedMLP(2, 100, (50,), 1, "relu")
    assert not torch.equal(stacked.weights[0][0], stacked.weights[0][1])
    for leaf in (*stacked.weights[:1], *stacked.biases[:1]):
        assert 0.08 < leaf.abs().max() <= 1.0 / math.sqrt(100)
    assert stacked.weights[1].abs().max() <= 1.0 / math.sqrt(50)


def test_they_read_observation_and_action():
    network = CriticsNetwork(OBSERVATION, BOX, num_critics=3, hidden_sizes=(8,))
    observation, action = torch.randn(5, 3), torch.rand(5, 2)
    values = network(observation, action)
    assert values.shape == (5, 3) and network.num_critics == 3
    torch.testing.assert_close(values, network.values(torch.cat((observation, action), dim=-1)).squeeze(-1))


def test_of_one_choice_they_have_a_value_for_each_action():
    network = CriticsNetwork(OBSERVATION, CHOICE, hidden_sizes=(8,))
    assert network(torch.randn(5, 7, 3)).shape == (5, 7, 2, 4)


def test_actions_are_read_in_units_of_half_their_width():
    spec = {
        "a": BoundedTensorSpec((2, 1), torch.float64, ((-1.0,), (0.0,)), ((3.0,), (1.0,))),
        "b": BoundedTensorSpec((), torch.float32, -math.inf, math.inf),
        "c": BoundedTensorSpec((1,), torch.float32, 5.0, 5.0),
    }
    vector = ActionVector(spec)
    action = {"a": torch.tensor([[[3.0], [0.5]]]).double(), "b": torch.tensor([7.0]), "c": torch.tensor([[5.0]])}
    assert vector.size == 4
    assert vector(action).tolist() == [[1.0, 0.0, 7.0, 5.0]]
    unit = ActionVector(BOX)
    action = torch.randn(2, 2)
    assert unit(action) is action


@pytest.mark.parametrize(
    ("action_spec", "message"),
    [
        (BoundedTensorSpec((2,), torch.int64, 0, 3), "the action: critics cannot read"),
        ({"a": BOX, "b": CHOICE}, "b: critics cannot read"),
        (TensorSpec((2,)), "the action: critics cannot read"),
    ],
)
def test_actions_that_they_cannot_read_are_refused(action_spec, message):
    with pytest.raises(ValueError, match=message):
        CriticsNetwork(OBSERVATION, action_spec)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="CriticsNetwork.num_critics is 0"):
        CriticsNetwork(OBSERVATION, BOX, num_critics=0)
    with pytest.raises(ValueError, match=r"\[5, 0, 1\]"):
        CriticsNetwork(OBSERVATION, BOX, hidden_sizes=(0,))


def test_frozen_networks_hand_gradients_on_and_keep_none():
    network = CriticsNetwork(OBSERVATION, BOX, hidden_sizes=(8,))
    network.values.biases[0].requires_grad_(False)
    action = torch.zeros(5, 2, requires_grad=True)
    before = network(torch.ones(5, 3), action)
    with frozen(network):
        within = network(torch.ones(5, 3), action)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(learning) == 3
    assert all(
        each is None for each in torch.autograd.grad(within.sum(), learning, retain_graph=True, allow_unused=True)
    )
    assert torch.autograd.grad(within.sum(), action, retain_graph=True)[0].abs().sum() > 0
    assert all(each is not None for each in torch.autograd.grad(before.sum(), learning))
    with pytest.raises(RuntimeError, match="within"), frozen(network):
        raise RuntimeError("within")
    assert len([parameter for parameter in network.parameters() if parameter.requires_grad]) == 3
