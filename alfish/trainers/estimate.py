"""How long a run will take here, told before it starts."""

import copy
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from alfish import nest, specs
from alfish.rollout.acting import Actor, random_numbers_kept
from alfish.trainers.trainer import Trainer
from alfish.trainers.updater import Updater


class Estimate(NamedTuple):
    """Seconds.

    Attributes:
        act: of answering one row of all environments.
        update: of one gradient step.
        run: of what is left of the run, without environments and evaluations.
    """

    act: float
    update: float
    run: float


def estimate_run_time(trainer: Trainer, device: torch.device) -> Estimate:
    """Times one answer and one gradient step on a copy of the algorithm, with rows of zeros.

    The run is left as it was, its random numbers included.
    """
    built = trainer.built
    num_envs = built.environment.num_envs
    row = specs.zeros(built.row_specs, (num_envs,))
    with random_numbers_kept(device):
        algorithm = copy.deepcopy(built.algorithm).eval()
        actor = Actor(algorithm, built.transform, num_envs, device)
        with torch.inference_mode():
            act = _seconds_of_second(lambda: actor.to_host(actor.rollout(row).action))
        batch = trainer.batch_source.example()
        updater = Updater(algorithm.train())
        update = _seconds_of_second(lambda: nest.map_structure(float, updater.update(batch, trainer.progress)))
    progress, total = trainer.progress, trainer.total_env_steps
    updates = trainer.batch_source.updates_after(total) - progress.updates
    return Estimate(act, update, act * (total - progress.env_steps) / num_envs + update * max(0, updates))


def _seconds_of_second(call: Callable[[], object]) -> float:
    call()  # the first call also allocates, and compiles where something is compiled
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
