"""Environment steps per second of PPO: alfish's ppo_cartpole.gin beside stable-baselines3, in turns.

python benchmarks/ppo_speed.py [--pairs 5] [--env_steps 50000]

Both have the same hyper-parameters, networks and kind of environments (all in one process), and one torch thread unless
--peer_threads says otherwise. Each run is a fresh process and trains only: no evaluation, no checkpoint before the end.
What counts is the time from the moment before the first environment step to the moment after the last update; both
have taken a gradient step before. The alfish run writes its summaries to a CSV file, TensorBoard and the console, the
other one gathers them only. `--peer_fused_adam` gives stable-baselines3 the fused Adam of ppo_cartpole.gin, which it
does not use by default.
"""

import speed_in_turns

_CONTEST = speed_in_turns.Contest(
    title="PPO on CartPole-v1: alfish beside stable-baselines3",
    gin_file="ppo_cartpole.gin",
    script="stable_baselines3_ppo.py",
    warm_up_steps=2_560,
)


if __name__ == "__main__":
    speed_in_turns.main(_CONTEST, __doc__, env_steps=50_000)
