"""A run as it was saved, for the commands that look at it."""

import pathlib
from collections.abc import Sequence

import torch

from alfish import gin_config
from alfish.algorithms.algorithm import Algorithm
from alfish.bin import run_folder
from alfish.trainers.experiment import Built, Experiment
from alfish.trainers.weight_files import read_run, take_weights


def build(
    folder: pathlib.Path, device: torch.device, params: Sequence[str] = (), render_mode: str | None = None
) -> tuple[Experiment, Built]:
    """Builds one environment and the algorithm of a run, with its best weights, and prints which those are.

    Args:
        folder: of the run.
        device: for the algorithm.
        params: bindings that override the run's config.
        render_mode: for the environment; None if it will not be rendered.

    Raises:
        ValueError: the folder holds no run or no weights, or they do not fit.
    """
    gin_config.parse([run_folder.saved_config(folder)], params)
    experiment = Experiment()
    built = experiment.build(1, device, for_evaluation=True, render_mode=render_mode)
    try:
        print(f"{built.environment.name}: {_load_best(folder, built.algorithm)}", flush=True)
    except BaseException:
        built.environment.close()
        raise
    return experiment, built


def _load_best(folder: pathlib.Path, algorithm: Algorithm) -> str:
    """The best weights, or the newest ones if the run has not evaluated yet."""
    weights, step = read_run(folder)
    take_weights(algorithm, weights, f"the run {folder}")
    if step is None:
        return f"the best weights of {folder}"
    return f"the weights of {folder} at {step:,} env steps (it has not evaluated yet)"
