"""The config with a continuous action trains, evaluates and shows its trees."""

import csv

from run_commands import evaluate_here, run

from alfish.bin import train, tree

SMALL = {
    "TOTAL_ENV_STEPS": 40,
    "NUM_ENVS": 2,
    "NUM_SIMULATIONS": 4,
    "NUM_CANDIDATES": 3,
    "BATCH_SIZE": 8,
    "ReplayBatches.initial_env_steps": 16,
    "Trainer.evaluation_interval": 20,
    "Evaluator.episodes": 1,
}


def test_it_trains_evaluates_and_shows_its_trees(tmp_path, capsys):
    folder = tmp_path / "run"
    params = [f"--gin_param={name}={value}" for name, value in SMALL.items()]
    flags = ("--gin_file=sampled_muzero_pendulum.gin", f"--root_dir={folder}", "--device=cpu", "--strict")
    assert run(train, *flags, *params) == 0
    with (folder / "metrics.csv").open() as file:
        assert any("loss/policy" in row["metric"] for row in csv.DictReader(file))
    assert evaluate_here(f"--root_dir={folder}", "--device=cpu", "--episodes=1") == 0
    assert run(tree, f"--root_dir={folder}", "--device=cpu", "--text", "--max_moves=1") == 0
    assert "root" in capsys.readouterr().out
