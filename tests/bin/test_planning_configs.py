"""The configs that plan with the true rules of the frozen lake: each trains, evaluates and shows its trees."""

import csv

import pytest
from run_commands import evaluate_here, run

from alfish.bin import train, tree

SMALL = {
    "TOTAL_ENV_STEPS": 40,
    "NUM_ENVS": 2,
    "MCTSAlgorithm.num_simulations": 4,
    "ReplayBatches.initial_env_steps": 16,
    "ReplayBatches.batch_size": 8,
    "Trainer.evaluation_interval": 20,
    "Evaluator.episodes": 1,
}


@pytest.mark.parametrize("planner", ["", "_hindsight", "_open_loop"])
def test_it_trains_evaluates_and_shows_its_trees(planner, tmp_path, capsys):
    folder = tmp_path / "run"
    params = [f"--gin_param={name}={value}" for name, value in SMALL.items()]
    flags = (f"--gin_file=planning_frozen_lake{planner}.gin", f"--root_dir={folder}", "--device=cpu", "--strict")
    assert run(train, *flags, *params) == 0
    with (folder / "metrics.csv").open() as file:
        assert any("loss" in row["metric"] for row in csv.DictReader(file))
    assert evaluate_here(f"--root_dir={folder}", "--device=cpu", "--episodes=1") == 0
    assert run(tree, f"--root_dir={folder}", "--device=cpu", "--text", "--max_moves=1") == 0
    assert "root" in capsys.readouterr().out
