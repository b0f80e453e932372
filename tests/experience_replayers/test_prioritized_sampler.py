from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.samplers import SampledRows
from alfish.ops.schedules import LinearSchedule

NUM_ENVS, LENGTH = 3, 4


def new_sampler(num_envs: int = NUM_ENVS, length: int = LENGTH, **arguments: Any) -> PrioritizedSampler:
    sampler = PrioritizedSampler(**({"alpha": 1.0, "beta": 1.0, "epsilon": 0.0} | arguments))
    sampler.reserve(num_envs, length)
    return sampler


def single(priorities: list[float], **arguments: Any) -> tuple[PrioritizedSampler, SampledRows]:
    """A sampler of one environment with rows 0, 1, ... of these priorities, and the rows."""
    num_rows = len(priorities)
    sampler = new_sampler(1, num_rows, **arguments)
    sampler.allow(np.array([0]), np.array([num_rows - 1]))
    rows = SampledRows(np.arange(num_rows), np.zeros(num_rows, np.int64))
    sampler.update_priorities(rows, np.array(priorities))
    return sampler, rows


def counts(sampler: PrioritizedSampler, batch_size: int, seed: int, num_rows: int, fraction: float = 0.0) -> list[int]:
    drawn = sampler.sample(batch_size, np.random.default_rng(seed), fraction)
    return np.bincount(drawn.rows.position, minlength=num_rows).tolist()


def test_the_numbers_of_the_paper_by_hand():
    # alpha = 1/2 makes 1, 4, 16 into 1, 2, 4 of 7. So 7 strata hold the rows once, twice and four times, and beta = 1
    # weighs them by 7/3, 7/6 and 7/12, over the largest.
    sampler, rows = single([1, 4, 16], alpha=0.5)
    assert sampler.probability(rows) == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    for seed in range(20):
        assert counts(sampler, 7, seed, 3) == [1, 2, 4]
    drawn = sampler.sample(7, np.random.default_rng(0), 0.0)
    assert drawn.importance_weight is not None
    assert drawn.importance_weight == pytest.approx(np.array([1, 0.5, 0.25])[drawn.rows.position])


def test_epsilon_is_added():
    sampler, rows = single([0, 0.5], epsilon=0.25)
    assert sampler.probability(rows) == pytest.approx([0.25, 0.75])


def test_beta_by_a_schedule():
    sampler, _ = single([1, 4], beta=LinearSchedule(0.0, 1.0))
    for fraction, expected in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.25)):
        drawn = sampler.sample(5, np.random.default_rng(0), fraction)
        assert drawn.importance_weight is not None
        assert drawn.importance_weight[drawn.rows.position == 1] == pytest.approx([expected] * 4)
        assert drawn.importance_weight[drawn.rows.position == 0] == pytest.approx([1])


def test_alpha_by_a_schedule_counts_for_old_priorities_too():
    sampler, rows = single([1, 16, 0], alpha=LinearSchedule(1.0, 0.0))
    assert counts(sampler, 17, 0, 3) == [1, 16, 0]
    assert counts(sampler, 5, 0, 3, fraction=0.5) == [1, 4, 0]
    sampler.update_priorities(rows, np.array([9, 1, 0]))
    assert counts(sampler, 4, 0, 3, fraction=0.5) == [3, 1, 0]
    assert counts(sampler, 4, 0, 3, fraction=1.0) == [2, 2, 0]
    assert counts(sampler, 10, 0, 3, fraction=0.0) == [9, 1, 0]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_all_zero_priorities_draw_uniformly(alpha: float):
    sampler, rows = single([0] * 10, alpha=alpha)
    drawn = sampler.sample(4000, np.random.default_rng(0), 0.0)
    # 400 expected of each, standard deviation 19
    assert np.bincount(drawn.rows.position, minlength=10).min() > 320
    assert np.bincount(drawn.rows.position).max() < 480
    assert drawn.importance_weight is not None
    assert (drawn.importance_weight == 1).all()
    assert sampler.probability(rows) == pytest.approx([0.1] * 10)


def test_new_rows_have_the_largest_priority_so_far():
    sampler, rows = single([0.5, 0.25])
    bounds = np.array([0]), np.array([1])
    assert sampler.probability(rows) == pytest.approx([2 / 3, 1 / 3])

    sampler.allow(np.array([1]), np.array([2]))  # row 0 is gone, row 2 gets the initial 1, which was the largest
    assert sampler.probability(SampledRows(np.array([0, 1, 2]), bounds[0].repeat(3))) == pytest.approx([0, 0.2, 0.8])

    sampler.update_priorities(SampledRows(np.array([2]), np.array([0])), np.array([7.0]))
    sampler.update_priorities(SampledRows(np.array([2]), np.array([0])), np.array([2.0]))
    sampler.allow(np.array([2]), np.array([3]))
    assert sampler.probability(SampledRows(np.array([2, 3]), np.array([0, 0]))) == pytest.approx([2 / 9, 7 / 9])


def test_rows_that_are_gone_are_ignored():
    sampler = new_sampler(2, 4)
    sampler.allow(np.array([6, 7]), np.array([9, 8]))
    rows = SampledRows(np.array([6, 7, 8, 9, 7, 8]), np.array([0, 0, 0, 0, 1, 1]))
    before = sampler.probability(rows)
    # Rows that were, that are not there yet, and that are between the allowed ones and the newest; some share a slot
    # with a row that is allowed.
    gone = SampledRows(np.array([2, 5, 10, 3, 6, 9, 10**9]), np.array([0, 0, 0, 1, 1, 1, 1]))
    sampler.update_priorities(gone, np.full(7, 100.0))
    assert sampler.probability(rows).tolist() == before.tolist()
    assert sampler.probability(gone).tolist() == [0] * 7
    sampler.allow(np.array([7, 7]), np.array([10, 8]))
    assert sampler.probability(SampledRows(np.array([10]), np.array([0]))) == pytest.approx([1 / 6])  # 1 is the largest


def test_the_last_of_equal_rows_counts():
    sampler, rows = single([1, 1])
    sampler.update_priorities(SampledRows(np.array([0, 1, 0]), np.zeros(3, np.int64)), np.array([8.0, 1.0, 3.0]))
    assert sampler.probability(rows) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-9, 1e39])
def test_priorities_that_cannot_be_used_are_refused_and_change_nothing(bad: float):
    sampler, rows = single([1, 2, 3, 4])
    before = repr(sampler.state_dict())
    with pytest.raises(ValueError, match=r"priority\[2\] is (nan|inf|-inf|-1e-09|1e\+39), one of 1 of 4.*at least 0"):
        sampler.update_priorities(rows, np.array([9, 9, bad, 9]))
    assert repr(sampler.state_dict()) == before
    assert sampler.probability(rows) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_a_bad_priority_of_a_row_that_is_gone_is_refused_too():
    sampler, _ = single([1, 2])
    with pytest.raises(ValueError, match=r"priority\[0\] is nan"):
        sampler.update_priorities(SampledRows(np.array([5]), np.array([0])), np.array([np.nan]))


def test_one_priority_for_each_row():
    sampler, rows = single([1, 2])
    with pytest.raises(ValueError, match=r"2 rows, but priorities of shape \(1,\)"):
        sampler.update_priorities(rows, np.array([1.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": 1.5}, "alpha rises to 1.5; expected 0 to 1"),
        ({"beta": LinearSchedule(0.4, 1.2)}, "beta rises to 1.2; expected 0 to 1"),
        ({"beta": "1"}, "beta is '1'"),
        ({"epsilon": -1e-6}, "epsilon is -1e-06"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        new_sampler(**arguments)


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_as_a_list_of_priorities(data: st.DataObject):
    """Any order of appends (of some environments or all), updates and restorations, against plain Python."""
    alpha = data.draw(st.sampled_from([0.0, 0.5, 1.0]))
    sampler = new_sampler(alpha=alpha, beta=0.7)
    priorities: dict[tuple[int, int], float] = {}
    largest, first, last = 1.0, [0] * NUM_ENVS, [-1] * NUM_ENVS
    for _ in range(data.draw(st.integers(1, 6))):
        for env in range(NUM_ENVS):
            last[env] += data.draw(st.integers(0, LENGTH + 2))
            oldest = max(0, last[env] - LENGTH + 1)
            first[env] = max(first[env], oldest + data.draw(st.integers(0, 1)))
        sampler.allow(np.array(first), np.array(last))
        allowed = [(p, e) for e in range(NUM_ENVS) for p in range(first[e], last[e] + 1)]
        priorities = {row: priorities.get(row, largest) for row in allowed}

        places = st.tuples(st.integers(0, max(last) + 1), st.integers(0, NUM_ENVS - 1))
        changes = data.draw(st.lists(st.tuples(places, st.sampled_from([0.0, 0.25, 1.0, 3.0])), max_size=8))
        position, env_id = np.array([row for row, _ in changes], np.int64).reshape(-1, 2).T
        sampler.update_priorities(SampledRows(position, env_id), np.array([value for _, value in changes]))
        for row, value in changes:
            if row in priorities:
                priorities[row], largest = value, max(largest, value)
        if data.draw(st.booleans()):
            state, sampler = sampler.state_dict(), new_sampler(alpha=alpha, beta=0.7)
            sampler.load_state_dict(state)
        if allowed:
            check_against(sampler, priorities, alpha)


def check_against(sampler: PrioritizedSampler, priorities: dict[tuple[int, int], float], alpha: float) -> None:
    powers = [p**alpha if p else 0.0 for p in priorities.values()]
    if not any(powers):
        powers = [1.0] * len(powers)
    expected = {row: power / sum(powers) for row, power in zip(priorities, powers, strict=True)}
    position, env_id = np.array(list(expected)).T
    probability = sampler.probability(SampledRows(position, env_id))
    assert probability == pytest.approx(list(expected.values()), rel=1e-12, abs=0)

    drawn = sampler.sample(10, np.random.default_rng(0), 0.0)
    chosen = [expected[row] for row in zip(drawn.rows.position.tolist(), drawn.rows.env_id.tolist(), strict=True)]
    assert min(chosen) > 0
    weights = [(len(expected) * p) ** -0.7 for p in chosen]
    assert drawn.importance_weight == pytest.approx([w / max(weights) for w in weights], rel=1e-6)


def test_other_bounds_after_loading_keep_the_priorities_that_stay():
    # A run that goes on with another segment length allows fewer rows at the end, or more at the beginning.
    sampler, _ = single([1, 2, 3, 4, 5, 6])
    sampler.allow(np.array([2]), np.array([5]))
    sampler.allow(np.array([1]), np.array([4]))
    rows = SampledRows(np.arange(6), np.zeros(6, np.int64))
    total = 6 + 3 + 4 + 5  # row 1 becomes allowed: it gets the largest
    assert sampler.probability(rows) == pytest.approx([0, 6 / total, 3 / total, 4 / total, 5 / total, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 9}, "of 9 rows per environment, not 4"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"largest": float("nan")}, "largest=nan"),
        ({"first": torch.zeros(2, dtype=torch.int64)}, r"int64 \(2,\)"),
        ({"last": torch.full((NUM_ENVS,), 4)}, "allows rows"),
        ({"priority": torch.ones(5)}, r"float32 \(5,\)"),
        ({"priority": torch.ones(9, dtype=torch.float64)}, "float64"),
        ({"priority": torch.tensor([1.0] * 8 + [torch.nan])}, r"priority\[8\]=nan"),
        ({"priority": torch.tensor([1.0] * 8 + [-1])}, r"priority\[8\]=-1"),
        ({"last": torch.tensor([2, 2, 1])}, r"priority\[8\]=1"),
    ],
)
def test_a_damaged_state_is_refused_whole(change: dict[str, Any], message: str):
    saved = new_sampler()
    saved.allow(np.zeros(NUM_ENVS, np.int64), np.full(NUM_ENVS, 2))
    sampler = new_sampler()
    before = repr(sampler.state_dict())
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(saved.state_dict() | change)
    assert repr(sampler.state_dict()) == before
    sampler.load_state_dict(saved.state_dict())


def test_a_restored_tree_is_the_same_to_the_last_bit():
    sampler, rows = single([1.0] * 1000, alpha=0.6)
    generator = np.random.default_rng(0)
    for num_rows in (1, 2, 7, 33, 256):
        some = generator.integers(1000, size=num_rows)
        sampler.update_priorities(SampledRows(some, np.zeros_like(some)), generator.random(num_rows))
    restored = new_sampler(1, 1000, alpha=0.6)
    restored.load_state_dict(sampler.state_dict())
    np.testing.assert_array_equal(restored.probability(rows), sampler.probability(rows))


def test_loading_leaves_nothing_of_what_was_there():
    used, rows = single([4, 5, 6, 7])
    smaller = new_sampler(1, 4)
    smaller.allow(np.array([0]), np.array([1]))
    smaller.update_priorities(SampledRows(np.array([0, 1]), np.zeros(2, np.int64)), np.array([1, 3]))
    used.load_state_dict(smaller.state_dict())
    assert used.probability(rows).tolist() == [0.25, 0.75, 0, 0]
    assert counts(used, 4, 0, 4) == [1, 3, 0, 0]
    used.allow(np.array([0]), np.array([2]))  # the largest of the state, not of what was there
    assert used.probability(rows) == pytest.approx([1 / 7, 3 / 7, 3 / 7, 0])


def test_the_state_is_a_view():
    sampler, rows = single([1, 2])
    priority = sampler.state_dict()["priority"]
    sampler.update_priorities(rows, np.array([5, 6]))
    assert priority.tolist() == [5, 6]


def test_predicted_bytes():
    # 4 bytes of the priority, 8 of its power, a seventh of 8 of the sums above it; less than a kilobyte for the rest
    sampler = new_sampler()
    assert 100_000 * (12 + 8 / 7) <= sampler.predicted_bytes(10, 10_000) < 100_000 * (12 + 8 / 7) + 1500
