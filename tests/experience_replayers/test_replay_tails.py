"""What lies beyond a block."""

import numpy as np
import pytest
import torch

from alfish import nest
from alfish.data_structures import RowsNeeded, TailNeeded
from alfish.experience_replayers.replay_buffer import ReplayBuffer

# rewards are 1, 2, ... at positions 0, 1, ..., as make_window's plus 1; discounts are 1 but where said
GAMMA = 0.5


@pytest.fixture
def tail_of(experience_spec, make_window, given_rows):
    """A function from the rows of one environment to the Tail of blocks of `positions`."""

    def sample(letters, positions, segment_length=1, future=1, length=8, zeros=(), transform=None, window=4):
        needed = RowsNeeded(future=future, tail=TailNeeded(GAMMA, transform))
        replay = ReplayBuffer(experience_spec, 1, length, needed, segment_length, given_rows(positions))
        for start in range(0, len(letters), window):
            rows = make_window([letters[start : start + window]], start)
            time_step = rows.time_step
            discount = torch.ones_like(time_step.discount)
            for position in zeros:
                if start <= position < start + window:
                    discount[position - start] = 0.0
            time_step = time_step._replace(reward=time_step.reward + 1, discount=discount)
            replay.append(rows._replace(time_step=time_step))
        tail = replay.sample(len(positions), np.random.default_rng(0)).batch_info.tail
        return tail.reward.tolist(), tail.discount.tolist(), (-tail.rollout_info["value"]).tolist()

    return sample


def test_rewards_to_a_true_end(tail_of):
    # The block of row 0 ends with row 1; then come rewards 3, 4 and 5 to row 4, where the game is over.
    reward, discount, end = tail_of("FMMMLFM", [0, 1, 2, 3, 4, 5], zeros=[4])
    assert reward == [3 + 0.5 * 4 + 0.25 * 5, 4 + 0.5 * 5, 5.0, 0.0, 0.0, 0.0]
    assert discount == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]  # the last two, and row 6 of the open episode, end with the block
    assert end == [4, 4, 4, 4, 4, 6]


def test_rewards_to_a_time_limit_and_to_an_open_end(tail_of):
    reward, discount, end = tail_of("FMMLFMMM", [0, 2, 4, 5])
    assert reward == [3 + 0.5 * 4, 0.0, 7 + 0.5 * 8, 8.0]
    assert discount == [0.25, 1.0, 0.25, 0.5]
    assert end == [3, 3, 7, 7]


def test_a_discount_of_0_within_an_episode_ends_the_sum_there(tail_of):
    # A lost life at row 3: its reward still counts, later ones do not.
    reward, discount, _ = tail_of("FMMMML", [0, 2], zeros=[3])
    assert reward == [3 + 0.5 * 4, 5 + 0.5 * 6]
    assert discount == [0.0, 0.25]


def test_the_tail_follows_the_last_row_of_a_longer_segment(tail_of):
    # Segment 2, 3, 4 runs into the second episode, whose rows 5 and 6 are in the block.
    reward, discount, end = tail_of("FMLFMMMM", [2, 1], segment_length=3, future=2)
    assert reward == [8.0, 7 + 0.5 * 8]
    assert discount == [0.5, 0.25]
    assert end == [7, 7]


def test_a_wrapped_ring_and_no_future(tail_of):
    # Rows 4 to 9 are stored.
    reward, discount, end = tail_of("FMMMLFMMMM", [4, 6, 9], future=0, length=6)
    assert reward == [0.0, 8 + 0.5 * 9 + 0.25 * 10, 0.0]
    assert discount == [1.0, 0.125, 1.0]
    assert end == [4, 9, 9]


def test_rewards_are_transformed_once(tail_of):
    calls = []

    def transform(reward):
        calls.append(reward.shape)
        return reward.clamp(max=4)

    reward, _, _ = tail_of("FMMMMFM", [0, 1, 5], transform=transform)
    assert reward == [3 + 0.5 * 4 + 0.25 * 4, 4 + 0.5 * 4, 0.0]
    assert calls == [(5,)]


def test_no_row_beyond_any_block(tail_of):
    assert tail_of("FL", [0, 1], transform=torch.sign) == ([0.0, 0.0], [1.0, 1.0], [1, 1])


def test_a_transform_that_changes_the_shape_is_refused(tail_of):
    with pytest.raises(ValueError, match=r"made torch.float32 \(2,\) of rewards torch.float32 \(3,\); it must keep"):
        tail_of("FMMMMM", [0, 3], future=2, transform=lambda reward: reward[1:])


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda reward: None, r"the reward transform <function .* made None of rewards torch.float32 \(3,\)"),
        (lambda reward: reward.numpy(), r"made array\(.* of rewards .*; it must keep the shape and the dtype"),
        (lambda reward: reward.double(), r"made torch.float64 \(3,\) of rewards torch.float32 \(3,\)"),
        (lambda reward: (reward - 5).log(), "made nan of the reward 4.0; it must be finite"),
        (lambda reward: 1 / (reward - 5), "made inf of the reward 5.0; it must be finite"),
    ],
)
def test_a_transform_that_makes_no_rewards_is_refused(tail_of, transform, message):
    with pytest.raises(ValueError, match=message):
        tail_of("FMMMMM", [0, 3], future=2, transform=transform)


def test_random_rows_of_several_environments(experience_spec, make_window, given_rows):
    generator = np.random.default_rng(3)
    letters = ["".join(generator.choice(list("MMMML"), 60)) for _ in range(3)]
    gamma, future = 0.9, 2
    rows = make_window(letters, 0)
    reward, discount = torch.randn(60, 3), (torch.rand(60, 3) < 0.9).float()
    rows = rows._replace(time_step=rows.time_step._replace(reward=reward, discount=discount))
    position, env_id = (array.reshape(-1) for array in np.meshgrid(np.arange(60), np.arange(3)))
    needed = RowsNeeded(future=future, tail=TailNeeded(gamma))
    replay = ReplayBuffer(experience_spec, 3, 180, needed, sampler=given_rows(position, env_id))
    replay.append(rows)
    batch_info = replay.sample(180, generator).batch_info
    for block, env in enumerate(env_id):
        last = end = int(batch_info.position[block, -1])
        while end < 59 and letters[env][end] != "L":
            end += 1
        total, weight = 0.0, 1.0
        for row in range(last + 1, end + 1):
            total += weight * float(reward[row, env])
            weight *= gamma * float(discount[row, env])
        assert float(batch_info.tail.reward[block]) == pytest.approx(total, abs=1e-6)
        assert float(batch_info.tail.discount[block]) == pytest.approx(weight, abs=1e-6)
        expected = nest.map_structure(lambda leaf, end=end, env=env: leaf[end, env], rows.rollout_info)
        assert batch_info.tail.rollout_info["value"][block] == expected["value"]
