"""The configs that are given behind another to collect in worker processes."""

import csv

import pytest
from run_commands import run

from alfish.bin import train


@pytest.mark.parametrize("engine", ["background_engine.gin", "multi_process_engine.gin"])
def test_they_train_behind_another_config(engine, tmp_path):
    folder = tmp_path / "run"
    small = {"TOTAL_ENV_STEPS": 768, "NUM_EPOCHS": 1, "Evaluator.episodes": 1, "Trainer.summary_interval": 256}
    params = [f"--gin_param={name}={value}" for name, value in small.items()]
    files = ["--gin_file=ppo_cartpole.gin", f"--gin_file={engine}"]
    assert run(train, *files, f"--root_dir={folder}", "--device=cpu", "--strict", *params) == 0
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "engine/staleness"]
    assert [float(row["value"]) for row in rows][-1] == 1.0


def test_agents_with_parts_and_searches_collect_in_workers():
    config = "ppo_muzero_latent_cartpole_hidden.gin"
    files = [f"--gin_file={config}", "--gin_file=background_engine.gin"]
    assert run(train, *files, "--dry_run", "--strict", "--device=cpu", "--gin_param=WINDOW_LENGTH=4") == 0
    files[0] = "--gin_file=muzero_cartpole.gin"
    assert run(train, *files, "--dry_run", "--strict", "--device=cpu") == 0
