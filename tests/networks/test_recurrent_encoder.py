"""The encoder with a memory: step by step and a block at once are the same."""

import functools

import gin
import pytest
import torch

from alfish import nest
from alfish.networks.encoders import MLPEncoder
from alfish.networks.image_encoder import ImageEncoder
from alfish.networks.recurrent_encoder import RecurrentEncoder, RecurrentState
from alfish.specs import TensorSpec

VECTOR = TensorSpec((3,))
CELLS = ["gru", "lstm"]


def random_state(encoder, batch_size):
    return nest.map_structure(torch.randn_like, encoder.initial_state(batch_size))


def step_by_step(encoder, observation, state, begins):
    features = []
    for t in range(observation.shape[1]):
        state = nest.map_structure(lambda leaf, t=t: torch.where(begins[:, t : t + 1], 0.0, leaf), state)
        row, state = encoder.step(observation[:, t], state)
        features.append(row)
    return torch.stack(features, dim=1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_block_at_once_is_step_by_step_with_resets(cell, share):
    torch.manual_seed(0)
    encoder = RecurrentEncoder(VECTOR, functools.partial(MLPEncoder, hidden_sizes=(5,)), cell, state_size=4)
    observation, begins = torch.randn(6, 9, 3, requires_grad=True), torch.rand(6, 9) < share
    state = random_state(encoder, 6)
    expected = step_by_step(encoder, observation, state, begins)
    features = encoder.unroll(observation, state, begins)
    torch.testing.assert_close(features, expected)
    weights = torch.randn_like(features)
    gradients = [
        torch.autograd.grad((weights * each).sum(), [observation, *encoder.parameters()])
        for each in (features, expected)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("cell", CELLS)
def test_the_cells_are_those_of_torch(cell):
    encoder = RecurrentEncoder(VECTOR, cell=cell, state_size=4)
    layer = (torch.nn.GRU if cell == "gru" else torch.nn.LSTM)(3, 4, batch_first=True)
    own = (encoder.weight_input, encoder.weight_hidden, encoder.bias_input, encoder.bias_hidden)
    with torch.no_grad():
        for theirs, ours in zip(layer.all_weights[0], own, strict=True):
            theirs.copy_(ours.normal_())
    observation, state = torch.randn(2, 5, 3), random_state(encoder, 2)
    before = tuple(leaf.unsqueeze(0) for leaf in nest.leaves(state))
    expected, _ = layer(observation, before if cell == "lstm" else before[0])
    torch.testing.assert_close(encoder.unroll(observation, state, torch.zeros(2, 5, dtype=torch.bool)), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_nothing_crosses_the_beginning_of_an_episode(cell):
    encoder = RecurrentEncoder(VECTOR, cell=cell, state_size=4)
    observation, begins = torch.randn(1, 4, 3, requires_grad=True), torch.tensor([[False, False, True, False]])
    before, other = random_state(encoder, 1), random_state(encoder, 1)
    features, others = (encoder.unroll(observation, state, begins) for state in (before, other))
    assert (features[:, :2] != others[:, :2]).all() and torch.equal(features[:, 2:], others[:, 2:])
    features[:, 3].sum().backward()
    assert (observation.grad[:, :2] == 0).all() and (observation.grad[:, 2:] != 0).all()


def test_states_and_specs():
    gru, lstm = (RecurrentEncoder(VECTOR, cell=cell, state_size=4) for cell in CELLS)
    assert gru.output_spec == lstm.output_spec == TensorSpec((4,))
    assert isinstance(gru.initial_state(2), RecurrentState)
    assert [tuple(leaf.shape) for leaf in nest.leaves(gru.initial_state(2))] == [(2, 4)]
    assert [tuple(leaf.shape) for leaf in nest.leaves(lstm.initial_state(2))] == [(2, 4), (2, 4)]
    assert not any(leaf.any() for leaf in nest.leaves(lstm.initial_state(2)))
    weight = gru.weight_hidden
    torch.testing.assert_close(weight.T @ weight, torch.eye(4))


def test_images_go_through_their_encoder_first():
    small = functools.partial(ImageEncoder, convolutions=((2, 3, 1),), num_features=6)
    encoder = RecurrentEncoder(TensorSpec((1, 5, 5), torch.uint8), small, state_size=4)
    observation = torch.randint(0, 255, (2, 3, 1, 5, 5), dtype=torch.uint8)
    begins = torch.tensor([[True, False, False], [False, False, True]])
    features = encoder.unroll(observation, encoder.initial_state(2), begins)
    torch.testing.assert_close(features, step_by_step(encoder, observation, encoder.initial_state(2), begins))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "rnn"}, r"RecurrentEncoder.cell is 'rnn'; expected one of \('gru', 'lstm'\)"),
        ({"state_size": 0}, "RecurrentEncoder.state_size is 0"),
        ({"encoder": RecurrentEncoder}, "RecurrentEncoder, which has a memory of its own; expected one without"),
        ({"encoder": MLPEncoder(VECTOR)}, "RecurrentEncoder.encoder is a MLPEncoder that is already built"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecurrentEncoder(VECTOR, **arguments)


@pytest.mark.parametrize("scope", ["", "inner/"])
def test_one_inside_of_itself_is_refused(scope):
    gin.parse_config(f"RecurrentEncoder.encoder = @{scope}RecurrentEncoder")
    with pytest.raises(ValueError, match="makes a RecurrentEncoder, which has a memory of its own"):
        RecurrentEncoder(VECTOR)
