"""What all samplers have in common, and the uniform one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.recent_mix import RecentMix
from alfish.experience_replayers.samplers import SampledRows, Sampler, UniformSampler

SAMPLERS: dict[str, Callable[[], Any]] = {
    "uniform": UniformSampler,
    "prioritized": lambda: PrioritizedSampler(alpha=0.6, beta=0.4),
    "recent of uniform": lambda: RecentMix(recent_ratio=0.25, recent_rows=6),
    "recent of prioritized": lambda: RecentMix(PrioritizedSampler(0.6, 0.4), recent_ratio=0.25, recent_rows=6),
}
every_sampler = pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS.keys())


def reserved(make: Callable[[], Sampler], num_envs: int, length: int) -> Sampler:
    sampler = make()
    sampler.reserve(num_envs, length)
    return sampler


def allow(sampler: Sampler, *bounds: tuple[int, int]) -> None:
    """Allows rows first to last of each environment."""
    first, last = np.array(bounds, np.int64).T
    sampler.allow(first, last)


def pairs(rows: SampledRows) -> list[tuple[int, int]]:
    return list(zip(rows.position.tolist(), rows.env_id.tolist(), strict=True))


@every_sampler
def test_all_allowed_rows_are_drawn_and_no_other(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=4, length=5)
    generator = np.random.default_rng(0)
    allow(sampler, (0, 1), (0, 4), (0, -1), (0, 0))
    allow(sampler, (3, 6), (1, 4), (0, -1), (4, 3))  # an environment without rows, and one that has lost them
    drawn = sampler.sample(400, generator, 0.0)
    assert drawn.rows.position.dtype == drawn.rows.env_id.dtype == np.int64
    assert set(pairs(drawn.rows)) == {(3, 0), (4, 0), (5, 0), (6, 0), (1, 1), (2, 1), (3, 1), (4, 1)}
    if drawn.importance_weight is not None:
        assert drawn.importance_weight.dtype == np.float32
        assert 0 < drawn.importance_weight.min() <= drawn.importance_weight.max() == 1


@every_sampler
def test_probabilities_sum_to_1_over_the_allowed_rows(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=2, length=10)
    allow(sampler, (3, 9), (4, 12))
    rows = SampledRows(np.array([*range(3, 10), *range(4, 13)]), np.repeat([0, 1], [7, 9]))
    sampler.update_priorities(rows, np.arange(16))
    assert sampler.probability(rows).sum() == pytest.approx(1)
    gone = SampledRows(np.array([2, 10, 3, 13]), np.array([0, 0, 1, 1]))
    assert sampler.probability(gone).tolist() == [0, 0, 0, 0]


@every_sampler
def test_how_often_a_row_is_drawn_is_its_probability(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=2, length=10)
    allow(sampler, (3, 9), (4, 12))
    rows = SampledRows(np.array([*range(3, 10), *range(4, 13)]), np.repeat([0, 1], [7, 9]))
    sampler.update_priorities(rows, np.arange(16) % 5)
    generator = np.random.default_rng(0)
    drawn = [pair for _ in range(100) for pair in pairs(sampler.sample(400, generator, 0.0).rows)]
    counts = np.array([drawn.count(pair) for pair in pairs(rows)])
    # 40,000 draws: a standard deviation is at most the root of the expected number.
    expected = 40_000 * sampler.probability(rows)
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


@every_sampler
def test_the_generator_alone_decides(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=4, length=100)
    allow(sampler, *[(0, 99)] * 4)
    first, again, other = (sampler.sample(50, np.random.default_rng(seed), 0.0).rows for seed in (1, 1, 2))
    assert pairs(first) == pairs(again)
    assert pairs(first) != pairs(other)


@every_sampler
def test_a_single_row(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=1, length=3)
    allow(sampler, (7, 7))
    drawn = sampler.sample(5, np.random.default_rng(0), 0.0)
    assert pairs(drawn.rows) == [(7, 0)] * 5
    assert drawn.importance_weight is None or drawn.importance_weight.tolist() == [1] * 5


@every_sampler
def test_without_allowed_rows_it_says_so(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=2, length=3)
    with pytest.raises(ValueError, match="none is allowed; append rows"):
        sampler.sample(4, np.random.default_rng(0), 0.0)


@every_sampler
def test_one_sampler_serves_one_buffer(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=2, length=3)
    with pytest.raises(ValueError, match="given to two replay buffers"):
        sampler.reserve(2, 3)


@every_sampler
def test_bounds_are_copied(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=1, length=10)
    first, last = np.array([0]), np.array([4])
    sampler.allow(first, last)
    first[0], last[0] = 7, 9
    assert sampler.sample(50, np.random.default_rng(0), 0.0).rows.position.max() == 4


@every_sampler
def test_a_restored_sampler_goes_on_exactly(make: Callable[[], Sampler]):
    def go_on(sampler: Sampler) -> list[Any]:
        generator, seen = np.random.default_rng(5), []
        for step in range(4):
            allow(sampler, (5 + step, 13 + step), (6, 12 + step), (9, 15))
            drawn = sampler.sample(32, generator, step / 4)
            sampler.update_priorities(drawn.rows, generator.random(32))
            seen.append([*pairs(drawn.rows), *(() if drawn.importance_weight is None else drawn.importance_weight)])
        return seen

    original, restored = reserved(make, 3, 10), reserved(make, 3, 10)
    generator = np.random.default_rng(0)
    for step in range(6):
        allow(original, (step, step + 8), (max(0, step - 1), 2 * step), (0, step + 4))
        drawn = original.sample(16, generator, 0.0)
        original.update_priorities(drawn.rows, 9 * generator.random(16))
    state = original.state_dict()
    restored.load_state_dict(state)
    allow(restored, (5, 13), (4, 10), (0, 9))  # as a buffer does after loading
    assert repr(restored.state_dict()) == repr(state)
    assert go_on(restored) == go_on(original)


@every_sampler
def test_another_samplers_state_is_refused(make: Callable[[], Sampler]):
    sampler = reserved(make, num_envs=2, length=3)
    own = sampler.state_dict()["sampler"]
    for other in SAMPLERS.values():
        state = reserved(other, 2, 3).state_dict()
        if state["sampler"] != own:
            with pytest.raises(ValueError, match=f"sampled by {state['sampler']}, this run samples with {own}; bind"):
                sampler.load_state_dict(state)
    for damaged in ({}, None, {"sampler": None}):
        with pytest.raises(ValueError, match=f"sampled by an unknown sampler, this run samples with {own}"):
            sampler.check_state_dict(damaged)
    with pytest.raises(ValueError, match="it is damaged"):
        sampler.check_state_dict({"sampler": own, "more": torch.zeros(1)})


def test_uniform_draws_are_independent_of_each_other():
    sampler = reserved(UniformSampler, num_envs=1, length=10)
    allow(sampler, (0, 9))
    # 10 draws of 10 rows are all different with a probability of 10! / 10^10 = 0.0004; stratified ones would be.
    generator = np.random.default_rng(0)
    assert all(len(set(sampler.sample(10, generator, 0.0).rows.position)) < 10 for _ in range(20))


def test_uniform_rows_have_no_weights_and_no_priorities():
    sampler = reserved(UniformSampler, num_envs=1, length=10)
    allow(sampler, (0, 4))
    rows = SampledRows(np.arange(5), np.zeros(5, np.int64))
    sampler.update_priorities(rows, np.array([0, 0, 0, 0, np.nan]))
    assert sampler.probability(rows) == pytest.approx([0.2] * 5)
    assert sampler.sample(3, np.random.default_rng(0), 0.0).importance_weight is None
