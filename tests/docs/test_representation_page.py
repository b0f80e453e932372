"""The gin examples of docs/algorithms/representation_learner.md make runs that learn."""

import pathlib
import re

import pytest
import torch

from alfish import gin_config
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer
from alfish.trainers.weight_files import save_weights

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "algorithms" / "representation_learner.md"
CONFIG, REANALYSIS, WEIGHTS = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SHORT = ["TOTAL_ENV_STEPS = 120", "WINDOW_LENGTH = 5", "NUM_EPOCHS = 1", "Trainer.evaluation_interval = None"]
SHORT += ["representation/ReplayBatches.initial_env_steps = 60", "representation/ReplayBatches.batch_size = 8"]


def make_trainer(folder, *texts):
    files = [folder / f"{number}.gin" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    gin_config.parse([str(file) for file in files], [*SHORT, "Evaluator.episodes = 1"])
    return Trainer(Experiment(), torch.device("cpu"))


def parameters(module):
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.mark.parametrize("more", [(), (REANALYSIS,)], ids=["bootstrapped", "reanalysed"])
def test_the_representation_learns_beside_the_algorithm(tmp_path, more):
    trainer = make_trainer(tmp_path, CONFIG, *more)
    gin_config.report_unused(strict=True)
    before = parameters(trainer.built.algorithm.representation)
    trainer.train()
    main, part = (runner.progress(trainer.progress).updates for runner in trainer.runners)
    assert main >= 3
    assert part == int((trainer.progress.env_steps - 60) * 0.1)
    assert not torch.equal(parameters(trainer.built.algorithm.representation), before)
    trainer.close()


def test_the_representation_of_another_run_is_frozen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = make_trainer(tmp_path, CONFIG)
    learned = other.built.algorithm.representation.impl
    save_weights(tmp_path / "runs/muzero/best/weights.pt", torch.nn.ModuleDict({"representation": learned}))
    other.close()
    trainer = make_trainer(tmp_path, CONFIG, WEIGHTS)
    trainer.train()
    assert torch.equal(parameters(trainer.built.algorithm.representation), parameters(learned))
    trainer.close()
