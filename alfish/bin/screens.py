"""What `train` prints before it starts and when it ends."""

import pathlib
from collections.abc import Sequence

import torch

from alfish.bin import config_differences, devices, interruption
from alfish.bin.dry_run import parameter_count
from alfish.trainers.estimate import estimate_run_time
from alfish.trainers.evaluator import Evaluation
from alfish.trainers.trainer import Trainer

LONG_RUN = 2 * 60 * 60
"""Seconds from which a run without a GPU is warned of."""


def print_first_screen(
    trainer: Trainer,
    folder: pathlib.Path,
    device: torch.device,
    resumed: bool,
    changes: Sequence[str],
    dropped: bool = False,
) -> None:
    """Says what is about to run and where; then, once that is measured, for how long; and what config has changed."""
    built, total = trainer.built, trainer.total_env_steps
    lines = {
        "algorithm": f"{type(built.algorithm).__name__}, {parameter_count(built.algorithm):,} parameters",
        "environment": f"{trainer.num_envs} × {built.environment.name}",
        "device": devices.description(device),
        "seed": str(trainer.seed),
        "run folder": str(folder),
        "replay memory": _replay_size(trainer),
        "curves": f"tensorboard --logdir={folder}",
    }
    if resumed:
        lines["resumed"] = f"at {trainer.progress.env_steps:,} of {total:,} env steps"
        if dropped and trainer.replay_size.total:
            lines["dropped"] = "the stored rows of the checkpoint: the replay begins empty (--drop_replay)"
    print("\n".join(f"{name:>14}  {text}" for name, text in lines.items()), flush=True)
    seconds = estimate_run_time(trainer, device).run
    what = f"acting and updates until {total:,} env steps; environments add theirs"
    print(f"{'time':>14}  about {duration(seconds)} for {what}")
    if changes:
        print("The config differs from the one that this run had before; it goes on with the new one:")
        print("\n".join(f"  {line}" for line in changes))
    if device.type == "cpu" and seconds > LONG_RUN:
        print(
            f"No GPU is used, and without one this run takes about {duration(seconds)}. A run that learns in two "
            f"minutes on a CPU:\n  {interruption.command('train', gin_file='muzero_cartpole.gin')}"
        )
    print(flush=True)


def print_end(trainer: Trainer, folder: pathlib.Path, evaluation: Evaluation | None, device: str) -> None:
    """Says how the run ended, and what to type next.

    Args:
        trainer: after `train`.
        folder: of the run.
        evaluation: the last one if the run is complete.
        device: the `--device` flag, for the command that continues.
    """
    env_steps = trainer.progress.env_steps
    if trainer.finished:
        result = "" if evaluation is None else f"; return {evaluation.mean:.1f} ± {evaluation.deviation:.1f}"
        print(f"done: {env_steps:,} env steps{result}")
        print(f"  {interruption.command('evaluate', root_dir=str(folder))}")
        print(f"  {interruption.command('play', root_dir=str(folder))}")
        return
    flags = {"root_dir": str(folder)} | ({} if device == "auto" else {"device": device})
    print(f"saved at {env_steps:,} of {trainer.total_env_steps:,} env steps; continue with")
    print(f"  {interruption.command('train', **flags)}")


def print_complete(trainer: Trainer, folder: pathlib.Path) -> None:
    """Says that there is nothing left to do."""
    print(f"this run is complete: {trainer.progress.env_steps:,} env steps in {folder}; to train it longer,")
    param = f"{config_differences.where_bound('Trainer.total_env_steps')}={2 * trainer.progress.env_steps}"
    print(f"  {interruption.command('train', root_dir=str(folder), gin_param=param)}")


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _replay_size(trainer: Trainer) -> str:
    memory, disk = trainer.replay_size
    parts = [_megabytes(memory)] * (memory > 0) + [f"{_megabytes(disk)} on disk"] * (disk > 0)
    return f"{', '.join(parts)} when full" if parts else "none"


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.1f} kB"
