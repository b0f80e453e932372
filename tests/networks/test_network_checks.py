import math

import pytest
import torch

from alfish import nest
from alfish.networks.encoders import IdentityEncoder
from alfish.networks.network_checks import build_encoder, build_network, check_outputs
from alfish.specs import BoundedTensorSpec, TensorSpec

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
    check_outputs("Some.network", network, (VECTOR,), {"parameters": (2,), "values": ()})
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_several_inputs_and_one_output():
    class Critic(torch.nn.Module):
        def forward(self, observation, action):
            return (observation["x"] * action.unsqueeze(-1)).sum(-1)

    check_outputs("Some.network", Critic(), ({"x": VECTOR}, TensorSpec(())), {"values": ()})


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
        check_outputs("Some.network", Pair(), (VECTOR,), outputs)


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


class Summing(torch.nn.Module):
    """A memory: the sum of the observations of the episode. It is wrong in one of its parts."""

    output_spec = VECTOR

    def __init__(self, wrong):
        super().__init__()
        self._wrong = wrong

    def initial_state(self, batch_size):
        return torch.full((batch_size, 3), 1.0 if self._wrong == "initial state" else 0.0)

    def step(self, observation, state):
        state = state + observation
        return state, state if self._wrong != "next state" else observation

    def unroll(self, observation, state, begins):
        features = []
        for row, begin in zip(observation.unbind(1), begins.unbind(1), strict=True):
            state = (state if self._wrong == "begins" else torch.where(begin.unsqueeze(-1), 0.0, state)) + row
            features.append(state)
        return torch.stack(features, dim=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("initial state", "Summing.initial_state is not zeros; expected zeros, which"),
        ("next state", "Summing.step and Summing.unroll give different features of the same rows, row 2 of a block"),
        ("begins", "Summing.step and Summing.unroll give different features of the same rows, row 1 of a block"),
    ],
)
def test_a_memory_that_disagrees_with_itself_is_refused(wrong, message):
    assert build_encoder("Some.encoder", lambda observation_spec: Summing(None), VECTOR)
    with pytest.raises(ValueError, match=message):
        build_encoder("Some.encoder", lambda observation_spec: Summing(wrong), VECTOR)


class OfBlocksOnly(IdentityEncoder):
    """Without memory, and yet it needs an axis of time."""

    def unroll(self, observation, state, begins):
        return observation.transpose(1, 2).transpose(1, 2)


def test_an_encoder_without_memory_reads_rows_without_time():
    with pytest.raises(ValueError, match=r"OfBlocksOnly.unroll cannot read \(2,\) rows: .* expected rows with any"):
        build_encoder("Some.encoder", OfBlocksOnly, VECTOR)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec((2,), torch.int64),
        BoundedTensorSpec((2,), torch.uint8, 0, 255),
        BoundedTensorSpec((), torch.bool, 0, 1),
        BoundedTensorSpec((2,), torch.float32, (-math.inf, 3.0), (math.inf, 4.0)),
        {"low": BoundedTensorSpec((2,), torch.int64, -(2**63), 2**63 - 1), "half": TensorSpec((1,), torch.bfloat16)},
    ],
)
def test_encoders_are_tried_on_what_they_may_see(spec):
    class Watching(IdentityEncoder):
        def unroll(self, observation, state, begins):
            for each, leaf in zip(nest.leaves(self.output_spec), nest.leaves(observation), strict=True):
                assert leaf.dtype == each.dtype
                if isinstance(each, BoundedTensorSpec):
                    low, high = each.bounds()
                    assert ((leaf >= low) & (leaf <= high)).all()
            return observation

    before = torch.random.get_rng_state()
    build_encoder("Some.encoder", Watching, spec)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_is_no_encoder():
    with pytest.raises(
        ValueError, match="Some.encoder makes a Linear without output_spec, initial_state, step, unroll"
    ):
        build_encoder("Some.encoder", lambda observation_spec: torch.nn.Linear(3, 3), VECTOR)
    assert isinstance(build_encoder("Some.encoder", IdentityEncoder, VECTOR), IdentityEncoder)
