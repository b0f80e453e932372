"""The pages "adding an algorithm" and "adding an environment" show the very files of their examples, which work."""

import contextlib
import importlib
import math
import os
import pathlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

import gymnasium
import pytest
import torch

from alfish import gin_config, nest, specs
from alfish.algorithms.algorithm import Algorithm
from alfish.data_structures import BatchInfo, time_step_spec
from alfish.specs import BoundedTensorSpec, TensorSpec
from alfish.trainers.experiment import Experiment
from alfish.trainers.on_policy_batches import OnPolicyBatches
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
    Tutorial("adding_an_algorithm.md", "examples/algorithm", "awr_cartpole.gin", 300.0),
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
    configs = {str(path.relative_to(ROOT)) for path in (DOCS / tutorial.folder).glob("*.gin")}
    assert {config for _, flags in commands for config in configs if config in flags} == configs
    for path, flags in dict.fromkeys((path, flags.removesuffix(" --dry_run")) for path, flags in commands):
        run = dry_run(flags, ROOT / path)
        assert run.returncode == 0, run.stderr
        assert "dry run: everything was built and run" in run.stdout


def dry_run(flags, folder):
    """Runs `python FLAGS --dry_run` with the modules of a folder."""
    command = [sys.executable, *shlex.split(flags), "--dry_run", "--strict", "--device=cpu"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


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
ALGORITHM = pytest.mark.parametrize("tutorial", TUTORIALS[:1], indirect=True, ids=lambda tutorial: tutorial.page)


def regression():
    """The module of the algorithm that the page writes."""
    return importlib.import_module("my_package.regression")


@pytest.mark.parametrize("hook", HOOKS)
@ALGORITHM
def test_a_missing_hook_is_named(tutorial, hook):
    lacking = type("Lacking", (regression().AdvantageWeightedRegression,), {hook: getattr(Algorithm, hook)})
    with pytest.raises(ValueError, match=rf"Lacking does not define {hook}; "):
        make_trainer(tutorial, algorithm=lacking)


@ALGORITHM
def test_the_error_that_the_page_shows_for_a_misspelt_hook(tutorial, tmp_path):
    shutil.copytree(DOCS / tutorial.folder / "my_package", tmp_path / "my_package")
    module = tmp_path / "my_package" / "regression.py"
    module.write_text(module.read_text().replace("def calc_loss", "def calculate_loss"))
    run = dry_run(f"-m alfish.bin.train --gin_file={DOCS / tutorial.folder / tutorial.config}", tmp_path)
    assert run.returncode == 1
    (shown,) = re.findall(r"^(error: .*(?:\n.+)*)\n```$", (DOCS / tutorial.page).read_text(), re.MULTILINE)
    assert run.stderr.splitlines()[-1] == shown.replace("\n", " ")


OBSERVATION, ACTION = TensorSpec((1,)), BoundedTensorSpec((), torch.int64, 0, 1)


class ObservedValue(torch.nn.Module):
    """The observation is the value, and each of two parameters."""

    def __init__(self, observation_spec, num_parameters):
        super().__init__()

    def forward(self, features):
        return features.expand(*features.shape[:-1], 2), features[..., 0]


def make_regression(action_spec=ACTION, **arguments):
    given = {"network": ObservedValue, "discount": 0.5, "return_lambda": 1.0, "temperature": 1.0}
    return regression().AdvantageWeightedRegression(OBSERVATION, action_spec, **(given | arguments))


@ALGORITHM
def test_the_targets_of_the_page_by_hand(tutorial):
    algorithm = make_regression(max_weight=2.0)
    # An episode that terminates in row 2, and the next one; the values are 1, 1, 7, 1, 4.
    rows = specs.zeros(time_step_spec(OBSERVATION, ACTION), (1, 5))._replace(
        step_type=torch.tensor([[0, 1, 2, 0, 1]], dtype=torch.uint8),
        reward=torch.tensor([[0.0, 1.0, 2.0, 0.0, 1.0]]),
        discount=torch.tensor([[1.0, 1.0, 0.0, 1.0, 1.0]]),
        observation=torch.tensor([[[1.0], [1.0], [7.0], [1.0], [4.0]]]),
    )
    taken = torch.tensor([[0, 1, 1, 0, 1]])
    inputs, targets = algorithm.preprocess_experience(rows, taken, BatchInfo(taken, torch.arange(5)[None]))
    assert targets.returns.tolist() == [[1.0 + 0.5 * 2.0, 2.0, 7.0, 1.0 + 0.5 * 4.0]]
    # Advantages 1, 1, (none), 2: mean 4/3, unbiased standard deviation 1/sqrt(3).
    expected = torch.tensor([-1.0, -1.0, 2.0]).div(math.sqrt(3.0)).exp().clamp_max(2.0)
    torch.testing.assert_close(targets.weight[0, [0, 1, 3]], expected)
    assert targets.action.tolist() == [[0, 1, 1, 0]]
    assert targets.is_known.tolist() == [[True, True, False, True]]
    assert inputs.reward.shape == (1, 4)


@ALGORITHM
def test_nothing_is_learned_behind_the_newest_row(tutorial):
    algorithm = make_regression(discount=1.0, return_lambda=0.95)
    # Rows 1 to 5 of an episode that goes on; row 5, with a reward of 10, is the newest and so repeated.
    rows = specs.zeros(time_step_spec(OBSERVATION, ACTION), (1, 6))._replace(
        step_type=torch.ones(1, 6, dtype=torch.uint8),
        reward=torch.tensor([[0.0, 0.0, 0.0, 0.0, 10.0, 10.0]]),
        discount=torch.ones(1, 6),
    )
    taken = torch.zeros(1, 6, dtype=torch.int64)
    position = torch.tensor([[1, 2, 3, 4, 5, 5]])
    inputs, targets = algorithm.preprocess_experience(rows, taken, BatchInfo(taken, position))
    torch.testing.assert_close(targets.returns[:, :4], torch.tensor([[10 * 0.95**3, 10 * 0.95**2, 10 * 0.95, 10.0]]))
    assert targets.is_known.tolist() == [[True, True, True, True, False]]
    flat, flat_targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    loss = algorithm.calc_loss(algorithm.train_step(flat, (), flat_targets).info).loss
    assert loss[4] == 0.0 and (loss[:4] > 0.0).all()


@ALGORITHM
def test_the_probability_that_counts_is_that_of_what_was_drawn(tutorial):
    box = BoundedTensorSpec((1,), torch.float32, -0.01, 0.01)
    algorithm = make_regression(box)
    rows = specs.zeros(time_step_spec(OBSERVATION, box), (1, 5))
    step = algorithm.rollout_step(nest.map_structure(lambda leaf: leaf[0], rows), ())
    assert (step.output.abs() <= 0.01).all() and (step.info.abs() > 0.01).any()
    taken, drawn = step.output[None], step.info[None]
    inputs, targets = algorithm.preprocess_experience(rows, drawn, BatchInfo(taken, torch.arange(5)[None]))
    info = algorithm.train_step(inputs, (), targets).info
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(drawn[:, :4, 0])  # of two parameters of zero
    torch.testing.assert_close(info.log_prob, expected)


@ALGORITHM
def test_a_fresh_window_is_refused(tutorial):
    sizes = ["OnPolicyBatches.mini_batch_size=8", "OnPolicyBatches.num_epochs=1"]
    with pytest.raises(ValueError, match="AdvantageWeightedRegression learns from blocks of a replay"):
        make_trainer(tutorial, f"Trainer.batch_source=@{OnPolicyBatches.__name__}", *sizes)


@ALGORITHM
@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("DISCOUNT=1.5", r"AdvantageWeightedRegression\.discount is 1\.5; expected a number in \[0, 1\]"),
        ("TEMPERATURE=0.0", r"AdvantageWeightedRegression\.temperature is 0\.0; expected a finite number of at least"),
    ],
)
def test_the_algorithm_of_the_page_checks_its_arguments(tutorial, binding, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(tutorial, binding)


@ALGORITHM
@pytest.mark.parametrize(
    ("config", "binding"),
    [
        ("awr_cartpole.gin", "make_gymnasium.name='Pendulum-v1'"),  # boxes
        ("awr_cartpole_memory.gin", "RecurrentEncoder.cell='lstm'"),
    ],
)
def test_the_algorithm_of_the_page_takes_boxes_and_memories(tutorial, config, binding):
    small = ["TOTAL_ENV_STEPS=640", "ReplayBatches.initial_env_steps=128", "Evaluator.episodes=1", binding]
    with contextlib.closing(make_trainer(tutorial._replace(config=config), *small)) as trainer:
        before = [parameter.detach().clone() for parameter in trainer.built.algorithm.parameters()]
        trainer.train()
        assert trainer.progress.updates >= 60
        after = list(trainer.built.algorithm.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not any(torch.equal(old, new) for old, new in zip(before, after, strict=True))


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
