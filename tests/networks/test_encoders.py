"""Encoders: both faces agree, and they read what they say."""

import pytest
import torch

from alfish import nest, specs
from alfish.data_structures import StepType, time_step_spec
from alfish.networks.encoders import IdentityEncoder, MLPEncoder, unroll_rows
from alfish.specs import BoundedTensorSpec, TensorSpec

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST
NESTED = {"image": TensorSpec((2, 3), torch.uint8), "tile": BoundedTensorSpec((), torch.int64, 0, 2)}


class CountingEncoder(torch.nn.Module):
    """Adds up an episode's observations, so that a reader can follow its memory."""

    def __init__(self, observation_spec):
        super().__init__()
        self.output_spec = observation_spec

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1)

    def step(self, observation, state):
        total = state + observation
        return total, total

    def unroll(self, observation, state, begins):
        features = []
        for t in range(observation.shape[1]):
            state = torch.where(begins[:, t : t + 1], 0.0, state) + observation[:, t]
            features.append(state)
        return torch.stack(features, dim=1)


def rows(step_type, observation):
    """Rows `[B, T]` of one environment each."""
    spec = time_step_spec(TensorSpec((1,)), BoundedTensorSpec((), torch.int64, 0, 1))
    step_type = torch.tensor(step_type, dtype=torch.uint8)
    return specs.zeros(spec, tuple(step_type.shape))._replace(
        step_type=step_type, observation=torch.tensor(observation).unsqueeze(-1)
    )


def test_identity_hands_on():
    encoder = IdentityEncoder(NESTED)
    observation = specs.zeros(NESTED, (2,))
    assert encoder.output_spec == NESTED and encoder.initial_state(2) == ()
    assert encoder.step(observation, ()) == (observation, ())
    assert encoder.unroll(observation, (), ()) is observation


def test_mlp_by_hand():
    encoder = MLPEncoder(TensorSpec((2,)), hidden_sizes=(3, 4), activation="tanh")
    first, second = encoder._layers.hidden
    observation = torch.randn(5, 2)
    expected = torch.tanh(torch.tanh(observation @ first.weight.T) @ second.weight.T)
    features, state = encoder.step(observation, ())
    torch.testing.assert_close(features, expected)
    assert state == () and encoder.output_spec == TensorSpec((4,))
    torch.testing.assert_close(encoder.unroll(observation.view(5, 1, 2), (), ()), expected.view(5, 1, 4))
    torch.testing.assert_close(first.weight.T @ first.weight, 2.0 * torch.eye(2))


def test_mlp_reads_nested_observations():
    encoder = MLPEncoder(NESTED, hidden_sizes=(4,))
    observation = specs.zeros(NESTED, (5, 7))
    assert encoder.unroll(observation, (), ()).shape == (5, 7, 4)
    assert encoder._layers.input_size == 6 + 3


def test_mlp_without_layers_is_refused():
    with pytest.raises(ValueError, match="MLPEncoder.hidden_sizes is empty"):
        MLPEncoder(TensorSpec((2,)), hidden_sizes=())


def test_rows_without_memory_may_have_any_axes():
    encoder = MLPEncoder(TensorSpec((1,)), hidden_sizes=(3,))
    block = rows([[MID, LAST], [FIRST, MID]], [[1.0, 2.0], [3.0, 4.0]])
    folded = nest.map_structure(lambda leaf: leaf.flatten(0, 1), block)
    features = unroll_rows(encoder, block, ())
    assert features.shape == (2, 2, 3)
    torch.testing.assert_close(unroll_rows(encoder, folded, ()), features.flatten(0, 1))


@pytest.mark.parametrize(
    ("step_type", "expected"),
    [
        ([MID, MID, MID, MID], [11.0, 13.0, 16.0, 20.0]),
        ([FIRST, MID, MID, MID], [1.0, 3.0, 6.0, 10.0]),
        ([MID, LAST, FIRST, MID], [11.0, 13.0, 3.0, 7.0]),
        # A row after LAST begins an episode, whatever its own type: it may be LAST too.
        ([LAST, LAST, LAST, FIRST], [11.0, 2.0, 3.0, 4.0]),
    ],
)
def test_memory_begins_with_episodes(step_type, expected):
    block = rows([step_type], [[1.0, 2.0, 3.0, 4.0]])
    features = unroll_rows(CountingEncoder(TensorSpec((1,))), block, torch.tensor([[10.0]]))
    assert features.squeeze(-1).tolist() == [expected]


def test_rows_without_observation_have_no_features():
    block = rows([[MID, LAST, FIRST, MID]], [[1.0, 2.0, 3.0, 4.0]])
    shorter = block._replace(observation=block.observation[:, :3])
    features = unroll_rows(CountingEncoder(TensorSpec((1,))), shorter, torch.tensor([[10.0]]))
    assert features.squeeze(-1).tolist() == [[11.0, 13.0, 3.0]]
