"""The gin example of docs/recurrent.md makes a run that learns from sequences."""

import pathlib
import re

import torch
from trainer_parts import closed_after_test

from alfish import gin_config
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "recurrent.md"
SHORT = ["TOTAL_ENV_STEPS = 512", "NUM_EPOCHS = 1", "Trainer.evaluation_interval = None", "Evaluator.episodes = 1"]


def test_the_example_learns(tmp_path):
    (config,) = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.gin").write_text(config)
    gin_config.parse([str(tmp_path / "example.gin")], SHORT)
    trainer = closed_after_test(Trainer(Experiment(), torch.device("cpu")))
    gin_config.report_unused(strict=True)
    example = trainer.runners[0].batch_source.example()
    assert example.inputs.reward.shape == (4, 16) and example.state.hidden.shape == (4, 64)
    trainer.train()
    # 8 environments and windows of 32 rows: 16 sequences, four in a mini-batch.
    assert trainer.progress.updates == trainer.progress.iteration * 4 >= 8
