"""The command line of a training of stable-baselines3, for stable_baselines3_ppo.py and stable_baselines3_sac.py."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


class StopAtThreshold(BaseCallback):
    """Evaluates the most likely actions every so many environment steps, and stops at a mean return.

    Args:
        environment: its name.
        interval: environment steps between two evaluations.
        episodes: of each, all at once.
        threshold: the mean return that ends the training.
    """

    def __init__(self, environment: str, interval: int, episodes: int, threshold: float):
        super().__init__()
        self._environments = make_vec_env(environment, n_envs=episodes, seed=12_345)
        self._interval, self._episodes, self._threshold = interval, episodes, threshold
        self._next = interval

    def _on_step(self) -> bool:
        if self.num_timesteps < self._next:
            return True
        self._next += self._interval
        mean, _ = evaluate_policy(self.model, self._environments, n_eval_episodes=self._episodes)
        print(f"evaluation at {self.num_timesteps} env steps: return {mean:.2f}", flush=True)
        return mean < self._threshold


def main(make: Callable[[int, dict[str, Any]], BaseAlgorithm], description: str | None) -> None:
    """Trains; prints `training` before the first environment step and `trained N env steps` after the last update.

    With a threshold there is no warm-up, and what is printed besides are the evaluations.

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
    flags.add_argument("--threshold", type=float, help="mean return of an evaluation that ends the training")
    flags.add_argument("--evaluation_interval", type=int, help="environment steps; needed with --threshold")
    flags.add_argument("--episodes", type=int, default=20, help="of an evaluation")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    model = make(arguments.seed, {"optimizer_kwargs": {"fused": True}} if arguments.fused_adam else {})
    if arguments.threshold is not None:
        name = model.env.envs[0].spec.id
        callback = StopAtThreshold(name, arguments.evaluation_interval, arguments.episodes, arguments.threshold)
        print("training", flush=True)
        model.learn(arguments.env_steps, callback, log_interval=10)
        return
    model.learn(arguments.warm_up_steps, log_interval=10)
    before = model.num_timesteps
    print("training", flush=True)
    model.learn(arguments.env_steps, log_interval=10, reset_num_timesteps=False)
    print(f"trained {model.num_timesteps - before} env steps", flush=True)
