"""Environments that freeze after an episode's end: what they repeat, and when they go on."""

import gymnasium
import pytest
import torch
import toy_environments  # noqa: F401  registers the environments
from engine_parts import collect, same_process_engine
from environment_rows import column, empty_row, random_action, same
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.data_structures import AlgStep, StepType
from alfish.environments.gymnasium_adapter import make_gymnasium
from alfish.networks.preprocessing import FrameStack
from alfish.summary.episode_metrics import EpisodeMetrics
from alfish.trainers.experiment import Experiment

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST


class Longer(gymnasium.Wrapper):
    """Episodes of 2 steps in environment 0, of 5 in environment 1."""

    def __init__(self, env):
        super().__init__(env)
        self.steps = self.resets = 0

    def reset(self, *, seed=None, options=None):
        assert options is None
        self.resets += 1
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.steps += 1
        return self.env.step(action)


def counters(lengths=(2, 5), **settings):
    made = []

    def lengthened(env):
        env.unwrapped.length = lengths[len(made) % len(lengths)]
        made.append(Longer(env))
        return made[-1]

    return make_gymnasium("toy/Counter-v0", len(lengths), wrappers=[lengthened], **settings), made


def rows_of(environment, window_lengths, seed=0):
    """The rows of windows from a reset on; a window begins before its first step."""
    generator = torch.Generator().manual_seed(0)
    environment.reset(seed, row := empty_row(environment))
    rows = [row]
    for length in window_lengths:
        environment.begin_window()
        for _ in range(length):
            environment.step(random_action(environment, generator), row := empty_row(environment))
            rows.append(row)
    return rows


@pytest.mark.parametrize(("ends", "discount"), [("terminated", 0.0), ("truncated", 1.0)])
def test_frozen_rows_repeat_the_last_one(ends, discount):
    environment, made = counters(freeze_after_end=True, env_kwargs={"ends": ends})
    assert environment.freezes
    rows = rows_of(environment, [4, 3])
    # Environment 0 ends at row 2, 1 at row 5; the second window's first step is the one to row 5.
    assert column(rows, "step_type", 0) == [FIRST, MID, LAST, LAST, LAST, FIRST, MID, LAST]
    assert column(rows, "step_type", 1) == [FIRST, MID, MID, MID, MID, LAST, LAST, LAST]
    assert column(rows, "reward", 0) == [0, 1, 2, 0, 0, 0, 1, 2]
    assert column(rows, "reward", 1) == [0, 1, 2, 3, 4, 5, 0, 0]
    assert column(rows, "discount", 0) == [1, 1, discount, discount, discount, 1, 1, discount]
    assert [observation[0] for observation in column(rows, "observation", 0)] == [0, 1, 2, 2, 2, 0, 1, 2]
    assert column(rows, "prev_action", 0)[3:6] == [0, 0, 0]
    # Nothing was stepped or reset while it was frozen.
    assert [(env.resets, env.steps) for env in made] == [(2, 2 + 2), (1, 5)]
    environment.close()


def test_worker_processes_freeze_alike():
    rows = []
    for vectorization in ("sync", "async"):
        environment = make_gymnasium("CartPole-v1", 3, vectorization, freeze_after_end=True)
        rows.append(rows_of(environment, [30, 30]))
        environment.close()
    assert same(*rows)
    ends = torch.stack([row.is_last() for row in rows[0]])
    assert (ends.sum(dim=0) > 2).all()


def test_a_reset_lets_everything_begin():
    environment, _ = counters(freeze_after_end=True)
    first = rows_of(environment, [4])
    assert same(first, rows_of(environment, [4]))
    environment.close()


class Counting(TinyAlgorithm):
    def initial_state(self, batch_size):
        return torch.zeros(batch_size)

    def rollout_step(self, time_step, state):
        return AlgStep(torch.zeros_like(time_step.prev_action), state + 1)


@pytest.mark.parametrize("stack", [1, 3])
def test_windows_of_an_engine(stack):
    environment, _ = counters(freeze_after_end=True)
    transform = FrameStack(environment.observation_spec, num_frames=stack)
    learner = Counting(transform.output_spec, environment.action_spec)
    engine = same_process_engine(environment, learner, transform, window_length=4)
    metrics = EpisodeMetrics(2)
    windows = [collect(engine) for _ in range(3)]
    rows = [window.time_step.step_type[stack - 1 :].T.tolist() for window in windows]
    assert [each[0] for each in rows] == [[FIRST, MID, LAST, LAST, LAST], [LAST, FIRST, MID, LAST, LAST]] + [
        [LAST, FIRST, MID, LAST, LAST]
    ]
    assert [each[1] for each in rows] == [
        [FIRST, MID, MID, MID, MID],
        [MID, LAST, LAST, LAST, LAST],
        [LAST, FIRST, MID, MID, MID],
    ]
    # The state begins anew at FIRST rows and wherever the row before was LAST.
    assert windows[0].state[:, 0].tolist() == [0, 1, 2, 0]
    assert windows[1].state[:, 0].tolist() == [0, 0, 1, 2]
    steps = [metrics.update(type(w.time_step)(*(f[stack - 1 :] for f in w.time_step))) for w in windows]
    assert steps == [2 + 4, 2 + 1, 2 + 3]
    assert metrics.result()["episode/count"] == 4
    engine.cut()
    assert collect(engine).time_step.step_type[stack - 1 :, 1].tolist() == [LAST, FIRST, MID, MID, MID]
    environment.close()


def test_only_what_is_collected_from_freezes():
    given = []

    def make_environment(num_envs, **settings):
        given.append(settings)
        return ScriptedEnvironment(num_envs)

    experiment = Experiment(environment=make_environment, algorithm=TinyAlgorithm, freeze_after_end=True)
    cpu = torch.device("cpu")
    built = experiment.build(2, cpu)
    experiment.evaluator(built, cpu).close()
    experiment.build(1, cpu, for_evaluation=True)
    assert given == [{"freeze_after_end": True}, {}, {}]


def test_what_cannot_freeze_is_refused():
    with pytest.raises(ValueError, match="native vector environment of 'CartPole-v1' cannot freeze"):
        make_gymnasium("CartPole-v1", 2, "native", freeze_after_end=True)
    experiment = Experiment(environment=ScriptedEnvironment, algorithm=TinyAlgorithm, freeze_after_end=True)
    with pytest.raises(ValueError, match="ScriptedEnvironment takes no argument freeze_after_end"):
        experiment.build(2, torch.device("cpu"))
