import pytest
import torch

from alfish.networks.encoders import IdentityEncoder
from alfish.networks.network_checks import build_encoder, build_network, check_outputs
from alfish.specs import TensorSpec

VECTOR = TensorSpec((3,))


class Pair(torch.nn.Module):
    """Returns one output of `[N, 2]` and one of `[N]`."""

    def __init__(self, size=3):
        super().__init__()
        self.layer = torch.nn.Linear(size, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, observation):
        hidden = self.norm(self.layer(observation))
        return hidden, hidden.sum(-1)


def test_a_network_that_fits_is_left_as_it_was():
    network = Pair()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_outputs(network, (VECTOR,), {"parameters": (2,), "values": ()})
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_several_inputs_and_one_output():
    class Critic(torch.nn.Module):
        def forward(self, observation, action):
            return (observation["x"] * action.unsqueeze(-1)).sum(-1)

    check_outputs(Critic(), ({"x": VECTOR}, TensorSpec(())), {"values": ()})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            {"parameters": (2,), "values": (1,)},
            r"returned tensors of shape \(2, 2\), \(2,\); expected .*values of shape",
        ),
        ({"parameters": (2,)}, r"expected parameters of shape \(2, 2\)$"),
        ({"a": (2,), "b": (), "c": ()}, r"c of shape \(2,\)"),
    ],
)
def test_other_shapes_are_refused(outputs, message):
    with pytest.raises(ValueError, match=message):
        check_outputs(Pair(), (VECTOR,), outputs)


def test_only_constructors_of_networks_are_taken():
    assert isinstance(build_network("Some.network", Pair, size=4), Pair)
    with pytest.raises(ValueError, match="Some.network is a Pair that is already built; .* write @Pair without"):
        build_network("Some.network", Pair())
    with pytest.raises(ValueError, match="Some.network makes a dict; expected a torch.nn.Module"):
        build_network("Some.network", dict)


class Misfit(IdentityEncoder):
    """An encoder that is wrong in one of its parts."""

    def __init__(self, observation_spec, wrong):
        super().__init__(observation_spec)
        self._wrong = wrong

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1) if self._wrong == "state" else ()

    def step(self, observation, state):
        return observation[:, :2] if self._wrong == "step" else observation, ()

    def unroll(self, observation, state, begins):
        return observation.flatten(0, 1) if self._wrong == "unroll" else observation


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("state", "Misfit.step's next state"),
        ("step", r"Misfit.step returned features of shape \(2, 2\) for \(2,\) rows; .* says \(2, 3\)"),
        ("unroll", r"Misfit.unroll returned features of shape \(6, 3\) for \(2, 3\) rows; .* says \(2, 3, 3\)"),
    ],
)
def test_an_encoder_that_is_not_as_it_says_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build_encoder("Some.encoder", lambda observation_spec: Misfit(observation_spec, wrong), VECTOR)


def test_a_network_is_no_encoder():
    with pytest.raises(
        ValueError, match="Some.encoder makes a Linear without output_spec, initial_state, step, unroll"
    ):
        build_encoder("Some.encoder", lambda observation_spec: torch.nn.Linear(3, 3), VECTOR)
    assert isinstance(build_encoder("Some.encoder", IdentityEncoder, VECTOR), IdentityEncoder)
