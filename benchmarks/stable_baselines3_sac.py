"""Trains stable-baselines3's SAC with the hyper-parameters of sac_pendulum.gin; sac_speed.py runs this.

python benchmarks/stable_baselines3_sac.py --env_steps 3000

Prints `training` before the first environment step and `trained N env steps` after the last update.
"""

from typing import Any

import stable_baselines3
import stable_baselines3_run
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv


def make_sac(seed: int, policy_settings: dict[str, Any]) -> stable_baselines3.SAC:
    return stable_baselines3.SAC(
        "MlpPolicy",
        make_vec_env("Pendulum-v1", n_envs=1, seed=seed, vec_env_cls=DummyVecEnv),
        learning_rate=0.001,
        buffer_size=20_000,
        learning_starts=100,
        batch_size=256,
        tau=0.02,
        gamma=0.99,
        train_freq=1,
        gradient_steps=1,
        ent_coef="auto_1.0",
        policy_kwargs={"net_arch": [256, 256]} | policy_settings,
        seed=seed,
        device="cpu",
    )


if __name__ == "__main__":
    stable_baselines3_run.main(make_sac, __doc__)
