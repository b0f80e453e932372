"""Observation transforms: what is seen when acting equals what is seen in training."""

import math

import pytest
import torch

from alfish import nest, specs
from alfish.networks.mlp import ObservationFlattener
from alfish.networks.preprocessing import FrameStack, ObservationTransform, episode_begins

SPEC = {"frame": specs.TensorSpec((1, 2), torch.uint8), "vector": specs.TensorSpec((3,))}


def test_identity_hands_everything_on():
    transform = ObservationTransform(SPEC)
    observation = {"frame": torch.ones(2, 1, 2), "vector": torch.ones(2, 3)}
    seen, state = transform.step(observation, transform.initial_state(2, "cpu"), torch.tensor([True, False]))
    assert seen is observation
    assert state == ()
    assert transform.past_rows == 0


def test_frame_stack_spec():
    transform = FrameStack(SPEC, num_frames=3)
    assert transform.output_spec["frame"].shape == (3, 2)
    assert transform.output_spec["vector"].shape == (9,)
    assert transform.past_rows == 2


def test_frame_stack_keeps_bounds():
    spec = {
        "board": specs.BoundedTensorSpec((1, 2), torch.uint8, 0, 1),
        "vector": specs.BoundedTensorSpec((2,), torch.float32, (-1.0, -math.inf), 2.5),
        "choices": specs.BoundedTensorSpec((1,), torch.int64, 3, 5),
    }
    assert FrameStack(spec, num_frames=2).output_spec == {
        "board": specs.BoundedTensorSpec((2, 2), torch.uint8, 0, 1),
        "vector": specs.BoundedTensorSpec((4,), torch.float32, (-1.0, -math.inf, -1.0, -math.inf), 2.5),
        "choices": specs.BoundedTensorSpec((2,), torch.int64, 3, 5),
    }


def test_networks_read_stacked_numbers_as_they_read_single_ones():
    spec = {
        "board": specs.BoundedTensorSpec((2,), torch.uint8, 0, 1),
        "choice": specs.BoundedTensorSpec((1,), torch.int64, 3, 5),
    }
    stacked = {"board": torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8), "choice": torch.tensor([[3, 5]])}
    flattened = ObservationFlattener(FrameStack(spec, num_frames=2).output_spec)(stacked)
    assert flattened.tolist() == [[0, 1, 1, 0, 1, 0, 0, 0, 0, 1]]


def test_frame_stack_repeats_the_first_frame_and_forgets_the_last_episode():
    transform = FrameStack(specs.TensorSpec((1,)), num_frames=3)
    state = transform.initial_state(1, "cpu")
    seen = []
    for value, begins in [(1, True), (2, False), (3, False), (4, False), (9, True), (10, False)]:
        stacked, state = transform.step(torch.tensor([[float(value)]]), state, torch.tensor([begins]))
        seen.append(stacked[0].tolist())
    assert seen == [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4], [9, 9, 9], [9, 9, 10]]


def test_unroll_equals_step():
    torch.manual_seed(0)
    transform = FrameStack(SPEC, num_frames=4)
    begins = torch.rand(5, 30) < 0.2
    begins[:, 0] = True
    observation = {"frame": torch.randint(0, 255, (5, 30, 1, 2), dtype=torch.uint8), "vector": torch.randn(5, 30, 3)}
    unrolled = transform.unroll(observation, begins)
    state = transform.initial_state(5, "cpu")
    for row in range(30):
        now = {name: leaf[:, row] for name, leaf in observation.items()}
        stacked, state = transform.step(now, state, begins[:, row])
        if row >= transform.past_rows:
            for name, leaf in stacked.items():
                assert torch.equal(leaf, unrolled[name][:, row - transform.past_rows]), (name, row)


def test_episode_begins_after_a_cut():
    is_first = torch.tensor([[True, False, False, True]])
    is_last = torch.tensor([[False, True, True, False]])
    assert episode_begins(is_first, is_last).tolist() == [[True, False, True, True]]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"num_frames is 0"):
        FrameStack(SPEC, num_frames=0)
    with pytest.raises(ValueError, match="'speed'"):
        FrameStack({"speed": specs.TensorSpec(())})


MIXED = {
    "inner": {"frame": specs.TensorSpec((1, 2), torch.uint8), "clock": specs.BoundedTensorSpec((), torch.int64, 0, 9)},
    "mask": specs.BoundedTensorSpec((3,), torch.int8, 0, 1),
    "vector": specs.TensorSpec((2,)),
}


@pytest.mark.parametrize("keys", [("inner.frame", "vector"), ["vector", "inner.frame"]])
def test_only_the_named_entries_are_stacked(keys):
    transform = FrameStack(MIXED, num_frames=3, keys=keys)
    frame, vector = specs.TensorSpec((3, 2), torch.uint8), specs.TensorSpec((6,))
    clock = MIXED["inner"]["clock"]
    assert transform.output_spec == {
        "inner": {"frame": frame, "clock": clock},
        "mask": MIXED["mask"],
        "vector": vector,
    }
    assert sorted(tuple(leaf.shape) for leaf in transform.initial_state(5, "cpu")) == [(5, 3, 2), (5, 6)]


def test_a_key_names_all_that_is_below_it():
    spec = {"inner": {"a": specs.TensorSpec((1,)), "b": specs.TensorSpec((2,))}, "inner2": specs.TensorSpec((1,))}
    seen = FrameStack(spec, num_frames=2, keys=("inner",)).output_spec
    assert [leaf.shape for leaf in (seen["inner"]["a"], seen["inner"]["b"], seen["inner2"])] == [(2,), (4,), (1,)]


def test_unroll_equals_step_where_only_some_entries_are_stacked():
    torch.manual_seed(0)
    transform = FrameStack(MIXED, num_frames=3, keys=("inner.frame",))
    begins = torch.rand(4, 20) < 0.2
    begins[:, 0] = True
    observation = {
        "inner": {
            "frame": torch.randint(0, 255, (4, 20, 1, 2), dtype=torch.uint8),
            "clock": torch.arange(80).view(4, 20),
        },
        "mask": torch.randint(0, 2, (4, 20, 3), dtype=torch.int8),
        "vector": torch.randn(4, 20, 2),
    }
    unrolled = transform.unroll(observation, begins)
    state = transform.initial_state(4, "cpu")
    for row in range(20):
        now = nest.map_structure(lambda leaf, row=row: leaf[:, row], observation)
        seen, state = transform.step(now, state, begins[:, row])
        assert torch.equal(seen["mask"], now["mask"])
        if row >= transform.past_rows:
            then = nest.map_structure(lambda leaf, row=row: leaf[:, row - 2], unrolled)
            nest.map_structure(torch.testing.assert_close, seen, then)


@pytest.mark.parametrize(
    ("spec", "keys", "cause"),
    [
        (MIXED, ("camera",), r"keys is \('camera',\); expected entries of the observation, which has \['inner.clock'"),
        (MIXED, ("vec",), r"keys is \('vec',\)"),
        (MIXED, (), r"keys is \(\)"),
        (
            MIXED,
            None,
            r"cannot stack the scalar observation 'inner.clock'; name the entries .* FrameStack.keys, or let",
        ),
        (specs.TensorSpec((2,)), ("a",), r"keys is \('a',\); expected .*, which has none, or None"),
        (specs.TensorSpec(()), None, r"cannot stack an observation that is a scalar; let the environment"),
    ],
)
def test_what_cannot_be_stacked(spec, keys, cause):
    with pytest.raises(ValueError, match=cause):
        FrameStack(spec, num_frames=2, keys=keys)
