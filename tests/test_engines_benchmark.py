"""The benchmark of engines: its policy and its loops, with windows that are too small to time."""

import importlib
import pathlib
import sys

import gymnasium
import numpy as np
import pytest
import torch

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def load():
    """A function that imports a module of benchmarks/; once for all tests, for gin knows what it registers for good."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module
    for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]
    gymnasium.registry.pop("benchmark/Spin-v0", None)


def test_contenders_collect_the_same_number_of_rows(load):
    contenders = load("engine_contenders")
    work = contenders.Work("cartpole", num_envs=2, window_length=3, windows=2)
    ours = contenders.engine(work, "same process", num_workers=1)
    env = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2)
    steps = []

    def step(action):
        steps.append(action.copy())
        seen, reward, terminated, truncated, _ = env.step(action)
        return seen, reward, terminated | truncated

    loop = contenders.PeerLoop(env.reset(seed=0)[0], 2, step, work.window_length)
    theirs = contenders.contender(work, loop.collect, env.close)
    assert ours.rows == theirs.rows == 12
    for each in (ours, theirs):
        each.collect()
        each.close()
    assert np.array(steps).shape == (6, 2)
    assert np.array_equal(loop._actions, steps[3:])


def test_the_policy_reads_vectors_and_frames(load):
    network = load("engine_workloads").PolicyNetwork
    for observation in (torch.randn(5, 4), torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)):
        action, log_prob, value = network(observation.shape[1:], 3).act(observation)
        assert action.shape == log_prob.shape == value.shape == (5,)
        assert (log_prob < 0).all()
        assert set(action.tolist()) <= {0, 1, 2}


def test_ratios_and_scaling(load):
    engines, contenders = load("engines"), load("engine_contenders")
    made = {"same process": contenders.Contender(None, None, 100)}
    seconds = {"same process": 2.0, "background": 4.0, "multi process": 1.0, "AsyncVectorEnv": 5.0}
    times = engines.Times({name: [value] * 3 for name, value in seconds.items()})
    row = engines.row("cartpole", 2, made, times, one=60.0)
    assert (row["same process"], row["multi process"], row["SubprocVecEnv"]) == (50, 100, None)
    assert (row["best / AsyncVectorEnv"], row["best / SubprocVecEnv"]) == (5, None)
    assert row["of W × one"] == pytest.approx(100 / 120)


def test_the_loop_alone_is_timed(load):
    assert load("engines").loop_microseconds(num_envs=2, window_length=4, windows=2) > 0


def test_what_was_collected_ahead_is_not_timed(load):
    calls = []
    load("interleaving").time_in_turns({"engine": lambda: calls.append(0)}, rounds=2, seconds=0.0, works_ahead=True)
    # Once before all rounds; in each of them one that counts, and one before it that does not.
    assert len(calls) == 5
