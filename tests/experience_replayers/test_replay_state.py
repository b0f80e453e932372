"""Checkpoints of the replay buffer."""

import copy
import tracemalloc

import numpy as np
import pytest
import torch

from alfish import nest, specs
from alfish.data_structures import Experience, RowsNeeded, time_step_spec
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.recent_mix import RecentMix
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import UniformSampler
from alfish.experience_replayers.storage import MappedStorage
from alfish.trainers import checkpoint_files, state_nests
from alfish.trainers.checkpoint_store import CheckpointStore

NEEDED = RowsNeeded(past=1, future=2, future_observations=1)
WINDOWS = (["FMM", "FLF"], ["MML", "MMM"], ["FML", "MLL"], ["LFM", "FMM"], ["MMM", "LFM"])
SAMPLERS = {
    "uniform": UniformSampler,
    "prioritized": lambda: PrioritizedSampler(alpha=0.6, beta=0.4),
    "mix": lambda: RecentMix(PrioritizedSampler(alpha=0.6, beta=0.4), recent_ratio=0.25, recent_rows=4),
}


@pytest.fixture
def make_replay(experience_spec, make_window):
    def make(num_windows, capacity=20, sampler="prioritized", storage=None):
        replay = ReplayBuffer(experience_spec, 2, capacity, NEEDED, sampler=SAMPLERS[sampler](), storage=storage)
        for number in range(num_windows):
            _append_and_learn(replay, make_window, number)
        return replay

    return make


def _append_and_learn(replay, make_window, number):
    """Window `number`, priorities of a batch, and every third time another window of environment 1 alone."""
    replay.append(make_window(WINDOWS[number % 5], [3 * number, 3 * number + (number + 2) // 3]))
    if number % 3 == 0:
        replay.append(make_window(["M"], 3 * number + 3 + number // 3, first_env=1), first_env=1)
    generator = np.random.default_rng(number)
    replay.update_priorities(replay.sample(4, generator).rows, generator.random(4))


def _assert_equal(first, second):
    nest.check_same_structure(first, second, "state")
    for one, other in zip(nest.leaves(first), nest.leaves(second), strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("num_windows", [0, 2, 4, 9])  # 3 rows each and some; the ring has 10
@pytest.mark.parametrize("used", [0, 3, 7])
def test_round_trip_and_continuation(make_replay, make_window, num_windows, used, sampler, on_disk, tmp_path):
    original = make_replay(num_windows, sampler=sampler)
    resumed = make_replay(used, sampler=sampler, storage=MappedStorage(tmp_path) if on_disk else None)
    resumed.load_state_dict(copy.deepcopy(original.state_dict()))
    for number in range(num_windows, num_windows + 6):
        _assert_equal_stored(original.state_dict(), resumed.state_dict())
        for replay in (original, resumed):
            _append_and_learn(replay, make_window, number)
        samples = [replay.sample(16, np.random.default_rng(number)) for replay in (original, resumed)]
        _assert_equal(*(nest.map_structure(torch.as_tensor, sample) for sample in samples))
        assert original.total_rows == resumed.total_rows == 6 * (number + 1) + number // 3 + 1


def _assert_equal_stored(first, second):
    """Equal but for entries of the episode index that no row of an environment has filled yet."""
    first, second = copy.deepcopy(first), copy.deepcopy(second)
    for state in (first, second):
        for env, num_added in enumerate(state["ring"]["num_added"].tolist()):
            state["episodes"]["arrays"][2][num_added:, env] = 0
            number = int(state["episodes"]["arrays"][0][env])
            for leaf in state["episodes"]["arrays"][3:]:
                leaf[number + 1 :, env] = 0
    _assert_equal(first, second)


def test_a_checkpoint_is_written_and_read(make_replay, make_window, tmp_path):
    original, resumed = make_replay(5), make_replay(0, storage=MappedStorage(tmp_path / "rows"))
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(1, {"replay": original})
    assert store.load({"replay": resumed}) == 1
    _assert_equal_stored(original.state_dict(), resumed.state_dict())


def test_saving_takes_no_copy_and_only_what_is_filled(make_replay):
    replay = make_replay(2)
    first, again = replay.state_dict(), replay.state_dict()
    assert first["ring"]["num_added"].tolist() == [6, 7]
    assert [leaf.shape[:2] for leaf in first["ring"]["rows"]] == [(2, 7)] * len(first["ring"]["spec"])
    for leaf, same in zip(first["ring"]["rows"], again["ring"]["rows"], strict=True):
        assert leaf.data_ptr() == same.data_ptr()
    for array, same in zip(first["episodes"]["arrays"], again["episodes"]["arrays"], strict=True):
        assert array.data_ptr() == same.data_ptr()
    assert first["sampler"]["priority"].data_ptr() == again["sampler"]["priority"].data_ptr()


class _Part:
    """A replay as a component that copies what it is given."""

    copies_on_load = True

    def __init__(self, replay):
        self.state_dict, self.load_state_dict = replay.state_dict, replay.load_state_dict
        self.check_state_dict = replay.check_state_dict


@pytest.mark.parametrize(("num_rows", "more_of_half"), [(2048, 0), (1500, 0), (1500, 400)])
def test_checkpoints_of_many_environments_take_no_second_copy(num_rows, more_of_half, tmp_path, monkeypatch):
    """Of no leaf are the rows of one environment large. The ring is full, or it is not."""
    monkeypatch.setattr(checkpoint_files, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(state_nests, "LARGE_BYTES", 1 << 17)
    spec = Experience(time_step_spec(specs.TensorSpec((4,)), specs.TensorSpec((), torch.int64)))
    original, resumed = (
        ReplayBuffer(spec, 128, 128 * 2048, RowsNeeded(), sampler=PrioritizedSampler(0.6, 0.4)) for _ in range(2)
    )
    for length, num_envs in ((num_rows, 128), (more_of_half, 64)):
        if length:
            original.append(nest.map_structure(lambda leaf: leaf + 1, specs.zeros(spec, (length, num_envs))))
    row_bytes = specs.num_bytes(spec) * original.num_rows
    peaks = []
    store = CheckpointStore(tmp_path)
    steps = (
        lambda: store.save(1, {"replay": _Part(original)}),
        lambda: store.load({"replay": _Part(resumed)}),
    )
    for step in steps:
        tracemalloc.start()
        try:
            step()
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    _assert_equal(original.state_dict(), resumed.state_dict())
    (small,) = tmp_path.glob("*/state.pt")
    assert small.stat().st_size < 20_000
    assert max(peaks) < row_bytes / 3


def test_loading_copies(make_replay):
    original, resumed = make_replay(2), make_replay(0)
    state = original.state_dict()
    saved = copy.deepcopy(state)
    resumed.load_state_dict(state)
    for tensor in state["ring"]["rows"] + state["episodes"]["arrays"]:
        tensor.zero_()
    _assert_equal(resumed.state_dict(), saved)


def _without(state, part):
    del state[part]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.update(capacity=22), "checkpoint has capacity=22, this run has capacity=20"),
        (lambda state: state.update(num_envs=4), "checkpoint has num_envs=4, this run has num_envs=2"),
        (lambda state: _without(state, "episodes"), "the state holds"),
        # As before the rows of all environments were one tensor.
        (
            lambda state: state["ring"].update(leaves=state["ring"].pop("rows")),
            r"Ring: the state holds \['leaves', .*\], expected .*'rows', 'spec'\]; another class or version saved it$",
        ),
        (lambda state: _without(state, "sampler"), r"the sampler's part \(the priorities\) is missing"),
        (lambda state: state.update(sampler={"sampler": "Uniform"}), "Uniform, this run samples with Prioritized"),
        (lambda state: state["sampler"].update(largest=-1.0), "largest=-1.0"),
        (lambda state: state["ring"].update(length=11), "the state has length=11, this ring has 10"),
        (lambda state: state["ring"].update(num_added=7), "the state's tensors are"),
        (lambda state: state["ring"]["num_added"].sub_(8), r"num_added=\[-2, -1\]"),
        (lambda state: state["ring"]["num_added"].add_(1), "the state's tensors are"),
        (lambda state: state["ring"]["rows"].pop(), "the state's tensors are"),
        (lambda state: state["ring"].update(rows=[1]), "the state's tensors are"),
        (lambda state: state["episodes"].update(num_added="6"), "the state's tensors are"),
        (lambda state: state["episodes"].update(arrays=6), "the state's tensors are int"),
        (lambda state: state["episodes"]["arrays"][0].fill_(7), "7 episodes in 6 rows of environment 0"),
        (lambda state: state["episodes"]["arrays"][2].fill_(-1), "an entry is not in"),
        (lambda state: state["episodes"]["arrays"].pop(), "the state's tensors are"),
    ],
)
def test_a_foreign_or_damaged_state_is_refused_whole(make_replay, damage, message):
    replay = make_replay(3)
    before = copy.deepcopy(replay.state_dict())
    state = copy.deepcopy(make_replay(2).state_dict())
    damage(state)
    with pytest.raises(ValueError, match=message):
        replay.load_state_dict(state)
    _assert_equal(replay.state_dict(), before)


def test_rows_and_episodes_of_different_saves_are_refused(make_replay):
    state = make_replay(4).state_dict() | {"episodes": make_replay(3).state_dict()["episodes"]}
    with pytest.raises(ValueError, match=r"rows end at \[12, 14\] and its episodes at \[9, 10\]"):
        make_replay(0).load_state_dict(state)


def test_a_state_of_another_spec_names_the_leaves(make_replay, experience_spec):
    other_spec = experience_spec._replace(rollout_info={"value": specs.TensorSpec((5,))})
    other = ReplayBuffer(other_spec, 2, 20, NEEDED)
    with pytest.raises(ValueError, match=r"rollout_info.value: torch.float32 \(\).*rollout_info.value: .* \(5,\)"):
        other.load_state_dict(make_replay(2, sampler="uniform").state_dict())
