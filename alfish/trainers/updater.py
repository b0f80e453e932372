"""One gradient step, the same for every algorithm."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import gin
import torch

from alfish import nest
from alfish.algorithms.algorithm import Algorithm
from alfish.checks import check_at_least
from alfish.data_structures import LossInfo, Progress
from alfish.ops.schedules import as_schedule
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.gradient_step import JOINABLE, GradientStep

for _optimizer in JOINABLE:
    gin.external_configurable(_optimizer, module="torch.optim")


class NonFiniteUpdates(ValueError):
    """The loss or the gradient was not finite in several updates in a row."""


class Updated(NamedTuple):
    """What a gradient step says.

    Attributes:
        metrics: scalars to report; tensors are detached. `skipped` is 1 for an update that was not finite, else 0.
        priority: `[B]`, new priorities of the batch's rows; `()` if the algorithm gives none, or the step was skipped.
    """

    metrics: dict[str, torch.Tensor | float]
    priority: torch.Tensor | tuple[()]


@gin.configurable
class Updater:
    """Steps the optimiser on batches; guards the parameters against losses and gradients that are not finite.

    Args:
        algorithm: the module that is trained.
        trained_apart: parts of it that are not trained here, because they have training tasks of their own.
        optimizer: makes the optimiser from the parameters, for example `@torch.optim.Adam`.
        learning_rate: a number, or a schedule: a callable from the run's fraction in [0, 1] to a number.
        max_gradient_norm: gradients are scaled down to this norm; None leaves them.
        max_skipped_updates: so many updates in a row that are not finite stop the run; at least 1.

    Raises:
        ValueError: a setting is out of range, or the algorithm has no parameter to train.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        trained_apart: Iterable[torch.nn.Module] = (),
        optimizer: Callable[..., torch.optim.Optimizer] = gin.REQUIRED,
        learning_rate: float | Callable[[float], float] = gin.REQUIRED,
        max_gradient_norm: float | None = None,
        max_skipped_updates: int = 5,
    ):
        if max_gradient_norm is not None and not max_gradient_norm > 0:
            raise ValueError(f"Updater.max_gradient_norm is {max_gradient_norm}; it must be larger than 0, or None")
        check_at_least("Updater.max_skipped_updates", max_skipped_updates, 1)
        self._algorithm = algorithm
        apart = {id(each) for part in trained_apart for each in (*part.parameters(), *part.buffers())}
        own = [each for each in algorithm.parameters() if id(each) not in apart]
        parameters = [each for each in own if each.requires_grad]
        if not parameters:
            raise ValueError(f"{type(algorithm).__name__} has no parameters that can be trained")
        self._learning_rate = as_schedule(learning_rate, "Updater.learning_rate", minimum=0.0)
        initial_rate = self._learning_rate(0.0)
        if not (initial_rate > 0 and math.isfinite(initial_rate)):
            raise ValueError(f"Updater.learning_rate is {initial_rate}; it must be a finite number larger than 0")
        _check_optimizer(optimizer)
        self._step = GradientStep(optimizer, parameters, initial_rate, max_gradient_norm)
        self._max_skipped_updates = max_skipped_updates
        self._skipped_in_a_row = 0
        self._buffers_of_algorithm = [each for each in algorithm.buffers() if id(each) not in apart]

    def update(self, batch: TrainBatch, progress: Progress) -> Updated:
        """Takes one gradient step.

        Raises:
            NonFiniteUpdates: this is the last allowed of several updates in a row that were not finite.
        """
        learning_rate = self._learning_rate(progress.fraction)
        self._step.set_learning_rate(learning_rate)
        # The forward pass writes running statistics (batch normalisation): a skipped update takes them back too.
        buffers = [buffer.clone() for buffer in self._buffers_of_algorithm]
        loss_info = self._loss_info(batch)
        loss = self._mean_loss(loss_info.loss, batch)
        self._step.clear()
        loss.backward()
        loss, norm = loss.detach(), self._step.read_gradient()
        # One synchronisation per update on a GPU, none on the CPU: whether to step must be known before stepping.
        finite = math.isfinite(float(loss + norm))
        if finite:
            self._step.step()
            self._skipped_in_a_row = 0
        else:
            self._skip(loss, norm, loss_info, buffers)
        metrics: dict[str, torch.Tensor | float] = {name: _mean(value) for name, value in loss_info.extra.items()}
        metrics |= {"loss": loss, "gradient_norm": norm}
        metrics |= {"learning_rate": learning_rate, "skipped": float(not finite)}
        return Updated(metrics, loss_info.priority if finite else ())

    def _loss_info(self, batch: TrainBatch) -> LossInfo:
        if nest.leaves(batch.state):
            return self._algorithm.calc_loss(
                self._algorithm.train_step(batch.inputs, batch.state, batch.rollout_info).info
            )
        # Without a recurrent state time is just more batch: [B, T] is folded to [B·T] for one call and unfolded again.
        outer = tuple(batch.inputs.reward.shape[:2])
        inputs, info = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (batch.inputs, batch.rollout_info))
        step = self._algorithm.train_step(inputs, (), info)
        return self._algorithm.calc_loss(nest.map_structure(lambda leaf: leaf.unflatten(0, outer), step.info))

    def _mean_loss(self, loss: torch.Tensor, batch: TrainBatch) -> torch.Tensor:
        if nest.leaves(batch.importance_weight):
            loss = loss * batch.importance_weight[:, None]
        if self._algorithm.trains_on_last_rows:
            return loss.mean()
        counted = ~batch.inputs.is_last()
        return torch.where(counted, loss, 0.0).sum() / counted.sum().clamp(min=1)

    def _skip(self, loss: torch.Tensor, norm: torch.Tensor, loss_info: LossInfo, buffers: list[torch.Tensor]) -> None:
        self._step.clear()
        for buffer, before in zip(self._buffers_of_algorithm, buffers, strict=True):
            buffer.copy_(before)
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= self._max_skipped_updates:
            parts = ", ".join(f"{name} {float(_mean(value)):.4g}" for name, value in loss_info.extra.items())
            raise NonFiniteUpdates(
                f"{self._skipped_in_a_row} updates in a row were not finite (loss {float(loss):.4g}, "
                f"gradient norm {float(norm):.4g}; {parts}); the parameters are those before them. Lower "
                "Updater.learning_rate or set Updater.max_gradient_norm, and look at the observations and rewards"
            )

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the counts of skipped updates."""
        return self._step.state_dict() | {"skipped_in_a_row": self._skipped_in_a_row}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if the state is of another kind of optimiser or of other parameters."""
        self._step.check_state_dict(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned; the optimiser's settings stay those of this run's config."""
        self._step.load_state_dict(state)
        self._skipped_in_a_row = int(state["skipped_in_a_row"])


def _mean(value: torch.Tensor) -> torch.Tensor:
    return value.detach() if value.ndim == 0 else value.detach().float().mean()


def _check_optimizer(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    parameters = inspect.signature(optimizer).parameters
    if "lr" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return
    name = getattr(optimizer, "__name__", str(optimizer))
    raise ValueError(
        f"Updater.optimizer is {name}, which takes no learning rate as lr; expected what makes an optimiser of "
        "parameters, such as @torch.optim.Adam"
    )


class MeanOfUpdates:
    """Averages the metrics of the updates since the last summary, without leaving the device.

    A metric that not every update reports is averaged over those that do.
    """

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, torch.Tensor | float]) -> None:
        """Adds the metrics of one update."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def result_and_reset(self) -> dict[str, torch.Tensor | float]:
        """The means, still on the device; empty if there was no update."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])
