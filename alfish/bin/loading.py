"""A run as it was saved, for the commands that look at it."""

import pathlib
from collections.abc import Sequence

import torch

from alfish import gin_config
from alfish.algorithms.algorithm import Algorithm
from alfish.bin import run_folder
from alfish.trainers.checkpoint_store import CheckpointStore, load_weights
from alfish.trainers.experiment import Built, Experiment


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
    path = folder / run_folder.BEST / "weights.pt"
    if path.is_file():
        load_weights(path, algorithm)
        return f"the best weights of {folder}"
    step = CheckpointStore(folder / run_folder.CHECKPOINTS).load({"algorithm": algorithm}, on_missing="skip")
    if step is None:
        raise ValueError(f"{folder} holds no weights: the run was stopped before its first checkpoint; let it train on")
    return f"the weights of {folder} at {step:,} env steps (it has not evaluated yet)"
