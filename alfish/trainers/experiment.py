"""What is learned: an environment, how its observations are seen, and an algorithm."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import gin
import torch

from alfish import gin_config, nest
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.making import make_algorithm
from alfish.checks import check_at_least
from alfish.data_structures import TimeStep, time_step_spec
from alfish.environments.environment import VectorEnvironment
from alfish.networks.preprocessing import ObservationTransform
from alfish.trainers.evaluator import Evaluator
from alfish.trainers.initial_weights import InitialWeights


class Built(NamedTuple):
    """The parts of an experiment.

    Attributes:
        environment: B environments.
        transform: from stored to seen observations.
        algorithm: on its device.
        row_specs: the specs of a stored TimeStep.
    """

    environment: VectorEnvironment
    transform: ObservationTransform
    algorithm: Algorithm
    row_specs: TimeStep


@gin.configurable
class Experiment:
    """The factories of an experiment: what training, evaluation and play have in common.

    Args:
        environment: makes the environments that are collected from, given `num_envs`; for play also given
            `render_mode="rgb_array"`.
        algorithm: makes the algorithm, given `observation_spec` and `action_spec`.
        evaluation_environment: makes the environments of evaluation and play, given `num_envs`; None takes
            `environment`.
        observation_transform: makes the transform, given the spec of a stored observation.
        initial_weights: weights of another run that a new run begins with, `@InitialWeights()`; None for random ones. A
            run that is continued has its own.
        cpu_threads: threads of torch's operations on the CPU, at least 1; set when the parts are built. More than 1
            pays for large networks only, and changes the last digits of sums.
        freeze_after_end: makes the environments that are collected from repeat the LAST row of an episode until the
            window ends, so that each window holds one episode, or a part of one, of each environment. `environment`
            must take the argument of the same name, as `make_gymnasium` does. Evaluation does not freeze.

    Raises:
        ValueError: `cpu_threads` is smaller than 1.
    """

    def __init__(
        self,
        environment: Callable[..., VectorEnvironment] = gin.REQUIRED,
        algorithm: Callable[..., Algorithm] = gin.REQUIRED,
        evaluation_environment: Callable[..., VectorEnvironment] | None = None,
        observation_transform: Callable[[nest.Nest], ObservationTransform] = ObservationTransform,
        initial_weights: InitialWeights | None = None,
        cpu_threads: int = 1,
        freeze_after_end: bool = False,
    ):
        check_at_least("Experiment.cpu_threads", cpu_threads, 1)
        self._cpu_threads = cpu_threads
        self._environment = environment
        self._freeze_after_end = freeze_after_end
        self._algorithm = algorithm
        self.evaluation_environment = evaluation_environment or environment
        self._observation_transform = observation_transform
        self.initial_weights = initial_weights

    def build(
        self, num_envs: int, device: torch.device, for_evaluation: bool = False, render_mode: str | None = None
    ) -> Built:
        """Builds the parts; the environments are closed again if one of the others cannot be built.

        Args:
            num_envs: B.
            device: for the algorithm.
            for_evaluation: takes the environments of evaluation and play.
            render_mode: for the environments, if they will be rendered.

        Raises:
            ValueError: a part cannot be built, or its factory does not take `render_mode` or `freeze_after_end`.
        """
        make_environment = self.evaluation_environment if for_evaluation else self._environment
        arguments: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        if self._freeze_after_end and not for_evaluation:
            arguments["freeze_after_end"] = True
        _check_takes(make_environment, arguments)
        torch.set_num_threads(self._cpu_threads)
        environment = make_environment(num_envs=num_envs, **arguments)
        try:
            transform = self._observation_transform(environment.observation_spec)
            algorithm = make_algorithm(
                "Experiment.algorithm", self._algorithm, transform.output_spec, environment.action_spec
            )
            row_specs = time_step_spec(environment.observation_spec, environment.action_spec)
            return Built(environment, transform, algorithm.to(device), row_specs)
        except BaseException:
            environment.close()
            raise

    def evaluator(self, built: Built, device: torch.device) -> Evaluator:
        """An evaluator of the built algorithm, with environments of its own."""
        return Evaluator(built.algorithm, built.transform, self.evaluation_environment, device)


class ConfiguredExperiment:
    """Makes the experiment of the configuration, as it is now, in whatever process this is called in.

    It travels as text: a worker process knows nothing of what was bound here.

    Args:
        asked_by: what needs it, for messages.

    Raises:
        ValueError: the experiment is not in the configuration.
    """

    def __init__(self, asked_by: str):
        for name in ("Experiment.environment", "Experiment.algorithm"):
            try:
                gin.query_parameter(name)
            except ValueError:
                raise ValueError(
                    f"{asked_by} makes the experiment anew in another process, from the configuration, which does not "
                    f"bind {name}: bind it in gin, or give the Trainer make_experiment, a picklable function"
                ) from None
        self._text = gin_config.config_text()

    def __call__(self) -> Experiment:
        """Replaces this process's configuration, and makes the experiment."""
        gin_config.parse_text(self._text)
        return Experiment()


def _check_takes(make_environment: Callable[..., Any], arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(make_environment).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    name = getattr(make_environment, "__name__", make_environment)
    if "render_mode" in arguments and "render_mode" not in parameters:
        raise ValueError(
            f"the environments cannot be rendered: {name} takes no argument render_mode; give it one that may be None "
            "or 'rgb_array'"
        )
    if "freeze_after_end" in arguments and "freeze_after_end" not in parameters:
        raise ValueError(
            f"Experiment.freeze_after_end is True, but {name} takes no argument freeze_after_end; set it to False, or "
            "make the environments by make_gymnasium"
        )
