"""Running training tasks: each has batches, an optimiser, counts and metrics of its own."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from alfish.algorithms.algorithm import Algorithm, TrainingOptions, TrainingTask
from alfish.data_structures import Progress
from alfish.trainers.batch_source import BatchSource, SourceContext, TrainBatch
from alfish.trainers.contexts import check_is_part
from alfish.trainers.state_checks import Stateful
from alfish.trainers.updater import MeanOfUpdates, Updater

MAIN = ""
"""The name of the task that trains the algorithm itself."""


class TaskRunner:
    """Trains one task with what a run collects.

    Args:
        task: what is trained, and how.
        context: what its batch source is built from.
        trained_apart: parts of the task's algorithm that have tasks of their own.

    Attributes:
        name: of the task.
        prefix: before the names of its metrics, its time phases and its parts of a checkpoint; none for the main task.
        algorithm: what is trained.
        batch_source: where its batches come from.
        updater: takes its gradient steps.
    """

    def __init__(self, task: TrainingTask, context: SourceContext, trained_apart: Iterable[torch.nn.Module] = ()):
        self.name = task.name
        self.prefix = context.prefix
        expected = "a source of batches, such as @OnPolicyBatches or @ReplayBatches"
        check_is_part(context.setting, task.options.batch_source, "batches", expected)
        self.updater: Updater = task.options.updater(task.algorithm, trained_apart)
        self.batch_source: BatchSource = task.options.batch_source(context)
        self.algorithm = task.algorithm
        self._interval = task.options.interval
        self._timers = context.timers
        self._updates = 0
        self._means = MeanOfUpdates()

    def progress(self, run: Progress) -> Progress:
        """How far the run has come, with the updates of this task."""
        return run._replace(updates=self._updates)

    def update(self, run: Progress, is_last: bool, stop_requested: Callable[[], bool]) -> None:
        """Takes the gradient steps that are due in an iteration.

        Args:
            run: how far the run has come.
            is_last: True in the last iteration of the run, in which every task is trained.
            stop_requested: asked after each update; True leaves the others for the run that goes on.
        """
        if run.iteration % self._interval and not is_last:
            return
        for batch in self.batch_source.batches(self.progress(run)):
            if not self.algorithm.training:
                self.algorithm.train()
            with self._timers.phase(f"{self.prefix}update"):
                metrics = self._update(batch, run)
            if self.algorithm.may_stop_early:
                # What it decides by is on the device: on a GPU, this waits for it.
                stops = self.algorithm.stops_early(metrics)
                self._means.add({"stopped_early": float(stops)})
                if stops:
                    break
            # A replay catches up after a resume with the updates that are left out; a fresh window could not.
            if stop_requested() and not self.algorithm.on_policy:
                break
        # As everything but an update needs it: to switch all modules takes as long as to act.
        self.algorithm.eval()

    def after_train_iter(self, run: Progress) -> None:
        """Calls the hook of that name."""
        self.algorithm.after_train_iter(self.progress(run))

    def _update(self, batch: TrainBatch, run: Progress) -> Mapping[str, torch.Tensor | float]:
        metrics, priority = self.updater.update(batch, self.progress(run))
        self._means.add(metrics)
        self._updates += 1
        if isinstance(priority, torch.Tensor):
            self.batch_source.update_priorities(batch, priority)
        elif self.algorithm.gives_priorities and not metrics["skipped"]:
            raise ValueError(
                f"{type(self.algorithm).__name__}.gives_priorities is True, but its calc_loss gave no LossInfo.priority"
            )
        self.algorithm.after_update(self.progress(run))
        return metrics

    def try_out(self, run: Progress) -> TrainBatch:
        """Takes a gradient step on the example batch, and on a real one if there is one; for a run that is not kept.

        Args:
            run: its end.

        Returns:
            The last batch.
        """
        self.algorithm.train()
        batch = self.batch_source.example()
        self.updater.update(batch, self.progress(run))
        for batch in itertools.islice(self.batch_source.batches(self.progress(run)), 1):
            self._update(batch, run)
        return batch

    def metrics_and_reset(self) -> dict[str, torch.Tensor | float]:
        """The means of its metrics since the last call, still on the device."""
        return {f"{self.prefix}{name}": value for name, value in self._means.result_and_reset().items()}

    def restart(self, run: Progress) -> None:
        """Goes on, in a run that has come so far, without the rows that were stored."""
        self.batch_source.restart(self.progress(run))

    def replay(self) -> dict[str, Stateful]:
        """Its component of a checkpoint that holds stored rows, by name."""
        return {f"{self.prefix}batch_source": self.batch_source}

    def components(self) -> dict[str, Stateful]:
        """Its other components of a checkpoint, by name."""
        return {f"{self.prefix}updater": self.updater, f"{self.prefix}counts": self}

    def state_dict(self) -> dict[str, Any]:
        """The number of updates, and the sums of the metrics since the last summary."""
        return {"updates": self._updates, "means": self._means.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._updates = int(state["updates"])
        self._means.load_state_dict(state["means"])


def make_runners(
    algorithm: Algorithm, options: TrainingOptions, context: Callable[[TrainingTask], SourceContext]
) -> list[TaskRunner]:
    """The runners of an algorithm and of its parts that are trained apart, the algorithm's first.

    Args:
        algorithm: of the run.
        options: how it is trained.
        context: what the batch source of a task is built from.

    Raises:
        ValueError: two parts have the same name, or one has none.
    """
    parts = algorithm.training_tasks()
    names = [part.name for part in parts]
    if len({MAIN, *names}) <= len(names):
        raise ValueError(f"{type(algorithm).__name__} has training tasks named {names}; each needs a name of its own")
    main = TrainingTask(MAIN, algorithm, options)
    apart = [part.algorithm for part in parts]
    return [TaskRunner(main, context(main), apart), *(TaskRunner(part, context(part)) for part in parts)]
