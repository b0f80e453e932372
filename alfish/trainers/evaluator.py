"""Evaluation: whole episodes in environments of their own, with seeds of their own."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gin
import numpy as np
import torch

from alfish import specs
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_at_least
from alfish.data_structures import TimeStep, time_step_spec
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.rollout.acting import Actor, random_numbers_kept
from alfish.trainers.weight_files import save_weights


class EvaluationStopped(Exception):
    """An evaluation was given up."""


class Evaluation(NamedTuple):
    """The episodes of one evaluation.

    Attributes:
        returns: float64 `[episodes]`, undiscounted.
        lengths: int64 `[episodes]`, actions.
    """

    returns: np.ndarray
    lengths: np.ndarray

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(self.returns.mean())

    @property
    def deviation(self) -> float:
        """The standard deviation of the returns over episodes (population)."""
        return float(self.returns.std())


@gin.configurable
class Evaluator:
    """Plays episodes with `predict_step`.

    Every environment plays the same number of episodes, or one more or less, so that short episodes are not counted
    more often than long ones. Torch's random numbers are drawn from a seed of the evaluation's own and the run's are
    left as they were.

    Args:
        algorithm: the policy.
        transform: from stored to seen observations.
        make_environment: makes B environments, given `num_envs`.
        device: where the algorithm is.
        episodes: how many episodes, at least 1.
        max_num_envs: how many environments are stepped at once at most.

    Raises:
        ValueError: a number is smaller than 1.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        transform: ObservationTransform,
        make_environment: Callable[..., VectorEnvironment],
        device: torch.device,
        episodes: int = 20,
        max_num_envs: int = 20,
    ):
        check_at_least("Evaluator.episodes", episodes, 1)
        check_at_least("Evaluator.max_num_envs", max_num_envs, 1)
        self._algorithm = algorithm
        self._transform = transform
        self._device = device
        self._episodes = episodes
        self._num_envs = min(episodes, max_num_envs)
        # Made now, so that what is wrong with it shows before the run and not hours into it.
        self._environment = make_environment(num_envs=self._num_envs)

    def evaluate(self, seed: int, should_stop: Callable[[], bool] = bool) -> Evaluation:
        """Plays the episodes that the seed decides.

        Args:
            seed: at least 0.
            should_stop: asked before every step; True gives the evaluation up.

        Raises:
            EvaluationStopped: `should_stop` said so.
        """
        training = self._algorithm.training
        self._algorithm.eval()
        try:
            with torch.inference_mode(), random_numbers_kept(self._device):
                torch.manual_seed(seed)
                return self._play(seed, should_stop)
        finally:
            self._algorithm.train(training)

    def _play(self, seed: int, should_stop: Callable[[], bool]) -> Evaluation:
        environment = self._environment
        row: TimeStep = specs.zeros(
            time_step_spec(environment.observation_spec, environment.action_spec), (self._num_envs,)
        )
        actor = Actor(self._algorithm, self._transform, self._num_envs, self._device)
        # The first `episodes % B` environments play one episode more than the others.
        quota = np.full(self._num_envs, self._episodes // self._num_envs)
        quota[: self._episodes % self._num_envs] += 1
        returns, lengths = np.zeros(self._num_envs), np.zeros(self._num_envs, dtype=np.int64)
        finished: list[list[tuple[float, int]]] = [[] for _ in range(self._num_envs)]
        environment.reset(seed, row)
        while (quota > 0).any():
            if should_stop():
                raise EvaluationStopped
            environment.step(actor.predict(row), row)
            returns += row.reward.numpy()
            lengths += ~row.is_first().numpy()
            for index in np.flatnonzero(row.is_last().numpy()):
                if quota[index] > 0:
                    finished[index].append((float(returns[index]), int(lengths[index])))
                    quota[index] -= 1
                returns[index], lengths[index] = 0.0, 0
        episodes = [episode for one_environment in finished for episode in one_environment]
        return Evaluation(np.array([e[0] for e in episodes]), np.array([e[1] for e in episodes]))

    def close(self) -> None:
        """Closes the environments."""
        self._environment.close()


class BestWeights:
    """Keeps the weights of the best evaluation; of equally good ones the latest.

    Args:
        folder: `weights.pt` is written there; None keeps nothing.
    """

    def __init__(self, folder: pathlib.Path | None):
        self._folder = folder
        self._mean = -np.inf

    def offer(self, evaluation: Evaluation, weights: torch.nn.Module | Mapping[str, Any]) -> None:
        """Saves the weights, of a module or its state, if the evaluation is at least as good as the best one before."""
        if evaluation.mean >= self._mean:
            self._mean = evaluation.mean
            if self._folder is not None:
                save_weights(self._folder / "weights.pt", weights)

    def state_dict(self) -> dict[str, Any]:
        """The best mean return."""
        return {"mean": float(self._mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._mean = float(state["mean"])
