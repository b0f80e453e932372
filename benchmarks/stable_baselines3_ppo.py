"""Trains stable-baselines3's PPO with the hyper-parameters of ppo_cartpole.gin; ppo_speed.py runs this.

python benchmarks/stable_baselines3_ppo.py --env_steps 50000

Prints `training` before the first environment step and `trained N env steps` after the last update.
"""

from typing import Any

import stable_baselines3
import stable_baselines3_run
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv


def make_ppo(seed: int, policy_settings: dict[str, Any]) -> stable_baselines3.PPO:
    # Its policy has the epsilon 1e-5 of ppo_cartpole.gin unless other settings of the optimiser are given.
    optimizer = {key: {"eps": 1e-5} | value for key, value in policy_settings.items()}
    return stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=seed, vec_env_cls=DummyVecEnv),
        learning_rate=lambda left: 0.001 * left,
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        clip_range=lambda left: 0.2 * left,
        normalize_advantage=True,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": torch.nn.Tanh} | optimizer,
        seed=seed,
        device="cpu",
    )


if __name__ == "__main__":
    stable_baselines3_run.main(make_ppo, __doc__)
