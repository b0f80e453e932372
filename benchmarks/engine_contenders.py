"""What engines.py times: engines of alfish, and the vector environments of Gymnasium and stable-baselines3."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import engine_workloads
import gymnasium
import numpy as np
import torch

from alfish import gin_config
from alfish.data_structures import Progress
from alfish.rollout.acting import experience_specs
from alfish.rollout.background_engine import BackgroundEngine
from alfish.rollout.engine import EngineContext
from alfish.rollout.multi_process_engine import MultiProcessEngine
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.summary.timers import Timers
from alfish.trainers.experiment import ConfiguredExperiment

CPU = torch.device("cpu")
_AHEAD = 1


class Work(NamedTuple):
    """What is collected.

    Attributes:
        workload: see `engine_workloads.config`.
        num_envs: B.
        window_length: T.
        windows: of a call.
    """

    workload: str
    num_envs: int
    window_length: int
    windows: int


class Contender(NamedTuple):
    """Something that collects.

    Attributes:
        collect: collects the windows of a call.
        close: ends it.
        rows: of a call, T x B x windows.
    """

    collect: Callable[[], None]
    close: Callable[[], None]
    rows: int


def contender(work: Work, collect: Callable[[], Any], close: Callable[[], None]) -> Contender:
    """A contender from what collects one window."""

    def collect_windows() -> None:
        for _ in range(work.windows):
            collect()

    return Contender(collect_windows, close, work.num_envs * work.window_length * work.windows)


def engine(work: Work, kind: str, num_workers: int) -> Contender:
    """An engine of alfish, with the weights that it begins with.

    Args:
        work: what is collected.
        kind: `"same process"`, `"background"` or `"multi process"`.
        num_workers: W, of the last one.
    """
    gin_config.parse_text(engine_workloads.config(work.workload))
    make_experiment = ConfiguredExperiment(kind)
    make: Callable[..., Any] = {
        "same process": SameProcessEngine,
        "background": functools.partial(BackgroundEngine, max_staleness=_AHEAD),
        "multi process": functools.partial(MultiProcessEngine, num_workers=num_workers, max_staleness=_AHEAD),
    }[kind]
    own = kind != "same process"
    built = make_experiment().build(1 if own else work.num_envs, CPU)
    made = make(
        EngineContext(
            make_experiment=make_experiment,
            environment=built.environment,
            algorithm=built.algorithm,
            transform=built.transform,
            stored_specs=experience_specs(built.algorithm, built.transform, built.row_specs, work.num_envs, CPU),
            num_envs=work.num_envs,
            window_length=work.window_length,
            streams=np.random.SeedSequence(0),
            device=CPU,
            timers=Timers(),
        )
    )
    if own:
        built.environment.close()

    def close() -> None:
        made.close()
        built.environment.close()

    return contender(work, lambda: made.collect({"": Progress()}), close)


class PeerLoop:
    """The act-step loop around a vector environment of others: the same policy, and the same things stored.

    Args:
        observation: `[B, ...]`, the first one.
        num_actions: A.
        step: from actions `[B]` to the next observation, reward and whether the episode ended.
        window_length: T.
    """

    def __init__(
        self,
        observation: np.ndarray,
        num_actions: int,
        step: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
        window_length: int,
    ):
        self._step = step
        self._observation = np.array(observation)
        self._network = engine_workloads.PolicyNetwork(observation.shape[1:], num_actions).eval()
        shape = (window_length, len(observation))
        self._observations = np.zeros((window_length, *observation.shape), observation.dtype)
        self._actions = np.zeros(shape, np.int64)
        self._floats = {name: np.zeros(shape, np.float32) for name in ("reward", "log_prob", "value")}
        self._ended = np.zeros(shape, bool)

    def collect(self) -> None:
        """A window."""
        with torch.inference_mode():
            for t in range(len(self._actions)):
                self._observations[t] = self._observation
                action, log_prob, value = self._network.act(torch.from_numpy(self._observation))
                self._actions[t] = action.numpy()
                self._floats["log_prob"][t] = log_prob.numpy()
                self._floats["value"][t] = value.numpy()
                self._observation, self._floats["reward"][t], self._ended[t] = self._step(self._actions[t])


def gymnasium_async(work: Work) -> Contender:
    """Gymnasium's AsyncVectorEnv: a process for each environment."""
    make = functools.partial(engine_workloads.make_peer_environment, work.workload)
    env = gymnasium.vector.AsyncVectorEnv([make] * work.num_envs, context="forkserver")
    observation, _ = env.reset(seed=0)

    def step(action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen, reward, terminated, truncated, _ = env.step(action)
        return seen, reward, terminated | truncated

    loop = PeerLoop(observation, int(env.single_action_space.n), step, work.window_length)
    return contender(work, loop.collect, env.close)


def stable_baselines3_subproc(work: Work) -> Contender:
    """stable-baselines3's SubprocVecEnv: a process for each environment.

    Raises:
        ImportError: it is not installed.
    """
    from stable_baselines3.common.vec_env import SubprocVecEnv

    make = functools.partial(engine_workloads.make_peer_environment, work.workload)
    env = SubprocVecEnv([make] * work.num_envs, start_method="forkserver")
    env.seed(0)

    def step(action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        seen, reward, ended, _ = env.step(action)
        return seen, reward, ended

    loop = PeerLoop(env.reset(), int(env.action_space.n), step, work.window_length)
    return contender(work, loop.collect, env.close)
