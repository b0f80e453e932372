"""How long a run will take here, told before it starts."""

import copy
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from alfish import nest
from alfish.data_structures import Progress
from alfish.rollout.acting import Actor, blank_rows, random_numbers_kept
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.trainer import Trainer
from alfish.trainers.updater import Updater


class Estimate(NamedTuple):
    """Seconds.

    Attributes:
        act: of answering one row of all environments.
        update: of one gradient step of each training task, its share of making targets included, by name.
        run: of what is left of the run, without environments and evaluations.
    """

    act: float
    update: dict[str, float]
    run: float


def estimate_run_time(trainer: Trainer, device: torch.device) -> Estimate:
    """Times one answer, and one gradient step of each training task, on a copy of the algorithm, with rows of zeros.

    The run is left as it was, its random numbers included.
    """
    built = trainer.built
    num_envs = trainer.num_envs
    row = blank_rows(built.row_specs, num_envs)
    with random_numbers_kept(device):
        # Copied at once, so that the copied optimisers step the copied parameters.
        algorithm, updaters = copy.deepcopy((built.algorithm, [runner.updater for runner in trainer.runners]))
        algorithm.eval()
        actor = Actor(algorithm, built.transform, num_envs, device)
        with torch.inference_mode():
            act = _seconds_of_second(lambda: actor.to_host(actor.rollout(row).action))
        algorithm.train()
        total = trainer.total_env_steps
        run = act * (total - trainer.progress.env_steps) / num_envs
        update = {}
        for runner, updater in zip(trainer.runners, updaters, strict=True):
            progress = runner.progress(trainer.progress)
            seconds = _seconds_of_second(runner.batch_source.example) / runner.batch_source.updates_per_block
            seconds += _seconds_of_update(updater, runner.batch_source.example(), progress)
            run += seconds * max(0, runner.batch_source.updates_after(total) - progress.updates)
            update[runner.name] = seconds
    return Estimate(act, update, run)


def _seconds_of_update(updater: Updater, batch: TrainBatch, progress: Progress) -> float:
    return _seconds_of_second(lambda: nest.map_structure(float, updater.update(batch, progress).metrics))


def _seconds_of_second(call: Callable[[], object]) -> float:
    call()  # the first call also allocates, and compiles where something is compiled
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
