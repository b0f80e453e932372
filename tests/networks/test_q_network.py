import pytest
import torch

from alfish.networks.q_network import DuellingQNetwork, QNetwork
from alfish.specs import BoundedTensorSpec, TensorSpec

ACTION = BoundedTensorSpec((), torch.int64, 0, 2)
NESTED = {"position": TensorSpec((3,)), "tile": BoundedTensorSpec((), torch.int64, 0, 3)}


@pytest.mark.parametrize("network", [QNetwork, DuellingQNetwork])
@pytest.mark.parametrize("outer", [(5,), (2, 3)])
def test_nested_observations_with_any_leading_axes(network, outer):
    q_network = network(NESTED, ACTION)
    observation = {"position": torch.randn(*outer, 3), "tile": torch.randint(0, 4, outer)}
    q_value = q_network(observation)
    assert q_value.shape == (*outer, 3)
    last = q_network({"position": observation["position"][-1], "tile": observation["tile"][-1]})
    torch.testing.assert_close(q_value[-1], last)
    q_value.sum().backward()
    assert all(parameter.grad is not None for parameter in q_network.parameters())


def test_the_value_is_the_mean_of_the_duelling_values():
    network = DuellingQNetwork(TensorSpec((4,)), ACTION, hidden_sizes=(8,), stream_hidden_sizes=())
    observation = torch.randn(6, 4)
    shared = torch.relu(observation @ network.shared.hidden[0].weight.T + network.shared.hidden[0].bias)
    value = shared @ network.value.output.weight.T + network.value.output.bias
    advantage = shared @ network.advantage.output.weight.T + network.advantage.output.bias
    q_value = network(observation)
    torch.testing.assert_close(q_value.mean(dim=-1, keepdim=True), value)
    torch.testing.assert_close(q_value - value, advantage - advantage.mean(dim=-1, keepdim=True))


def test_layers_may_all_be_an_encoders():
    assert len(list(QNetwork(TensorSpec((4,)), ACTION, hidden_sizes=()).parameters())) == 2
    network = DuellingQNetwork(TensorSpec((4,)), ACTION, hidden_sizes=(), stream_hidden_sizes=())
    assert network(torch.randn(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("network", [QNetwork, DuellingQNetwork])
def test_what_it_cannot_read_or_answer_is_refused(network):
    with pytest.raises(ValueError, match="count: an MLP reads integers as one-hot vectors and needs their bounds"):
        network({"count": TensorSpec((), torch.int64)}, ACTION)
    message = "QNetwork has an output for each action, .*; expected one discrete choice: .* @CriticsNetwork"
    with pytest.raises(ValueError, match=message):
        network(TensorSpec((4,)), BoundedTensorSpec((2,), torch.float32, -1.0, 1.0))
