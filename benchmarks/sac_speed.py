"""Environment steps per second of SAC: alfish's sac_pendulum.gin beside stable-baselines3, in turns.

python benchmarks/sac_speed.py [--pairs 5] [--env_steps 3000]

Both have the same hyper-parameters, networks and kind of environment (one, in the process that trains), take one
gradient step of 256 rows after each environment step, and have one torch thread unless --peer_threads says otherwise.
What is measured is what ppo_speed.py measures. `--peer_fused_adam` gives stable-baselines3 the fused Adam of
sac_pendulum.gin, which it does not use by default.
"""

import speed_in_turns

_CONTEST = speed_in_turns.Contest(
    title="SAC on Pendulum-v1: alfish beside stable-baselines3",
    gin_file="sac_pendulum.gin",
    script="stable_baselines3_sac.py",
    warm_up_steps=200,
    # All environment steps have their gradient step, as those of the other one behind its warm-up.
    gin_params=("ReplayBatches.initial_env_steps=0",),
)


if __name__ == "__main__":
    speed_in_turns.main(_CONTEST, __doc__, env_steps=3_000)
