"""Rows that arrive from several threads at once."""

import copy
import sys
import threading

import numpy as np
import pytest

from alfish.data_structures import RowsNeeded
from alfish.experience_replayers.episode_index import EpisodeIndex
from alfish.experience_replayers.prioritized_sampler import PrioritizedSampler
from alfish.experience_replayers.replay_buffer import ReplayBuffer
from alfish.experience_replayers.samplers import SampledRows

NUM_ENVS = 4
NEEDED = RowsNeeded(past=1, future=2, future_observations=2)
ROW = SampledRows(np.array([3]), np.array([0]))


def _replay(experience_spec, length=20):
    sampler = PrioritizedSampler(alpha=0.6, beta=0.4)
    return ReplayBuffer(experience_spec, NUM_ENVS, NUM_ENVS * length, NEEDED, sampler=sampler)


def _check_batch(batch):
    """All leaves of a row tell the same position and environment."""
    position, rows = batch.batch_info.position, batch.experience
    env_id = rows.time_step.env_id.long()
    assert (env_id == env_id[:, :1]).all()
    assert (rows.action == position + 100 * env_id).all()
    assert (rows.time_step.reward == position + 0.25 * env_id).all()
    assert (rows.time_step.observation["number"] == position - env_id).all()
    assert (rows.rollout_info["value"] == -position - 1000 * env_id).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda replay, window: _check_batch(replay.sample(50, np.random.default_rng(0))),
        lambda replay, window: replay.append(window, 1),
        lambda replay, window: replay.update_priorities(ROW, np.array([2.0])),
        lambda replay, window: replay.state_dict(),
    ],
    ids=["sample", "append", "update_priorities", "state_dict"],
)
def test_what_comes_during_an_append_waits_for_its_end(experience_spec, make_window, monkeypatch, call):
    replay = _replay(experience_spec)
    replay.append(make_window(["FMMMM"] * NUM_ENVS, 0))
    within, go_on = threading.Event(), threading.Event()
    original = EpisodeIndex.append

    def slow_append(self, step_type, first_env=0):
        if first_env == 0:  # rows are written, their episodes are not
            within.set()
            assert go_on.wait(10)
        original(self, step_type, first_env)

    monkeypatch.setattr(EpisodeIndex, "append", slow_append)
    appending = threading.Thread(target=replay.append, args=(make_window(["MMLFM"], 5),))
    appending.start()
    assert within.wait(10)
    calling = _Caller(lambda: call(replay, make_window(["ML"], 5, 1)))
    calling.start()
    calling.join(0.05)
    assert calling.is_alive()
    go_on.set()
    appending.join(10)
    calling.finish()


class _Caller(threading.Thread):
    """Calls a function; `finish` raises what it raised."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self._function = function
        self._error = None

    def run(self):
        try:
            self._function()
        except BaseException as error:
            self._error = error

    def finish(self):
        self.join(30)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


def test_engines_and_a_learner_at_once(experience_spec, make_window):
    replay, num_windows = _replay(experience_spec), 60
    letters = "FMMMLFMMMMML"
    replay.append(make_window(["MMMM"] * NUM_ENVS, 0))

    def collect(env):
        for window in range(num_windows):
            start = 4 + window * 3
            rows = "".join(letters[(start + row) % 12] for row in range(3))
            replay.append(make_window([rows], start, env), env)

    def learn():
        generator = np.random.default_rng(0)
        for _ in range(40):
            batch = replay.sample(16, generator)
            _check_batch(batch)
            replay.update_priorities(batch.rows, generator.random(16))
            replay.state_dict()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [_Caller(lambda env=env: collect(env)) for env in range(NUM_ENVS)] + [_Caller(learn)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.finish()
    finally:
        sys.setswitchinterval(interval)
    assert replay.total_rows == NUM_ENVS * (4 + 3 * num_windows)

    # The same as if all had come in step.
    alone = _replay(experience_spec)
    alone.append(make_window(["MMMM"] * NUM_ENVS, 0))
    for start in range(4, 4 + 3 * num_windows, 3):
        rows = "".join(letters[(start + row) % 12] for row in range(3))
        alone.append(make_window([rows] * NUM_ENVS, start))
    first, second = (copy.deepcopy(buffer.state_dict()) for buffer in (replay, alone))
    for one, other in zip(first["ring"]["rows"], second["ring"]["rows"], strict=True):
        assert one.equal(other)
    for one, other in zip(first["episodes"]["arrays"], second["episodes"]["arrays"], strict=True):
        assert one.equal(other)


def test_an_append_that_fails_changes_nothing(experience_spec, make_window):
    replay = _replay(experience_spec)
    replay.append(make_window(["FMMMM"] * NUM_ENVS, 0))
    before = copy.deepcopy(replay.state_dict())
    window = make_window(["MM", "MM"], 5)
    for bad, first_env in (
        (window, 3),
        (window, -1),
        (window._replace(rollout_info={"value": window.rollout_info["value"][:1]}), 0),
        (make_window(["M" * 21], 5), 0),
    ):
        with pytest.raises(ValueError, match="Ring.append"):
            replay.append(bad, first_env)
    after = replay.state_dict()
    for part in ("ring", "episodes"):
        assert after[part]["num_added"].equal(before[part]["num_added"])
    for one, other in zip(after["ring"]["rows"], before["ring"]["rows"], strict=True):
        assert one.equal(other)
    _check_batch(replay.sample(20, np.random.default_rng(0)))
