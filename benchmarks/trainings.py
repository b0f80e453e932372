"""Trainings from their beginning to their end, as the benchmarks of learning measure them."""

import argparse
import concurrent.futures
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import common

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Point(NamedTuple):
    """An evaluation of a training.

    Attributes:
        env_steps: when it was made.
        mean: return over its episodes.
        seconds: since the process was started, imports and evaluations included.
    """

    env_steps: int
    mean: float
    seconds: float


class Training(NamedTuple):
    """A training that is over.

    Attributes:
        seed: of its random streams.
        curve: its evaluations, at least one.
        env_steps: of the whole.
        seconds: of the whole.
    """

    seed: int
    curve: list[Point]
    env_steps: int
    seconds: float

    def reached(self, threshold: float) -> Point | None:
        """The first evaluation whose mean is at least `threshold`; None if there is none."""
        return next((point for point in self.curve if point.mean >= threshold), None)

    def as_json(self) -> dict[str, Any]:
        """For the details of a report."""
        curve = [{"env_steps": steps, "return": mean, "seconds": seconds} for steps, mean, seconds in self.curve]
        return {"seed": self.seed, "env_steps": self.env_steps, "seconds": self.seconds, "curve": curve}


def add_flags(flags: argparse.ArgumentParser) -> None:
    """`--gin_file`, `--gin_param` and `--device`, the seeds, the folder of the runs, and how many run at a time."""
    common.add_training_flags(flags, "muzero_cartpole.gin")
    flags.add_argument("--seeds", type=int, default=5, help="how many")
    flags.add_argument("--first_seed", type=int, default=0)
    flags.add_argument("--jobs", type=int, default=1, help="trainings at a time; more than one have one thread each")
    flags.add_argument("--root_dir", type=pathlib.Path, help="of all runs; they are kept")


def train(
    gin_file: str, root_dir: pathlib.Path, params: Sequence[str], seed: int, arguments: argparse.Namespace
) -> Training:
    """Trains a config by its command line and reads the evaluations that it made.

    Args:
        gin_file: as for train.
        root_dir: of the run, which is kept.
        params: bindings beside the config's.
        seed: of the run.
        arguments: of `add_flags`, and `verbose`.
    """
    command = common.train_command(gin_file, root_dir, params, seed, [f"--device={arguments.device}"])
    finished = common.run(command, verbose=arguments.verbose, variables=_ONE_THREAD if arguments.jobs > 1 else None)
    printed = [summary for summary in common.summaries(finished.lines) if summary.is_evaluation]
    curve = [
        Point(env_steps, mean, line.seconds)
        for (env_steps, mean), line in zip(common.evaluations(root_dir), printed, strict=True)
    ]
    return Training(seed, curve, common.read_metrics(root_dir)[-1]["env_steps"], finished.seconds)


def as_they_come(function: Callable[[_Item], _Result], items: Sequence[_Item], jobs: int) -> Iterator[_Result]:
    """What a function that runs a command returns of each item, `jobs` at a time, in the order in which they end."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def overshoot(root_dir: pathlib.Path) -> int:
    """The most environment steps by which the iteration that crosses a limit can go beyond it."""
    most, before = 1, (0, 0)
    for row in common.read_metrics(root_dir):
        now = (row["iteration"], row["env_steps"])
        if now[0] > before[0]:
            most, before = max(most, math.ceil((now[1] - before[1]) / (now[0] - before[0]))), now
    return most - 1


def interval_note(name: str, values: Sequence[float]) -> str:
    """The interquartile mean over runs and its interval, as a note of a report."""
    low, high = common.bootstrap_interval(values)
    mean = common.interquartile_mean(values)
    return f"{name}: interquartile mean {mean:.1f}, 95 % bootstrap interval over seeds {low:.1f} to {high:.1f}"
