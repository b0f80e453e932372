"""The command line of a training of stable-baselines3, for stable_baselines3_ppo.py and stable_baselines3_sac.py."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm


def main(make: Callable[[int, dict[str, Any]], BaseAlgorithm], description: str | None) -> None:
    """Trains; prints `training` before the first environment step and `trained N env steps` after the last update.

    Args:
        make: makes the algorithm from a seed and further settings of its policy.
        description: of the command line.
    """
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--env_steps", type=int, default=50_000)
    flags.add_argument("--warm_up_steps", type=int, default=2_560, help="before the measurement")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--fused_adam", action="store_true")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    model = make(arguments.seed, {"optimizer_kwargs": {"fused": True}} if arguments.fused_adam else {})
    model.learn(arguments.warm_up_steps, log_interval=10)
    before = model.num_timesteps
    print("training", flush=True)
    model.learn(arguments.env_steps, log_interval=10, reset_num_timesteps=False)
    print(f"trained {model.num_timesteps - before} env steps", flush=True)
