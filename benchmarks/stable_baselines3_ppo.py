"""Trains stable-baselines3's PPO with the hyper-parameters of ppo_cartpole.gin; ppo_speed.py runs this.

python benchmarks/stable_baselines3_ppo.py --env_steps 50000

Prints `training` before the first environment step and `trained N env steps` after the last update.
"""

import argparse

import stable_baselines3
import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--env_steps", type=int, default=50_000)
    flags.add_argument("--warm_up_steps", type=int, default=2_560, help="before the measurement")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=1)
    flags.add_argument("--fused_adam", action="store_true")
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads)
    policy_arguments = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": torch.nn.Tanh}
    if arguments.fused_adam:
        policy_arguments["optimizer_kwargs"] = {"eps": 1e-5, "fused": True}
    model = stable_baselines3.PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=arguments.seed, vec_env_cls=DummyVecEnv),
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
        policy_kwargs=policy_arguments,
        seed=arguments.seed,
        device="cpu",
    )
    model.learn(arguments.warm_up_steps, log_interval=10)
    before = model.num_timesteps
    print("training", flush=True)
    model.learn(arguments.env_steps, log_interval=10, reset_num_timesteps=False)
    print(f"trained {model.num_timesteps - before} env steps", flush=True)


if __name__ == "__main__":
    main()
