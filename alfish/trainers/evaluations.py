"""Evaluations of a run: when they are done, and by whom."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import gin
import torch
from absl import logging

from alfish.data_structures import Progress
from alfish.summary.timers import Timers
from alfish.trainers.evaluator import Evaluation, EvaluationStopped
from alfish.trainers.experiment import Built, Experiment


class EvaluationContext(NamedTuple):
    """What an evaluation runner is made from.

    Attributes:
        experiment: of the run.
        make_experiment: makes it anew in another process; can be pickled.
        built: the learner's parts.
        device: where the learner's algorithm is.
        seed: of every evaluation.
        timers: gets the phase "evaluate".
        should_stop: looks after what else runs, without waiting, and raises if that has failed; True if evaluations
            shall be given up, as when a stop of the run has been requested.
    """

    experiment: Experiment
    make_experiment: Callable[[], Experiment]
    built: Built
    device: torch.device
    seed: int
    timers: Timers
    should_stop: Callable[[], bool]


class FinishedEvaluation(NamedTuple):
    """An evaluation, and what was evaluated.

    Attributes:
        progress: when it was requested.
        evaluation: its episodes.
        weights: the algorithm's state as it was then; valid until the next call.
    """

    progress: Progress
    evaluation: Evaluation
    weights: Mapping[str, Any]


class EvaluationRunner(Protocol):
    """Evaluates the learner's algorithm. `Trainer.evaluation` makes it from an EvaluationContext.

    Attributes:
        needs_configuration: True if it makes the experiment anew in another process; known to the class.
    """

    needs_configuration: bool

    def start(self) -> None:
        """Called when training begins: starts what runs elsewhere, so that what is wrong with it shows early."""

    def request(self, progress: Mapping[str, Progress]) -> None:
        """Has the weights evaluated as they are now; a second request at the same progress is the first one.

        A stop of the run may leave it out.

        Args:
            progress: of each training task, by its name; `""` is the algorithm itself.
        """

    def poll(self) -> None:
        """Called between rows and between updates: looks after what runs elsewhere, without waiting."""

    def finished(self, wait: bool = False) -> list[FinishedEvaluation]:
        """The evaluations that were finished since the last call, in the order of the requests.

        Args:
            wait: waits for those that are pending, unless the run shall stop.
        """

    def take(self) -> list[FinishedEvaluation]:
        """Like `finished`, but asks nothing that runs elsewhere, which may be lost."""

    def metrics(self) -> dict[str, float]:
        """Numbers to report that depend on more than the seed, by names without a prefix."""

    def state_dict(self) -> dict[str, Any]:
        """The requests that are pending."""

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """Raises a ValueError if those that are pending cannot be requested again."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Requests them again."""

    def close(self) -> None:
        """Ends what was started, and closes the environments. May be called twice."""


@gin.configurable
class SameProcessEvaluation:
    """Evaluates at once, while training waits.

    A stop of the run gives an evaluation up.

    Args:
        context: see EvaluationContext.
    """

    needs_configuration = False

    def __init__(self, context: EvaluationContext):
        self._context = context
        self._evaluator = context.experiment.evaluator(context.built, context.device)
        self._finished: list[FinishedEvaluation] = []

    def start(self) -> None:
        """See EvaluationRunner."""

    def request(self, progress: Mapping[str, Progress]) -> None:
        """See EvaluationRunner. The learner's algorithm knows its progress already."""
        context = self._context
        with context.timers.phase("evaluate"):
            try:
                evaluation = self._evaluator.evaluate(context.seed, context.should_stop)
            except EvaluationStopped:
                return
        weights = context.built.algorithm.state_dict()
        self._finished.append(FinishedEvaluation(progress[""], evaluation, weights))

    def poll(self) -> None:
        """See EvaluationRunner."""

    def finished(self, wait: bool = False) -> list[FinishedEvaluation]:
        """See EvaluationRunner."""
        return self.take()

    def take(self) -> list[FinishedEvaluation]:
        """See EvaluationRunner."""
        finished, self._finished = self._finished, []
        return finished

    def metrics(self) -> dict[str, float]:
        """See EvaluationRunner."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """See EvaluationRunner. Nothing is ever pending."""
        return {"pending": []}

    def check_state_dict(self, state: dict[str, Any]) -> None:
        """See EvaluationRunner."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See EvaluationRunner. Those that were pending in another process are left out."""
        if state["pending"]:
            logging.warning("%d evaluations that were pending at the checkpoint are left out", len(state["pending"]))

    def close(self) -> None:
        """See EvaluationRunner."""
        self._evaluator.close()
