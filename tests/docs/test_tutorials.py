"""The pages "adding an algorithm" and "adding an environment" show the very files of their examples, which work."""

import contextlib
import importlib
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from typing import NamedTuple

import gymnasium
import pytest
import torch

from alfish import gin_config
from alfish.algorithms.algorithm import Algorithm
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SHOWN = re.compile(r"<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^PYTHONPATH=(\S+) python (-m alfish\.bin\.train .+)$", re.MULTILINE)


class Tutorial(NamedTuple):
    """A page, the folder of its files, its gin file there, and the return that this promises."""

    page: str
    folder: str
    config: str
    promised: float


TUTORIALS = [
    Tutorial("adding_an_algorithm.md", "examples/algorithm", "reinforce_cartpole.gin", 300.0),
    Tutorial("adding_an_environment.md", "examples/environment", "ppo_catch.gin", 0.95),
]


@pytest.fixture(params=TUTORIALS, ids=lambda tutorial: tutorial.page)
def tutorial(request, monkeypatch):
    monkeypatch.syspath_prepend(DOCS / request.param.folder)
    # Another test may have registered it, and Gymnasium warns of a second time.
    for name in [name for name in gymnasium.registry if name.startswith("Catch")]:
        monkeypatch.delitem(gymnasium.registry, name)
        monkeypatch.delitem(sys.modules, "catch_game", raising=False)
    return request.param


def make_trainer(tutorial, *params, algorithm=None):
    gin_config.parse([str(DOCS / tutorial.folder / tutorial.config)], params)
    experiment = Experiment() if algorithm is None else Experiment(algorithm=algorithm)
    return Trainer(experiment, torch.device("cpu"))


def test_page_shows_the_very_files(tutorial):
    shown = dict(SHOWN.findall((DOCS / tutorial.page).read_text()))
    files = [path for path in (DOCS / tutorial.folder).rglob("*.*") if path.suffix in (".py", ".gin")]
    assert set(shown) == {str(path.relative_to(DOCS)) for path in files if path.name != "__init__.py"}
    for path, text in shown.items():
        assert text == (DOCS / path).read_text()


def test_command_of_the_page_works(tutorial):
    commands = COMMAND.findall((DOCS / tutorial.page).read_text())
    assert commands, "the page shows no command"
    path, flags = commands[0]
    command = [sys.executable, *shlex.split(flags), "--dry_run", "--strict", "--device=cpu"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / path), str(ROOT)])}
    run = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "dry run: everything was built and run" in run.stdout


def test_example_trains_and_evaluates(tutorial):
    with contextlib.closing(make_trainer(tutorial, "TOTAL_ENV_STEPS=3000", "Evaluator.episodes=3")) as trainer:
        before = [parameter.detach().clone() for parameter in trainer.built.algorithm.parameters()]
        evaluation = trainer.train()
    assert trainer.progress.iteration >= 2
    assert trainer.progress.updates >= 2 * trainer.progress.iteration
    assert evaluation.returns.shape == (3,)
    after = list(trainer.built.algorithm.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.learn
@pytest.mark.parametrize("seed", range(3))
def test_example_reaches_the_return_that_it_promises(tutorial, seed):
    with contextlib.closing(make_trainer(tutorial, f"Trainer.seed={seed}")) as trainer:
        assert trainer.train().mean >= tutorial.promised


HOOKS = ["predict_step", "rollout_step", "preprocess_experience", "train_step", "calc_loss"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("tutorial", TUTORIALS[:1], indirect=True, ids=lambda tutorial: tutorial.page)
def test_a_missing_hook_is_named(tutorial, hook):
    written = importlib.import_module("my_package.reinforce").ReinforceAlgorithm
    lacking = type("Lacking", (written,), {hook: getattr(Algorithm, hook)})
    with (
        pytest.raises(NotImplementedError, match=rf"Lacking must define {hook}\("),
        contextlib.closing(make_trainer(tutorial, "TOTAL_ENV_STEPS=10", algorithm=lacking)) as trainer,
    ):
        trainer.train()


@pytest.mark.parametrize("tutorial", TUTORIALS[:1], indirect=True, ids=lambda tutorial: tutorial.page)
@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("DISCOUNT=1.5", r"ReinforceAlgorithm\.discount is 1\.5; expected a number in \[0, 1\]"),
        ("make_gymnasium.name='Pendulum-v1'", "is not one discrete choice"),
    ],
)
def test_the_algorithm_of_the_page_checks_its_arguments(tutorial, binding, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tutorial, binding)


def test_program_of_the_overview_runs(tmp_path, capsys):
    (program,) = re.findall(
        r"^<!-- run: .* -->\n```python\n(.*?)^```$", (DOCS / "overview.md").read_text(), re.M | re.S
    )
    path = tmp_path / "program.py"
    path.write_text(program)
    runpy.run_path(str(path))
    assert re.fullmatch(r"return \d+\.\d over 20 episodes\n", capsys.readouterr().out)


def test_index_and_readme_lead_to_every_page():
    pages = {path.relative_to(ROOT) for path in DOCS.rglob("*.md")}
    for start in (DOCS / "index.md", ROOT / "README.md"):
        links = re.findall(r"\]\(([^)#]+)\)", start.read_text())
        linked = {pathlib.Path(os.path.relpath(start.parent / link, ROOT)) for link in links}
        assert pages - linked - {pathlib.Path("docs/index.md")} == set()
