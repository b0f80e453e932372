"""Configs that differ from others in a few bindings build, and nothing that they bind is unused."""

import csv

import pytest
from run_commands import run

from alfish.bin import train

CONFIGS = [
    "muzero_cartpole.gin",
    "gumbel_muzero_cartpole.gin",
    "muzero_cartpole_reanalyse.gin",
    "efficientzero_cartpole.gin",
    "dqn_cartpole.gin",
    "reinforce_cartpole.gin",
    "actor_critic_cartpole.gin",
    "ppo_cartpole_hidden.gin",
    "ppo_cartpole_recurrent.gin",
    "ppo_muzero_latent_cartpole_hidden.gin",
    "ppo_muzero_latent_cartpole_hidden_reanalyse.gin",
    "sac_pendulum.gin",
    "sac_muzero_latent_pendulum.gin",
    "sac_muzero_latent_pendulum_reanalyse.gin",
]


@pytest.mark.parametrize("config", CONFIGS)
def test_it_builds_and_binds_nothing_in_vain(config):
    assert run(train, f"--gin_file={config}", "--dry_run", "--strict", "--device=cpu") == 0


@pytest.mark.parametrize(
    ("package", "extra", "config"),
    [
        ("minatar", "minatar", "muzero_minatar_breakout.gin"),
        ("mujoco", "mujoco", "sac_hopper.gin"),
        ("Box2D", "box2d", "ppo_lunar_lander.gin"),
    ],
)
def test_so_does_one_whose_environment_is_an_extra(package, extra, config):
    pytest.importorskip(package, reason=f'needs pip install "alfish[{extra}]"')
    test_it_builds_and_binds_nothing_in_vain(config)


SMALL = {
    "efficientzero_cartpole.gin": {"NUM_SIMULATIONS": 4, "BATCH_SIZE": 8, "ReplayBatches.initial_env_steps": 16},
    "ppo_muzero_latent_cartpole_hidden.gin": {
        "WINDOW_LENGTH": 4,
        "NUM_EPOCHS": 1,
        "representation/ReplayBatches.batch_size": 8,
        "representation/ReplayBatches.initial_env_steps": 16,
    },
    "sac_muzero_latent_pendulum_reanalyse.gin": {
        "RANDOM_ENV_STEPS": 16,
        "BATCH_SIZE": 8,
        "representation/ReplayBatches.batch_size": 8,
    },
}


@pytest.mark.parametrize(
    ("config", "reported"),
    [
        ("efficientzero_cartpole.gin", {"loss/consistency", "target/reanalyzed", "priority/spread"}),
        ("ppo_muzero_latent_cartpole_hidden.gin", {"representation/loss/value", "representation/latent/rank"}),
        ("sac_muzero_latent_pendulum_reanalyse.gin", {"temperature", "representation/target/reanalyzed"}),
    ],
)
def test_a_few_steps_of_all_its_parts(config, reported, tmp_path):
    folder = tmp_path / "run"
    small = {"TOTAL_ENV_STEPS": 96, "Evaluator.episodes": 1, "Trainer.summary_interval": 48} | SMALL[config]
    params = [f"--gin_param={name}={value}" for name, value in small.items()]
    assert run(train, f"--gin_file={config}", f"--root_dir={folder}", "--device=cpu", "--strict", *params) == 0
    with (folder / "metrics.csv").open() as file:
        names = {row["metric"] for row in csv.DictReader(file)}
    assert reported <= names
