"""What `train --dry_run` prints."""

import torch

from alfish import nest
from alfish.trainers.trainer import Trainer


def print_dry_run(trainer: Trainer) -> None:
    """Runs a few tiny iterations and prints the shapes that go through the house."""
    batches = trainer.dry_run()
    print(f"parameters: {parameter_count(trainer.built.algorithm):,}")
    for name, child in trainer.built.algorithm.named_modules():
        if name and name.count(".") < 2 and parameter_count(child):
            print(f"  {name:<40} {parameter_count(child):>12,}")
    for task, batch in batches.items():
        print(f"a training batch of {task}:" if task else "a training batch:")
        for path, leaf in nest.leaves_with_paths(batch):
            print(f"  {path:<40} {str(list(leaf.shape)):>24} {str(leaf.dtype).removeprefix('torch.')}")
    print("dry run: everything was built and run; nothing was kept")


def parameter_count(module: torch.nn.Module) -> int:
    """The number of a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
