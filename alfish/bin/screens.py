"""What `train` prints before it starts."""

import datetime
import pathlib

import torch

from alfish import nest
from alfish.trainers.estimate import estimate_run_time
from alfish.trainers.trainer import Trainer

LONG_RUN = 2 * 60 * 60
"""Seconds from which a run without a GPU is warned of."""


def print_first_screen(trainer: Trainer, root_dir: pathlib.Path, device: torch.device, resumed: bool) -> None:
    """Says what is about to run, where, and how long it will take."""
    built, progress = trainer.built, trainer.progress
    estimate = estimate_run_time(trainer, device)
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    lines = {
        "algorithm": f"{type(built.algorithm).__name__}, {_parameter_count(built.algorithm):,} parameters",
        "environment": f"{built.environment.num_envs} × {built.environment.name}",
        "device": f"{device} ({kind})",
        "seed": str(trainer.seed),
        "run folder": str(root_dir),
        "replay memory": f"{trainer.batch_source.num_bytes / 1e6:,.1f} MB when full",
        "curves": f"tensorboard --logdir={root_dir}",
        "time": f"about {_duration(estimate.run)} for acting and {trainer.total_env_steps:,} env steps' updates",
    }
    if resumed:
        lines["resumed"] = f"at {progress.env_steps:,} of {trainer.total_env_steps:,} env steps"
    for name, text in lines.items():
        print(f"{name:>14}  {text}")
    if device.type == "cpu" and estimate.run > LONG_RUN:
        print(
            f"No GPU is used: this run would take about {_duration(estimate.run)} here. A run that learns in two minutes "
            "on a CPU:\n  python -m alfish.bin.train --gin_file=muzero_cartpole.gin"
        )
    print(flush=True)


def print_dry_run(trainer: Trainer) -> None:
    """Runs a few tiny iterations and prints the shapes that go through the house."""
    batch = trainer.dry_run()
    print(f"parameters: {_parameter_count(trainer.built.algorithm):,}")
    for name, child in trainer.built.algorithm.named_modules():
        if name and name.count(".") < 2 and _parameter_count(child):
            print(f"  {name:<40} {_parameter_count(child):>12,}")
    print("a training batch:")
    for path, leaf in nest.leaves_with_paths(batch):
        print(f"  {path:<40} {str(list(leaf.shape)):>24} {str(leaf.dtype).removeprefix('torch.')}")
    print("dry run: everything was built and run; nothing was kept")


def _parameter_count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    return str(datetime.timedelta(minutes=round(seconds / 60))).removesuffix(":00") + " hours"
