import pytest
import torch

from alfish.data_structures import StepType, TimeStep
from alfish.summary.episode_metrics import RECENT_EPISODES, EpisodeMetrics

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def window(step_types: list[list[int]], rewards: list[list[float]]) -> TimeStep:
    """One list per environment."""
    step_type = torch.tensor(step_types, dtype=torch.uint8).T.contiguous()
    reward = torch.tensor(rewards, dtype=torch.float32).T.contiguous()
    return TimeStep(step_type, reward, torch.ones_like(reward), (), (), torch.zeros_like(step_type))


def test_returns_and_lengths_across_windows():
    metrics = EpisodeMetrics(2)
    metrics.update(window([[F, M, L, F], [F, M, M, M]], [[0, 1, 2, 0], [0, 10, 10, 10]]))
    assert metrics.result() == {
        "episode/count": 1,
        "episode/return_mean": 3,
        "episode/return_min": 3,
        "episode/return_max": 3,
        "episode/length_mean": 2,
    }
    # Row 0 is the last row of the window before and counts once.
    metrics.update(window([[F, M, M, L], [M, L, F, L]], [[0, 5, 5, 5], [10, 10, 0, 7]]))
    assert metrics.result() == {
        "episode/count": 4,
        "episode/return_mean": (3 + 40 + 15 + 7) / 4,
        "episode/return_min": 3,
        "episode/return_max": 40,
        "episode/length_mean": (2 + 4 + 3 + 1) / 4,
    }


def test_no_statistics_before_the_first_episode_ends():
    metrics = EpisodeMetrics(1)
    metrics.update(window([[F, M]], [[0, 1]]))
    assert metrics.result() == {"episode/count": 0}


def test_a_cut_episode_is_not_counted():
    metrics = EpisodeMetrics(1)
    metrics.update(window([[F, M, M]], [[0, 1, 1]]))
    # The cut turned the last row into LAST; it comes back as row 0.
    metrics.update(window([[L, F, M, L]], [[1, 0, 4, 4]]))
    result = metrics.result()
    assert (result["episode/count"], result["episode/return_mean"], result["episode/length_mean"]) == (1, 8, 2)


def test_only_recent_episodes_count_in_the_statistics():
    metrics = EpisodeMetrics(1)
    for value in range(RECENT_EPISODES + 50):
        metrics.update(window([[L, F, L]], [[0, 0, value]]))
    result = metrics.result()
    assert result["episode/count"] == RECENT_EPISODES + 50
    assert result["episode/return_min"] == 50


def test_many_small_rewards_add_up():
    metrics = EpisodeMetrics(1)
    rows = 100_001
    metrics.update(window([[F] + [M] * (rows - 2) + [L]], [[0.0] + [0.1] * (rows - 1)]))
    expected = float(torch.tensor(0.1)) * (rows - 1)
    assert metrics.result()["episode/return_mean"] == pytest.approx(expected, rel=1e-12)


def test_state_round_trip_keeps_open_episodes():
    metrics = EpisodeMetrics(1)
    metrics.update(window([[F, L, F, M]], [[0, 1, 0, 100]]))
    resumed = EpisodeMetrics(1)
    resumed.update(window([[F, M]], [[0, 1000]]))
    resumed.load_state_dict(metrics.state_dict())
    assert resumed.result() == metrics.result()
    resumed.update(window([[M, L]], [[100, 3]]))
    assert (resumed.result()["episode/return_max"], resumed.result()["episode/length_mean"]) == (103, (1 + 2) / 2)


def test_answered_rows_are_counted():
    # Environment 0: rows 1, 2, 4; row 3 is FIRST. Environment 1: every row.
    assert EpisodeMetrics(2).update(window([[F, M, L, F, M], [F, M, M, M, M]], [[0.0] * 5] * 2)) == 3 + 4


def test_frozen_rows_count_as_nothing():
    metrics = EpisodeMetrics(1)
    assert metrics.update(window([[F, M, L, L, L]], [[0, 1, 1, 0, 0]])) == 2
    assert metrics.update(window([[L, F, M, L, L]], [[0, 0, 5, 5, 0]])) == 2
    result = metrics.result()
    assert (result["episode/count"], result["episode/return_max"], result["episode/length_mean"]) == (2, 10, 2)


def test_windows_of_some_of_the_environments():
    metrics = EpisodeMetrics(3)
    metrics.update(window([[F, M, M]], [[0, 7, 7]]), first_env=2)
    metrics.update(window([[F, M, L], [F, M, M]], [[0, 1, 1], [0, 4, 4]]))
    metrics.update(window([[M, L]], [[7, 1]]), first_env=2)
    result = metrics.result()
    assert (result["episode/count"], result["episode/return_min"], result["episode/return_max"]) == (2, 2, 15)


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="num_envs is 0"):
        EpisodeMetrics(0)
    with pytest.raises(ValueError, match=r"shape \(2, 1\) from environment 3 on; expected \[T\+1, E\]"):
        EpisodeMetrics(3).update(window([[F, M]], [[0, 0]]), first_env=3)
