"""The training loop: collect, store, update, report, evaluate, save."""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import gin
import torch
from absl import logging

from alfish import nest
from alfish.algorithms.algorithm import TrainingOptions
from alfish.checks import check_at_least
from alfish.data_structures import Progress
from alfish.experience_replayers.sizes import ReplayBytes, check_sizes_together
from alfish.rollout.engine import Engine, EngineContext
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.summary.episode_metrics import EpisodeMetrics
from alfish.summary.staleness import Staleness
from alfish.summary.timers import Timers
from alfish.summary.writers import Summaries
from alfish.trainers.batch_source import BatchSource, TrainBatch
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.contexts import (
    Surroundings,
    check_parts,
    engine_context,
    evaluation_context,
    experiment_maker,
    owns_environments,
    source_context,
)
from alfish.trainers.evaluations import EvaluationContext, EvaluationRunner, FinishedEvaluation, SameProcessEvaluation
from alfish.trainers.evaluator import BestWeights, Evaluation
from alfish.trainers.experiment import Experiment
from alfish.trainers.hook_checks import check_finite
from alfish.trainers.hooks import check_answers, check_hooks, meant
from alfish.trainers.progress import Counters, crossed
from alfish.trainers.seeding import RandomStreams
from alfish.trainers.task_runner import make_runners
from alfish.trainers.updater import Updater


@gin.configurable
class Trainer:
    """Runs an experiment.

    Args:
        experiment: the factories of environment, transform and algorithm.
        device: where the algorithm lives.
        seed: decides every random number of the run.
        batch_source: `@OnPolicyBatches` or `@ReplayBatches`, for the algorithm itself; parts that are trained apart
            bring their own.
        engine: `@SameProcessEngine`, or another of `alfish.rollout`, which collects elsewhere.
        evaluation: `@SameProcessEvaluation`, or `@EvaluationProcess`, which evaluates elsewhere.
        make_experiment: makes the experiment anew in other processes, a function that can be pickled; None makes it
            from the configuration.
        num_envs: B, at least 1.
        window_length: T, rows per environment and iteration, at least 1.
        total_env_steps: the length of the run.
        summary_interval: environment steps between summaries.
        evaluation_interval: environment steps between evaluations; None evaluates only at the end.
        checkpoint_interval: environment steps between checkpoints. A checkpoint closes the episodes in flight (as a
            time limit would), so it should be far longer than an episode.
        keep_checkpoints: how many of the newest checkpoints are kept, at least 1.

    Raises:
        ValueError: a size or an interval is smaller than 1, or parts do not fit together.
    """

    def __init__(
        self,
        experiment: Experiment,
        device: torch.device,
        seed: int = 0,
        batch_source: type[BatchSource] = gin.REQUIRED,
        engine: Callable[[EngineContext], Engine] = SameProcessEngine,
        evaluation: Callable[[EvaluationContext], EvaluationRunner] = SameProcessEvaluation,
        make_experiment: Callable[[], Experiment] | None = None,
        num_envs: int = gin.REQUIRED,
        window_length: int = gin.REQUIRED,
        total_env_steps: int = gin.REQUIRED,
        summary_interval: int = gin.REQUIRED,
        evaluation_interval: int | None = gin.REQUIRED,
        checkpoint_interval: int = gin.REQUIRED,
        keep_checkpoints: int = 2,
    ):
        sizes = {"num_envs": num_envs, "window_length": window_length, "total_env_steps": total_env_steps}
        sizes |= {"summary_interval": summary_interval, "checkpoint_interval": checkpoint_interval}
        sizes |= {"evaluation_interval": 1 if evaluation_interval is None else evaluation_interval}
        sizes["keep_checkpoints"] = keep_checkpoints
        for name, value in sizes.items():
            check_at_least(f"Trainer.{name}", value, 1)
        self.num_envs = num_envs
        self.total_env_steps = total_env_steps
        self._window_length = window_length
        self.seed = seed
        self._summary_interval = summary_interval
        self._evaluation_interval = evaluation_interval
        self._checkpoint_interval = checkpoint_interval
        self._keep_checkpoints = keep_checkpoints
        self._store: CheckpointStore | None = None
        self._summaries = Summaries([])
        self._random = RandomStreams(seed, device)
        self._counters = Counters(total_env_steps)
        self._timers = Timers()
        self._episodes = EpisodeMetrics(num_envs)
        self._staleness = Staleness()
        self._best = BestWeights(None)
        self._stop_requested = False
        self._engine_error: Exception | None = None
        self._evaluation_error: Exception | None = None
        self._initial_weights = experiment.initial_weights
        around = Surroundings(num_envs, window_length, device, self._random, self._timers)
        check_parts(engine, evaluation)
        make = make_experiment or experiment_maker(experiment, [engine, evaluation])
        with contextlib.ExitStack() as opened:
            # An engine with environments of its own needs one here, for the specs.
            self.built = experiment.build(1 if owns_environments(engine) else num_envs, device)
            opened.callback(self.built.environment.close)
            check_hooks(self.built.algorithm)
            check_answers(self.built, num_envs, window_length, device)
            context = evaluation_context(experiment, self.built, make, around, self._between_updates)
            self._evaluations = evaluation(context)
            opened.callback(self._evaluations.close)
            self._make_engine_and_runners(
                opened, engine, batch_source, engine_context(self.built, make, around, self._poll_evaluations), around
            )
            # Nothing failed: what is open stays open until `close`.
            self._opened = opened.pop_all()

    def _make_engine_and_runners(
        self,
        opened: contextlib.ExitStack,
        engine: Callable[[EngineContext], Engine],
        batch_source: type[BatchSource],
        context: EngineContext,
        around: Surroundings,
    ) -> None:
        self._engine = engine(context)
        opened.callback(self._engine.close)
        if self._engine.owns_environments:
            self.built.environment.close()
        self.runners = make_runners(
            self.built.algorithm,
            TrainingOptions(batch_source, Updater),
            lambda task: source_context(task, self.built, context.stored_specs, self._engine.window_envs, around),
        )
        opened.callback(self._discard_unless_kept)
        sources = {f"{runner.prefix}ReplayBuffer.capacity": runner.batch_source for runner in self.runners}
        check_sizes_together({name: (source.size, source.disk) for name, source in sources.items()})

    @property
    def finished(self) -> bool:
        """True if nothing is left to do, the last evaluation included."""
        return self._counters.finished

    @property
    def progress(self) -> Progress:
        """How far the run has come; its updates are those of the algorithm itself."""
        return self.runners[0].progress(self._counters.progress())

    @property
    def replay_size(self) -> ReplayBytes:
        """Predicted bytes of all replays when they are full."""
        sizes = [runner.batch_source.size for runner in self.runners]
        return ReplayBytes(sum(size.memory for size in sizes), sum(size.disk for size in sizes))

    def open(self, root_dir: pathlib.Path, summaries: Summaries, drop_replay: bool = False) -> bool:
        """Gives the run a folder, and continues from the newest good checkpoint in it if there is one.

        Without this call nothing is kept.

        Args:
            root_dir: checkpoints and the best weights go there.
            summaries: where metrics go.
            drop_replay: leaves the stored rows in the checkpoint alone, whatever they are, and begins with none.

        Returns:
            True if a checkpoint was loaded.
        """
        self._summaries = summaries
        self._opened.callback(summaries.close)
        self._best = BestWeights(root_dir / "best")
        self._store = CheckpointStore(root_dir / "checkpoints", keep=self._keep_checkpoints)
        dropped = self._replays() if drop_replay else {}
        resumed = self._store.load(self._components(with_replay=not drop_replay), leave_out=dropped) is not None
        if resumed and drop_replay:
            for runner in self.runners:
                runner.restart(self.progress)
        self._take_initial_weights()
        return resumed

    def dry_run(self) -> dict[str, TrainBatch]:
        """Collects three windows and takes a gradient step on the example batch and, if one is due, on a real one.

        Returns:
            The last batch of each training task, by name; `""` is the algorithm itself.
        """
        self._take_initial_weights()
        for _ in range(3):
            self._collect()
        at_the_end = self.progress._replace(env_steps=self.total_env_steps)
        batches = {runner.name: runner.try_out(at_the_end) for runner in self.runners}
        for runner in self.runners:
            check_finite(meant(runner.algorithm), runner.metrics_and_reset(), runner.prefix)
        return batches

    def _take_initial_weights(self) -> None:
        """At the start of the run only: a run that goes on has weights of its own, and need not have the file."""
        if self._initial_weights is not None and self.progress.iteration == 0:
            self._initial_weights(self.built.algorithm)
        self._initial_weights = None

    def request_stop(self) -> None:
        """Makes `train` save and return at the end of the step that it is in. Safe to call from a signal handler.

        An evaluation that is due is left out: it can take far longer than the step.
        """
        self._stop_requested = True

    def train(self, stop_at_env_steps: int | None = None) -> Evaluation | None:
        """Trains until the run is complete, or `stop_at_env_steps` is reached, or a stop is requested; then saves.

        Returns:
            The last evaluation if the run is complete, else None; None also if a stop left it out.
        """
        last = self.total_env_steps if stop_at_env_steps is None else min(stop_at_env_steps, self.total_env_steps)
        evaluation = None
        self._take_initial_weights()
        self._after_train_iter()
        self._warn_of_the_untrained()
        self._evaluations.start()
        self._summary_started = time.monotonic()
        self._summary_env_steps = self.progress.env_steps
        self._timers.reset()
        while not self.finished and not self._stop_requested:
            if last < self.total_env_steps and self.progress.env_steps >= last:
                break
            evaluation = self._iterate(last)
        return evaluation if self.finished else None

    def _warn_of_the_untrained(self) -> None:
        # The run ends with the first window that reaches its length.
        end = self.total_env_steps + self.num_envs * self._window_length
        for runner in self.runners:
            if not runner.batch_source.updates_after(end):
                logging.warning(
                    "%s will not be trained: no update becomes due in the %d steps of Trainer.total_env_steps; raise "
                    "that, or lower %sReplayBatches.initial_env_steps",
                    type(meant(runner.algorithm)).__name__,
                    self.total_env_steps,
                    runner.prefix,
                )

    def _iterate(self, last: int) -> Evaluation | None:
        before = self.progress.env_steps
        if before < self.total_env_steps:
            self._collect()
        # else a stop left out what belongs to the last steps: the updates still due and the last evaluation
        now = self.progress.env_steps
        complete = now >= self.total_env_steps
        # The algorithm itself first: what it collected was seen with the representation as it still is.
        for runner in self.runners:
            runner.update(self._counters.progress(), complete, self._between_updates)
        self._after_train_iter()
        if complete or crossed(self._summary_interval, before, now):
            self._write_summary()
        due = complete or crossed(self._evaluation_interval, before, now)
        evaluation = self._evaluate(due, wait=complete)
        if complete and evaluation is not None:
            self._counters.finish()
        if now >= last or self._stop_requested or crossed(self._checkpoint_interval, before, now):
            self.save()
        return evaluation

    def _collect(self) -> None:
        window, first_env, staleness = self._engine.collect(self._task_progress())
        rows = nest.map_structure(lambda leaf: leaf[self.built.transform.past_rows :], window.time_step)
        self._counters.add(iterations=1, env_steps=self._episodes.update(rows, first_env))
        self._staleness.add(staleness)
        for runner in self.runners:
            runner.batch_source.add(window, first_env)

    def _task_progress(self) -> dict[str, Progress]:
        return {runner.name: runner.progress(self._counters.progress()) for runner in self.runners}

    def _between_updates(self) -> bool:
        """Looks after what runs elsewhere, also between the steps of an evaluation; True if what is done shall end."""
        try:
            self._engine.poll()
        except Exception as error:
            self._engine_error = error
            raise
        self._poll_evaluations()
        return self._stop_requested or self._evaluation_error is not None

    def _poll_evaluations(self) -> None:
        if self._evaluation_error is None:
            try:
                self._evaluations.poll()
            except Exception as error:
                self._evaluation_error = error  # raised where the run can be saved

    def _after_train_iter(self) -> None:
        for runner in self.runners:
            runner.after_train_iter(self._counters.progress())

    def _write_summary(self) -> None:
        progress, now = self.progress, time.monotonic()
        elapsed = max(now - self._summary_started, 1e-9)
        timing = {f"time/{phase}": share for phase, share in self._timers.shares().items()}
        timing["time/env_steps_per_second"] = (progress.env_steps - self._summary_env_steps) / elapsed
        metrics: dict[str, float | torch.Tensor] = dict(self._episodes.result())
        staleness = self._staleness.result_and_reset()
        if self._engine.owns_environments:
            metrics |= {f"engine/{name}": value for name, value in (staleness | self._engine.metrics()).items()}
        timing |= {f"evaluation/{name}": value for name, value in self._evaluations.metrics().items()}
        for runner in self.runners:
            metrics |= runner.metrics_and_reset()
        self._summaries.write(progress, metrics, timing)
        self._timers.reset()
        self._summary_started, self._summary_env_steps = now, progress.env_steps

    def _evaluate(self, due: bool, wait: bool) -> Evaluation | None:
        """Requests an evaluation if it is due, and reports what is finished; returns that of the weights of now."""
        try:
            if due:
                self._evaluations.request(self._task_progress())
            if self._evaluation_error is not None:
                raise self._evaluation_error
            return self._report(self._evaluations.finished(wait))
        except Exception as error:
            # Nothing that was trained or evaluated must be lost with an evaluation; without its engine, a run cannot
            # be saved.
            self._report(self._evaluations.take())
            if error is not self._engine_error:
                self.save()
            raise

    def _report(self, finished: list[FinishedEvaluation]) -> Evaluation | None:
        """Writes results and keeps the best weights; returns the evaluation of the weights of now."""
        of_now = None
        for progress, evaluation, weights in finished:
            metrics = {"evaluation/return": evaluation.mean, "evaluation/deviation": evaluation.deviation}
            metrics["evaluation/length"] = float(evaluation.lengths.mean())
            self._summaries.write(progress, metrics, {})
            self._best.offer(evaluation, weights)
            if progress.env_steps == self.progress.env_steps:
                of_now = evaluation
        return of_now

    def _components(self, with_replay: bool = True) -> dict[str, Any]:
        components: dict[str, Any] = {
            "algorithm": self.built.algorithm,
            "counters": self._counters,
            "engine": self._engine,
            "episodes": self._episodes,
            "staleness": self._staleness,
            "evaluations": self._evaluations,
            "summaries": self._summaries,
            "best": self._best,
        }
        for runner in self.runners:
            components |= runner.components()
        # Last: loading the others may draw random numbers.
        return components | (self._replays() if with_replay else {}) | {"random": self._random}

    def _replays(self) -> dict[str, Any]:
        return {name: source for runner in self.runners for name, source in runner.replay().items()}

    def save(self) -> None:
        """Closes the episodes in flight and saves a checkpoint."""
        self._engine.cut()
        if self._store is not None:
            self._store.save(self.progress.env_steps, self._components())

    def _discard_unless_kept(self) -> None:
        if self._store is None:
            for runner in self.runners:
                runner.batch_source.discard()

    def close(self) -> None:
        """Closes environments and summaries; of a run that was not given a folder nothing stays on a disk."""
        self._opened.close()
