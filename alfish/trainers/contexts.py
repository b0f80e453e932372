"""What the parts of a run are made from: engine, evaluations and batch sources each see what they need, and no more."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from alfish.algorithms.algorithm import TrainingTask
from alfish.data_structures import Experience
from alfish.rollout.acting import experience_specs
from alfish.rollout.engine import EngineContext
from alfish.summary.timers import Timers
from alfish.trainers.batch_source import SourceContext
from alfish.trainers.evaluations import EvaluationContext
from alfish.trainers.experiment import Built, ConfiguredExperiment, Experiment
from alfish.trainers.seeding import RandomStreams


class Surroundings(NamedTuple):
    """What all parts of a run have in common.

    Attributes:
        num_envs: B.
        window_length: T.
        device: of the learner's algorithm.
        random: the random streams of the run.
        timers: of the learner's process.
    """

    num_envs: int
    window_length: int
    device: torch.device
    random: RandomStreams
    timers: Timers


def experiment_maker(experiment: Experiment, makers: list[Callable[..., Any]]) -> Callable[[], Experiment]:
    """How parts that run in other processes make the experiment: from the configuration.

    Args:
        experiment: of the run.
        makers: of the engine and the evaluations.

    Raises:
        ValueError: one of them runs in another process, and the experiment is not in the configuration.
    """
    for maker in makers:
        if owns_environments(maker) or getattr(_unwrapped(maker), "needs_configuration", False):
            return ConfiguredExperiment(getattr(_unwrapped(maker), "__name__", str(maker)))
    return lambda: experiment


def check_parts(engine: Callable[..., Any], evaluation: Callable[..., Any]) -> None:
    """Checks that what a run is made of is of the right kind, see `check_is_part`.

    Args:
        engine: what makes the engine.
        evaluation: what makes the evaluation runner.

    Raises:
        ValueError: one of them is not.
    """
    check_is_part("Trainer.engine", engine, "collect", "an engine, such as @SameProcessEngine or @BackgroundEngine")
    check_is_part("Trainer.evaluation", evaluation, "request", "@SameProcessEvaluation or @EvaluationProcess")


def check_is_part(setting: str, maker: Callable[..., Any], method: str, expected: str) -> None:
    """Checks that a setting is no class of another kind; what a function makes is for it to say.

    Args:
        setting: for the message, e.g. `"Trainer.engine"`.
        maker: what it was set to: a class, a functools.partial of it, or a function.
        method: that all such parts have.
        expected: what they are, for the message.

    Raises:
        ValueError: it is such a class, or cannot be called.
    """
    made = _unwrapped(maker)
    if callable(made) and (not isinstance(made, type) or hasattr(made, method)):
        return
    name = getattr(made, "__name__", repr(made))
    raise ValueError(f"{setting} is {name}, which has no method {method}; expected {expected}")


def owns_environments(engine: Callable[..., Any]) -> bool:
    """Whether an engine makes its environments itself, see Engine.

    Args:
        engine: the class, or a functools.partial of it.
    """
    return bool(getattr(_unwrapped(engine), "owns_environments", False))


def _unwrapped(maker: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(maker, functools.partial):
        maker = maker.func
    return maker


def engine_context(
    built: Built, make_experiment: Callable[[], Experiment], around: Surroundings, poll_others: Callable[[], object]
) -> EngineContext:
    """What the engine is made from."""
    environment, transform, algorithm, row_specs = built
    return EngineContext(
        make_experiment=make_experiment,
        environment=environment,
        algorithm=algorithm,
        transform=transform,
        stored_specs=experience_specs(algorithm, transform, row_specs, around.num_envs, around.device),
        num_envs=around.num_envs,
        window_length=around.window_length,
        streams=around.random.sequence("engine"),
        device=around.device,
        timers=around.timers,
        poll_others=poll_others,
    )


def evaluation_context(
    experiment: Experiment,
    built: Built,
    make_experiment: Callable[[], Experiment],
    around: Surroundings,
    should_stop: Callable[[], bool],
) -> EvaluationContext:
    """What the evaluation runner is made from."""
    return EvaluationContext(
        experiment=experiment,
        make_experiment=make_experiment,
        built=built,
        device=around.device,
        seed=int(around.random.sequence("evaluation").generate_state(1)[0] >> 1),
        timers=around.timers,
        should_stop=should_stop,
    )


def source_context(
    task: TrainingTask, built: Built, stored_specs: Experience, envs_per_window: int, around: Surroundings
) -> SourceContext:
    """What the batch source of a task is made from."""
    prefix = f"{task.name}/" if task.name else ""
    return SourceContext(
        algorithm=task.algorithm,
        transform=built.transform,
        row_specs=stored_specs,
        num_envs=around.num_envs,
        window_length=around.window_length,
        generator=around.random.generator(f"{prefix}batches"),
        device=around.device,
        timers=around.timers,
        prefix=prefix,
        setting=f"{type(task.options).__name__ if task.name else 'Trainer'}.batch_source",
        envs_per_window=envs_per_window,
    )
