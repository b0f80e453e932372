from typing import Any

import numpy as np
import pytest

from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.recent_mix import RecentMix
from alfish.experience_replayers.samplers import SampledRows, UniformSampler


def two_environments(*arguments: Any) -> tuple[RecentMix, SampledRows]:
    """A mix over rows 0 to 9 of environment 0 and rows 0 to 4 of environment 1, and these rows."""
    mix = RecentMix(*arguments)
    mix.reserve(2, 10)
    mix.allow(np.array([0, 0]), np.array([9, 4]))
    return mix, SampledRows(np.array([*range(10), *range(5)]), np.repeat([0, 1], [10, 5]))


def test_the_share_of_a_batch_is_recent():
    # 5 recent rows, rounded up, are 3 of each environment.
    for ratio, num_recent in ((0.0, 0), (0.3, 120), (1.0, 400)):
        mix, _ = two_environments(None, ratio, 5)
        rows = mix.sample(400, np.random.default_rng(0), 0.0).rows
        drawn = list(zip(rows.position.tolist(), rows.env_id.tolist(), strict=True))
        assert len(drawn) == 400
        recent = {(7, 0), (8, 0), (9, 0), (2, 1), (3, 1), (4, 1)}
        assert set(drawn[400 - num_recent :]) == (recent if num_recent else set())
        assert len(set(drawn[: 400 - num_recent])) == (15 if ratio < 1 else 0)


def test_probabilities_over_a_uniform_sampler():
    # 1/15 of every row with 0.7, and 1/6 of the newest 3 of each with 0.3.
    mix, rows = two_environments(UniformSampler(), 0.3, 6)
    old, recent = 0.7 / 15, 0.7 / 15 + 0.3 / 6
    assert mix.probability(rows) == pytest.approx([old] * 7 + [recent] * 3 + [old] * 2 + [recent] * 3)
    assert mix.sample(20, np.random.default_rng(0), 0.0).importance_weight is None


def test_weights_correct_for_the_mixture_over_a_prioritized_sampler():
    mix, rows = two_environments(PrioritizedSampler(1.0, 0.5, epsilon=0.0), 0.25, 4)
    priority = np.array([1, 0, 0, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0, 0, 2])
    mix.update_priorities(rows, priority)
    # Recent are rows 8 and 9 of environment 0, 3 and 4 of environment 1; the priorities' sum is 10.
    expected = dict.fromkeys(zip(rows.position.tolist(), rows.env_id.tolist(), strict=True), 0.0)
    expected |= {(0, 0): 0.075, (8, 0): 0.225 + 0.0625, (9, 0): 0.3 + 0.0625, (3, 1): 0.0625, (4, 1): 0.15 + 0.0625}
    assert mix.probability(rows) == pytest.approx(list(expected.values()))

    drawn = mix.sample(80, np.random.default_rng(0), 0.0)
    probability = [expected[row] for row in zip(*(field.tolist() for field in drawn.rows), strict=True)]
    assert set(probability) == set(expected.values()) - {0.0}
    weight = [(15 * p) ** -0.5 for p in probability]
    assert drawn.importance_weight == pytest.approx([w / max(weight) for w in weight])


def test_the_weights_are_of_the_share_that_was_drawn():
    # A ratio of 0.4 of 4 rows is 2 rows: half. Row 0 is drawn with 1/2 x 1/2, row 1, the recent one, with 1/2 + 1/4.
    mix = RecentMix(PrioritizedSampler(1.0, 1.0), 0.4, 1)
    mix.reserve(1, 2)
    mix.allow(np.array([0]), np.array([1]))
    drawn = mix.sample(4, np.random.default_rng(0), 0.0)
    assert drawn.rows.position.tolist() == [0, 1, 1, 1]
    assert drawn.importance_weight == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])


def test_fewer_rows_than_are_recent():
    mix, rows = two_environments(None, 0.5, 1000)
    assert mix.probability(rows) == pytest.approx([1 / 15] * 15)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_the_ratio_is_checked(ratio: float):
    with pytest.raises(ValueError, match="recent_ratio is .*; expected a share of the batch, from 0 to 1"):
        RecentMix(recent_ratio=ratio, recent_rows=5)


def test_the_number_of_recent_rows_is_checked():
    with pytest.raises(ValueError, match="recent_rows is 0; it must be at least 1"):
        RecentMix(recent_ratio=0.5, recent_rows=0)


def test_the_state_of_the_other_sampler_is_checked():
    mix, _ = two_environments(None, 0.5, 5)
    other, _ = two_environments(PrioritizedSampler(0.6, 0.4), 0.5, 5)
    with pytest.raises(ValueError, match="sampled by UniformSampler, this run samples with PrioritizedSampler"):
        other.load_state_dict(mix.state_dict())


def test_predicted_bytes_include_the_other_samplers():
    base = PrioritizedSampler(0.6, 0.4)
    assert 0 < RecentMix(base, 0.5, 5).predicted_bytes(8, 100) - base.predicted_bytes(8, 100) < 1000
