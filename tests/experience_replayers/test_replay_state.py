"""Checkpoints of the replay buffer."""

import copy

import numpy as np
import pytest
import torch

from alfish import nest, specs
from alfish.data_structures import RowsNeeded
from alfish.experience_replayers.replay_buffer import ReplayBuffer

NEEDED = RowsNeeded(past=1, future=2, future_observations=1)
WINDOWS = (["FMM", "FLF"], ["MML", "MMM"], ["FML", "MLL"], ["LFM", "FMM"], ["MMM", "LFM"])


@pytest.fixture
def make_replay(experience_spec, make_window):
    def make(num_windows, capacity=20):
        replay = ReplayBuffer(experience_spec, 2, capacity, NEEDED)
        for number in range(num_windows):
            replay.append(make_window(WINDOWS[number % 5], 3 * number))
        return replay

    return make


def _assert_equal(first, second):
    nest.check_same_structure(first, second, "state")
    for one, other in zip(nest.leaves(first), nest.leaves(second), strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("num_windows", [0, 2, 4, 9])  # 3 rows each; the ring has 10
@pytest.mark.parametrize("used", [0, 3, 7])
def test_round_trip_and_continuation(make_replay, make_window, num_windows, used):
    original = make_replay(num_windows)
    resumed = make_replay(used)
    resumed.load_state_dict(copy.deepcopy(original.state_dict()))
    for number in range(num_windows, num_windows + 6):
        _assert_equal(original.state_dict(), resumed.state_dict())
        for replay in (original, resumed):
            replay.append(make_window(WINDOWS[number % 5], 3 * number))
        samples = [replay.sample(16, np.random.default_rng(number)) for replay in (original, resumed)]
        _assert_equal(*samples)
        assert original.total_rows == resumed.total_rows == 6 * (number + 1)


def test_saving_takes_no_copy_and_only_what_is_filled(make_replay):
    replay = make_replay(2)
    first, again = replay.state_dict(), replay.state_dict()
    for leaf, same in zip(first["ring"]["leaves"], again["ring"]["leaves"], strict=True):
        assert leaf.shape[:2] == (6, 2)
        assert leaf.is_contiguous()
        assert leaf.data_ptr() == same.data_ptr()
    for array, same in zip(first["episodes"]["arrays"], again["episodes"]["arrays"], strict=True):
        assert array.data_ptr() == same.data_ptr()


def test_loading_copies(make_replay):
    original, resumed = make_replay(2), make_replay(0)
    state = original.state_dict()
    saved = copy.deepcopy(state)
    resumed.load_state_dict(state)
    for tensor in state["ring"]["leaves"] + state["episodes"]["arrays"]:
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
        (lambda state: state["ring"].update(length=11), "the state has length=11, this ring has 10"),
        (lambda state: state["ring"].update(num_added=-1), "num_added=-1"),
        (lambda state: state["ring"].update(num_added=7), "the state's tensors are"),
        (lambda state: state["ring"]["leaves"].pop(), "the state's tensors are"),
        (lambda state: state["ring"].update(leaves=[1]), "the state's tensors are"),
        (lambda state: state["episodes"].update(num_added="6"), "num_added='6'"),
        (lambda state: state["episodes"]["arrays"][0].fill_(7), "7 episodes in 6 rows"),
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
    with pytest.raises(ValueError, match="rows end at 12 and its episodes at 9"):
        make_replay(0).load_state_dict(state)


def test_a_state_of_another_spec_names_the_leaves(make_replay, experience_spec):
    other_spec = experience_spec._replace(rollout_info={"value": specs.TensorSpec((5,))})
    other = ReplayBuffer(other_spec, 2, 20, NEEDED)
    with pytest.raises(ValueError, match=r"rollout_info.value: torch.float32 \(\).*rollout_info.value: .* \(5,\)"):
        other.load_state_dict(make_replay(2).state_dict())
