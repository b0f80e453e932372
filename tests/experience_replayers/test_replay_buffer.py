import numpy as np
import pytest
import torch

from alfish import gin_config, nest, specs
from alfish.data_structures import RowsNeeded, TailNeeded
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import SampledRows
from alfish.experience_replayers.storage import MappedStorage

NEEDED = RowsNeeded(past=2, future=3, future_observations=1)


@pytest.fixture
def sampled(experience_spec, make_window, given_rows):
    """A function from the step types of one environment to the sampled blocks of `positions`."""

    def sample(letters, positions, segment_length=1, length=8, window=4):
        sampler = given_rows(positions)
        replay = ReplayBuffer(experience_spec, 1, length, NEEDED, segment_length, sampler)
        for start in range(0, len(letters), window):
            replay.append(make_window([letters[start : start + window]], start))
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
    assert batch.batch_info.age.tolist() == [[len(letters) - 1 - row for row in block] for block in blocks.values()]
    assert allowed == ([max(0, len(letters) - length) + 2], [len(letters) - segment_length])


def test_shapes_and_dtypes(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 40, NEEDED, segment_length=2)
    replay.append(make_window(["FMMMMLFM", "FMLFMMMM"], 0))
    batch = replay.sample(5, np.random.default_rng(0))
    nest.check_same_structure(experience_spec, batch.experience, "sampled")
    for (path, spec), leaf in zip(nest.leaves_with_paths(experience_spec), nest.leaves(batch.experience), strict=True):
        assert leaf.shape == (5, 5 if "observation" in path else 7, *spec.shape)
        assert leaf.dtype == spec.dtype
    assert batch.batch_info.action is batch.experience.action
    for rows in (batch.batch_info.position, batch.batch_info.age):
        assert rows.shape == (5, 7)
        assert rows.dtype == torch.int64
    assert batch.batch_info.importance_weight == batch.batch_info.tail == ()
    assert batch.rows.position.tolist() == batch.batch_info.position[:, 2].tolist()
    assert batch.rows.env_id.tolist() == batch.experience.time_step.env_id[:, 2].tolist()


def test_counts(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 13, NEEDED)
    assert (replay.capacity, replay.num_rows, replay.total_rows) == (12, 0, 0)
    for start in (0, 4):
        replay.append(make_window(["FMMM", "FMMM"], start))
    assert (replay.num_rows, replay.total_rows) == (12, 16)


def test_environments_at_their_own_pace(experience_spec, make_window, given_rows):
    sampler = given_rows([2, 4, 5], [0, 2, 2])
    replay = ReplayBuffer(experience_spec, 3, 18, RowsNeeded(past=1, future=2, future_observations=2), 1, sampler)
    assert sampler.reserved == (3, 6)
    replay.append(make_window(["FMMMM"], 0, first_env=2), first_env=2)
    assert sampler.allowed == ([1, 1, 1], [-1, -1, 4])
    replay.append(make_window(["FML", "FMM"], 0))
    replay.append(make_window(["LFM"], 5, first_env=2), first_env=2)
    assert sampler.allowed == ([1, 1, 3], [2, 2, 7])
    assert (replay.num_rows, replay.total_rows) == (12, 14)
    batch = replay.sample(3, np.random.default_rng(0))
    assert batch.batch_info.position.tolist() == [[1, 2, 2, 2], [3, 4, 5, 5], [4, 5, 5, 5]]
    assert batch.experience.action.tolist() == [[1, 2, 2, 2], [203, 204, 205, 205], [204, 205, 205, 205]]
    # rows of this environment that came after, times 3 environments
    assert batch.batch_info.age.tolist() == [[3, 0, 0, 0], [12, 9, 6, 6], [9, 6, 6, 6]]


def test_sampler_gets_fraction_and_priorities_and_gives_weights(experience_spec, make_window, given_rows):
    sampler = given_rows([3, 2], weight=np.array([0.5, 1.0], np.float32))
    replay = ReplayBuffer(experience_spec, 1, 10, NEEDED, sampler=sampler)
    replay.append(make_window(["FMMMM"], 0))
    batch = replay.sample(2, np.random.default_rng(0), fraction=0.25)
    assert sampler.fraction == 0.25
    assert batch.batch_info.importance_weight.tolist() == [0.5, 1.0]
    replay.update_priorities(batch.rows, np.array([1.0, 2.0]))
    rows, priority = sampler.updated
    assert (rows.position.tolist(), rows.env_id.tolist(), priority.tolist()) == ([3, 2], [0, 0], [1.0, 2.0])


def test_priorities_decide_what_is_sampled(experience_spec, make_window):
    sampler = PrioritizedSampler(alpha=1.0, beta=1.0)
    replay = ReplayBuffer(experience_spec, 2, 20, RowsNeeded(), sampler=sampler)
    replay.append(make_window(["FMMM", "FMMM"], 0))
    position, env_id = np.divmod(np.arange(8), 2)
    priority = np.where((position == 2) & (env_id == 1), 1.0, 0.0)
    replay.update_priorities(SampledRows(position, env_id), priority)
    batch = replay.sample(50, np.random.default_rng(0))
    assert (batch.experience.action == 102).float().mean() > 0.9  # each of the 7 others has 1e-6 of it
    assert batch.batch_info.importance_weight.shape == (50,)
    with pytest.raises(ValueError, match=r"priority\[1\] is nan"):
        replay.update_priorities(SampledRows(np.array([0, 2]), np.array([0, 1])), np.array([5.0, np.nan]))
    again = replay.sample(50, np.random.default_rng(0))
    assert torch.equal(batch.experience.action, again.experience.action)


@pytest.mark.parametrize(
    ("position", "env_id", "priority", "message"),
    [
        ([0, 1], [0, 0], [1.0], r"position \(2,\), env_id \(2,\) and priority \(1,\)"),
        ([[0]], [[0]], [[1.0]], "expected one axis"),
        ([0], [2], [1.0], "env_id from 2 to 2; expected 0 to 1"),
        ([0], [-1], [1.0], "env_id from -1"),
    ],
)
def test_bad_rows_of_priorities(experience_spec, make_window, given_rows, position, env_id, priority, message):
    sampler = given_rows()
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED, sampler=sampler)
    replay.append(make_window(["FMMM", "FMMM"], 0))
    with pytest.raises(ValueError, match=message):
        replay.update_priorities(SampledRows(np.array(position), np.array(env_id)), np.array(priority))
    assert sampler.updated is None


def test_too_little_data_says_what_there_is_and_what_is_needed(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED, segment_length=2)
    replay.append(make_window(["FMM", "FMM"], 0))
    assert not replay.can_sample
    message = r"6 rows are stored, at most 3 of one of the 2 environments; at least 4 .* \(past 2 \+ segment 2\)"
    with pytest.raises(ValueError, match=message):
        replay.sample(1, np.random.default_rng(0))
    replay.append(make_window(["M"], 3))
    assert replay.can_sample  # one environment has enough
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
        ({"rows_needed": RowsNeeded(tail=TailNeeded(1.5))}, "gamma=1.5, expected a number in"),
        ({"rows_needed": RowsNeeded(tail=TailNeeded(float("nan")))}, "gamma=nan"),
        ({"max_bytes": 0}, "ReplayBuffer.max_bytes is 0; it must be at least 1"),
        ({"spec": {"a": specs.TensorSpec()}}, "expected an Experience"),
        ({"capacity": 10**15}, "GiB of memory. Lower ReplayBuffer.capacity to at most"),
    ],
)
def test_bad_arguments(experience_spec, changes, message):
    arguments = {"spec": experience_spec, "num_envs": 2, "capacity": 100, "rows_needed": NEEDED} | changes
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(**arguments)


@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("ReplayBuffer.sampler = @PrioritizedSampler", r"Sampler \| None, got @PrioritizedSampler; write .*r\(\)"),
        ("RecentMix.sampler = @PrioritizedSampler", r"Sampler \| None, got @PrioritizedSampler; write .*r\(\)"),
        ("ReplayBuffer.storage = @MappedStorage", r"Storage \| None, got @MappedStorage; write @MappedStorage\(\)"),
    ],
)
def test_parts_that_are_bound_without_parentheses_are_refused_by_name(binding, expected):
    parts = ("prioritized_sampler", "recent_mix", "replay_buffer", "storage")
    imports = "".join(f"import alfish.experience_replayers.{part}\n" for part in parts)
    with pytest.raises(ValueError, match=f"{binding}: expected {expected}"):
        gin_config.parse_text(imports + binding)


def test_a_sampler_that_breaks_the_rules_is_found_out(sampled):
    for position in (0, 1, 10):  # of stored rows 2 to 9
        with pytest.raises(ValueError, match="not stored; stored are"):
            sampled("FMMMMMMMMM", [position])


def test_bad_batch_size_and_window(experience_spec, make_window):
    replay = ReplayBuffer(experience_spec, 2, 100, NEEDED)
    window = make_window(["FMM", "FMM"], 0)
    with pytest.raises(ValueError, match="batch_size of ReplayBuffer.sample is 0; it must be at least 1"):
        replay.sample(0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="'action' has shape"):
        replay.append(window._replace(action=window.action[:2]))
    assert replay.total_rows == 0


@pytest.mark.parametrize("priority", [[1, 2.5], (1, 2.5), torch.tensor([1.0, 2.5]), np.array([1, 2.5], np.float16)])
def test_all_that_is_an_array_of_priorities_is_taken(experience_spec, make_window, given_rows, priority):
    sampler = given_rows()
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED, sampler=sampler)
    replay.append(make_window(["FMMM", "FMMM"], 0))
    replay.update_priorities(SampledRows([2, 3], [0, 1]), priority)
    (position, env_id), given = sampler.updated
    assert (position.tolist(), env_id.tolist(), given.tolist()) == ([2, 3], [0, 1], [1.0, 2.5])
    assert (position.dtype, given.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("priority", ["ab", ["a", "b"], [1, [2]], [1j, 2], torch.ones(2, requires_grad=True), None])
def test_what_is_no_array_of_priorities_is_refused(experience_spec, given_rows, priority):
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED, sampler=given_rows())
    with pytest.raises(ValueError, match=r"update_priorities: priority (is a .* that is no array of float64|\(\);)"):
        replay.update_priorities(SampledRows(np.array([2, 3]), np.array([0, 1])), priority)


def test_a_generator_of_torch_is_refused(experience_spec):
    replay = ReplayBuffer(experience_spec, 2, 20, NEEDED)
    with pytest.raises(ValueError, match="generator of ReplayBuffer.sample is <torch.*; expected one of numpy's"):
        replay.sample(2, torch.Generator())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"sampler": PrioritizedSampler}, r"sampler is the class PrioritizedSampler; expected an instance: Prior"),
        ({"storage": MappedStorage}, r"storage is the class MappedStorage; .*@MappedStorage\(\) with its parentheses"),
        (
            {"sampler": "uniform"},
            "ReplayBuffer.sampler is 'uniform', which is no Sampler: it has no allow, check_state",
        ),
        (
            {"storage": "/tmp/rows"},
            "ReplayBuffer.storage is '/tmp/rows', which is no Storage: it has no allocate, discard, disk",
        ),
    ],
)
def test_parts_of_another_kind_are_refused_by_name(experience_spec, parts, message):
    with pytest.raises(ValueError, match=message):
        ReplayBuffer(experience_spec, 2, 20, NEEDED, **parts)
