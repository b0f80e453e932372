import pathlib
import sys

import numpy as np
import pytest
import torch

from alfish import nest, specs
from alfish.data_structures import Experience, RowsNeeded, time_step_spec
from alfish.experience_replayers import replay_buffer
from alfish.experience_replayers.replay_buffer import ReplayBuffer, predicted_bytes

NEEDED = RowsNeeded(past=2, future=3, future_observations=1)


class FixedSampler:
    """Draws given rows of environment 0 and remembers what was allowed."""

    def __init__(self):
        self.position = []
        self.allowed = None

    def sample(self, batch_size, first, last, num_envs, generator):
        self.allowed = (first, last)
        return np.array(self.position), np.zeros(batch_size, np.int64)


@pytest.fixture
def sampled(experience_spec, make_window):
    """A function from the step types of one environment to the sampled blocks of `positions`."""

    def sample(letters, positions, segment_length=1, length=8, window=4):
        sampler = FixedSampler()
        replay = ReplayBuffer(experience_spec, 1, length, NEEDED, segment_length, sampler)
        for start in range(0, len(letters), window):
            replay.append(make_window([letters[start : start + window]], start))
        sampler.position = positions
        return replay.sample(len(positions), np.random.default_rng(0)), sampler.allowed

    return sample


@pytest.mark.parametrize(
    ("letters", "length", "segment_length", "blocks"),
    [
        # true ends, and an open episode behind them
        ("FMMLFMM", 8, 1, {2: [0, 1, 2, 3, 3, 3], 3: [1, 2, 3, 3, 3, 3], 4: [4, 4, 4, 5, 6, 6], 6: [4, 5, 6, 6, 6, 6]}),
        # wrapped: rows 4 to 9 are stored
        ("FMMMLFMMMM", 6, 1, {6: [5, 5, 6, 7, 8, 9], 7: [5, 6, 7, 8, 9, 9], 9: [7, 8, 9, 9, 9, 9]}),
        # wrapped, and the episode's begin is overwritten
        ("FMMMMMMMML", 6, 1, {6: [4, 5, 6, 7, 8, 9], 9: [7, 8, 9, 9, 9, 9]}),
        # a cut: row 3 is an episode of its own
        ("FMLLFM", 8, 1, {2: [0, 1, 2, 2, 2, 2], 3: [3, 3, 3, 3, 3, 3], 4: [4, 4, 4, 5, 5, 5]}),
        # longer segments run on as stored; the past is of their first row, the future of their last
        ("FMLFMML", 8, 3, {2: [0, 1, 2, 3, 4, 5, 6, 6], 3: [3, 3, 3, 4, 5, 6, 6, 6], 4: [3, 3, 4, 5, 6, 6, 6, 6]}),
        ("FMMMLFM", 8, 2, {3: [1, 2, 3, 4, 4, 4, 4], 4: [2, 3, 4, 5, 6, 6, 6], 5: [5, 5, 5, 6, 6, 6, 6]}),
        ("FMMLLFM", 8, 3, {2: [0, 1, 2, 3, 4, 4, 4, 4], 3: [1, 2, 3, 4, 5, 6, 6, 6], 4: [4, 4, 4, 5, 6, 6, 6, 6]}),
    ],
)
def test_blocks(sampled, letters, length, segment_length, blocks):
    batch, allowed = sampled(letters, list(blocks), segment_length, length)
    assert batch.batch_info.position.tolist() == list(blocks.values())
    assert batch.experience.action.tolist() == list(blocks.values())
    assert batch.experience.time_step.reward.tolist() == list(blocks.values())
    observed = [block[: 2 + segment_length + 1] for block in blocks.values()]
    assert batch.experience.time_step.observation["number"].tolist() == observed
    assert batch.experience.time_step.observation["image"][:, :, 1, 2].tolist() == observed
    assert allowed == (max(0, len(letters) - length) + 2, len(letters) - segment_length)


def test_shapes_and_dtypes(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 40, NEEDED, segment_length=2)
    replay.append(make_window(["FMMMMLFM", "FMLFMMMM"], 0))
    batch = replay.sample(5, np.random.default_rng(0))
    nest.check_same_structure(experience_spec, batch.experience, "sampled")
    for (path, spec), leaf in zip(nest.leaves_with_paths(experience_spec), nest.leaves(batch.experience), strict=True):
        assert leaf.shape == (5, 5 if "observation" in path else 7, *spec.shape)
        assert leaf.dtype == spec.dtype
    assert batch.batch_info.action is batch.experience.action
    assert batch.batch_info.position.dtype == torch.int64
    assert batch.batch_info.importance_weight == ()


def test_counts(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 13, NEEDED)
    assert (replay.capacity, replay.num_rows, replay.total_rows) == (12, 0, 0)
    for start in (0, 4):
        replay.append(make_window(["FMMM", "FMMM"], start))
    assert (replay.num_rows, replay.total_rows) == (12, 16)


def test_too_little_data_says_what_there_is_and_what_is_needed(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED, segment_length=2)
    replay.append(make_window(["FMM", "FMM"], 0))
    with pytest.raises(ValueError, match=r"6 rows are stored \(3 of each of 2 environments\), at least 8"):
        replay.sample(1, np.random.default_rng(0))
    replay.append(make_window(["M", "M"], 3))
    assert replay.sample(1, np.random.default_rng(0)).batch_info.position.tolist() == [[0, 1, 2, 3, 3, 3, 3]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 0}, "ReplayBuffer.capacity is 0; it must be at least 1"),
        ({"capacity": -5}, "ReplayBuffer.capacity is -5; it must be at least 1"),
        ({"num_envs": 0}, "ReplayBuffer.num_envs is 0; it must be at least 1"),
        ({"segment_length": 0}, "ReplayBuffer.segment_length is 0; it must be at least 1"),
        ({"capacity": 11}, r"capacity=11 is less than one block .* 6 rows .* x 2 environments = 12. Raise"),
        ({"rows_needed": RowsNeeded(0, 1, 2)}, "future_observations <= future"),
        ({"rows_needed": RowsNeeded(-1, 1, 1)}, "0 <= past"),
        ({"spec": {"a": specs.TensorSpec()}}, "expected an Experience"),
        ({"capacity": 10**15}, "GiB of memory. Lower ReplayBuffer.capacity to at most"),
    ],
)
def test_bad_arguments(experience_spec, changes, message):
    arguments = {"spec": experience_spec, "num_envs": 2, "capacity": 100, "rows_needed": NEEDED} | changes
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**arguments)


def test_a_sampler_that_breaks_the_rules_is_found_out(sampled):
    for position in (0, 1, 10):  # of stored rows 2 to 9
        with pytest.raises(ValueError, match="is not stored"):
            sampled("FMMMMMMMMM", [position])


def test_bad_batch_size_and_window(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 100, NEEDED)
    window = make_window(["FMM", "FMM"], 0)
    with pytest.raises(ValueError, match="batch_size of ReplayBuffer.sample is 0; it must be at least 1"):
        replay.sample(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="'action' has shape"):
        replay.append(window._replace(action=window.action[:2]))
    assert replay.total_rows == 0


def test_predicted_bytes_are_those_of_a_full_buffer(experience_spec, make_window):
    # per row: image 6, number 8, step type 1, reward and discount 4 each, env 4, two actions 8 each, value 4
    expected = 100 * (6 + 8 + 1 + 4 + 4 + 4 + 8 + 8 + 4) + 8 * (100 + 2 * 102)
    assert predicted_bytes(experience_spec, 2, 101) == expected
    replay = ReplayBuffer(experience_spec, 2, 101, NEEDED)
    assert replay.num_bytes == expected
    for start in range(0, 52, 2):
        replay.append(make_window(["LL", "LL"], start))
    state = replay.state_dict()
    tensors = state["ring"]["leaves"] + state["episodes"]["arrays"][2:]
    assert sum(tensor.nbytes for tensor in tensors) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_taken_as_rows_arrive():
    def resident() -> int:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

    spec = Experience(time_step_spec(specs.TensorSpec((2**20,), torch.uint8), specs.TensorSpec()))
    before = resident()
    replay = ReplayBuffer(spec, 1, 512, RowsNeeded())
    replay.append(specs.zeros(spec, (2, 1)))
    assert replay.num_bytes > 512 * 2**20
    assert resident() - before < 100 * 2**20


def test_a_container_limits_the_memory(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(replay_buffer, "_CONTAINER_MEMORY_LIMIT", limit)
    physical = replay_buffer.physical_memory()
    limit.write_text("max\n")
    assert replay_buffer.physical_memory() == physical
    limit.write_text("4096\n")
    assert replay_buffer.physical_memory() == 4096
