"""Whole runs with each engine: a run that was stopped and resumed is the run that was not."""

import engine_cases
import gin
import pytest
import torch
from trainer_parts import assert_same, closed_after_test

from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.replay_batches import ReplayBatches
from alfish.trainers.trainer import Trainer

CPU = torch.device("cpu")


def make_trainer(engine, root_dir, batch_source):
    gin.clear_config()
    settings = {
        "Updater.optimizer": torch.optim.Adam,
        "Updater.learning_rate": 0.01,
        "ReplayBuffer.capacity": 120,
        "ReplayBatches.batch_size": 4,
        "ReplayBatches.updates_per_env_step": 0.5,
        "ReplayBatches.initial_env_steps": 10,
        "OnPolicyBatches.mini_batch_size": 4,
        "OnPolicyBatches.num_epochs": 2,
        "Evaluator.episodes": 1,
        "Trainer.num_envs": 4,
        "Trainer.window_length": 4,
        "Trainer.total_env_steps": 160,
        "Trainer.summary_interval": 20,
        "Trainer.evaluation_interval": None,
        "Trainer.checkpoint_interval": 60,
    }
    for name, value in settings.items():
        gin.bind_parameter(name, value)
    trainer = Trainer(
        engine_cases.make_tiny(), CPU, batch_source=batch_source, engine=engine, make_experiment=engine_cases.make_tiny
    )
    closed_after_test(trainer)
    resumed = trainer.open(root_dir, Summaries([CsvWriter(root_dir / "metrics.csv")]))
    return trainer, resumed


RUNS = [(case, ReplayBatches) for case in engine_cases.CASES]
RUNS += [(case, OnPolicyBatches) for case in engine_cases.CASES if case.name in ("background_ahead", "in_turns_ahead")]


@pytest.mark.parametrize(
    ("case", "batch_source"), RUNS, ids=[f"{case.name}-{source.__name__}" for case, source in RUNS]
)
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path, case, batch_source):
    whole, _ = make_trainer(case.make, tmp_path / "whole", batch_source)
    whole.train()
    first, _ = make_trainer(case.make, tmp_path / "parts", batch_source)
    assert first.train(stop_at_env_steps=60) is None
    first.close()
    torch.manual_seed(99)  # a new process has other random numbers
    second, resumed = make_trainer(case.make, tmp_path / "parts", batch_source)
    assert resumed
    second.train()
    assert_same(whole, second)
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_engines_that_wait_for_the_learner_train_alike(tmp_path):
    weights = []
    for case in engine_cases.CASES[:2]:
        trainer, _ = make_trainer(case.make, tmp_path / case.name, ReplayBatches)
        trainer.train()
        weights.append(trainer.built.algorithm.layer.weight)
    assert torch.equal(*weights)
