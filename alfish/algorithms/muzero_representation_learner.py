"""MuZero's latent as a representation for other algorithms."""

from collections.abc import Callable
from typing import Any

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm, TrainingOptions, TrainingTask
from alfish.algorithms.muzero_reanalysis import Shown, only_latent
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.data_structures import AlgStep, TimeStep


@gin.configurable
class MuzeroRepresentationTrainingOptions(TrainingOptions):
    """How a representation is trained, beside the algorithm that uses it: from its own replay, by its own optimiser.

    In a gin file the scope of the two constructors keeps their settings apart from those of the run's algorithm:
    `@representation/ReplayBatches` with `representation/ReplayBuffer.capacity = …`. There are the batch size, the
    segment length, the updates per environment step, the steps before the first one, the sampler and its priorities
    (ReplayBatches, ReplayBuffer), the optimiser and the learning rate (Updater).

    Args:
        batch_source: makes the source of its batches, `@representation/ReplayBatches`.
        updater: makes what steps its parameters, `@representation/Updater`.
        interval: iterations of the run from one training to the next, at least 1.

    Raises:
        ValueError: `interval` is smaller than 1.
    """

    def __init__(
        self,
        batch_source: Callable[..., Any] = gin.REQUIRED,
        updater: Callable[..., Any] = gin.REQUIRED,
        interval: int = 1,
    ):
        super().__init__(batch_source, updater, interval)


@gin.configurable
class MuzeroRepresentationLearner(Algorithm):
    """Turns observations into the latents of a MuZero model, for the algorithm beside it in an Agent.

    Its output is the model's latent, without gradient: nothing but its own training task changes it.

    Args:
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A, or what the model has a policy for.
        representation: makes what learns the model, given both specs.
        training: how the representation is trained; None leaves it as it is (`Experiment.initial_weights`).

    Attributes:
        impl: what learns the model.
        latent_spec: of a latent, the observation spec of the next algorithm.

    Raises:
        ValueError: rows are to be reanalysed although nothing is learned, or `representation` makes something else.
    """

    def __init__(
        self,
        observation_spec: nest.Nest,
        action_spec: nest.Nest,
        representation: Callable[..., MuzeroRepresentationImpl] = MuzeroRepresentationImpl,
        training: MuzeroRepresentationTrainingOptions | None = None,
    ):
        super().__init__(observation_spec, action_spec)
        self.impl = representation(observation_spec, action_spec)
        if not isinstance(self.impl, MuzeroRepresentationImpl):
            raise ValueError(
                f"MuzeroRepresentationLearner.representation makes a {type(self.impl).__name__}; expected what learns "
                "a model: set MuzeroRepresentationLearner.representation = @MuzeroRepresentationImpl"
            )
        self._training = training
        if training is None:
            _check_frozen(self.impl)
            self.impl.requires_grad_(False)
        self.latent_spec = self.impl.latent_spec()

    def training_tasks(self) -> list[TrainingTask]:
        return [] if self._training is None else [TrainingTask("representation", self.impl, self._training)]

    def use_acting_algorithm(self, algorithm: Algorithm, shown: Shown = only_latent) -> None:
        """Hands in the algorithm that acts over what is `shown`, for a `Reanalysis` whose `algorithm` is None."""
        self.impl.use_acting_algorithm(algorithm, shown)

    @torch.no_grad()
    def predict_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The latents `[B, ...]` of rows `[B]`."""
        return self.impl.predict_step(time_step, state)

    @torch.no_grad()
    def rollout_step(self, time_step: TimeStep, state: nest.Nest) -> AlgStep:
        """The latents `[B, ...]` of rows `[B]`."""
        return self.impl.rollout_step(time_step, state)


def _check_frozen(impl: MuzeroRepresentationImpl) -> None:
    if impl.reanalyzes:
        raise ValueError(
            "MuzeroRepresentationImpl.reanalysis is given, but MuzeroRepresentationLearner.training is None: nothing is"
            " learned from rows that are searched anew; set reanalysis = None, or give training"
        )
