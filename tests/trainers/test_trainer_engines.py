"""What the trainer makes of an engine that collects elsewhere: what it builds, counts, reports and refuses."""

import csv
import functools

import gin
import pytest
import torch
from evaluation_parts import make_experiment
from support import ScriptedEnvironment, TinyAlgorithm
from trainer_parts import closed_after_test, everything

from alfish import gin_config
from alfish.rollout.background_engine import BackgroundEngine
from alfish.rollout.multi_process_engine import MultiProcessEngine
from alfish.rollout.same_process_engine import SameProcessEngine
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.evaluator import Evaluator
from alfish.trainers.experiment import ConfiguredExperiment, Experiment
from alfish.trainers.trainer import Trainer

CPU = torch.device("cpu")
CONFIG = """
import alfish.trainers.on_policy_batches
import alfish.trainers.replay_batches
Updater.optimizer = @torch.optim.Adam
Updater.learning_rate = 0.05
ReplayBuffer.capacity = 120
ReplayBatches.batch_size = 4
ReplayBatches.updates_per_env_step = 0.5
ReplayBatches.initial_env_steps = 10
OnPolicyBatches.mini_batch_size = 4
OnPolicyBatches.num_epochs = 2
Evaluator.episodes = 3
Trainer.batch_source = @ReplayBatches
Trainer.num_envs = 4
Trainer.window_length = 3
Trainer.total_env_steps = 200
Trainer.summary_interval = 30
Trainer.evaluation_interval = 90
Trainer.checkpoint_interval = 40
"""
ENGINES = {
    "background": functools.partial(BackgroundEngine, max_staleness=0),
    "background_ahead": functools.partial(BackgroundEngine, max_staleness=2),
    "processes": functools.partial(MultiProcessEngine, num_workers=2, max_staleness=1),
}


def make_trainer(folder, engine, experiment=make_experiment, config=()):
    gin.clear_config()
    gin.parse_config([CONFIG, *config])
    trainer = Trainer(experiment(), CPU, seed=3, engine=engine, make_experiment=experiment)
    closed_after_test(trainer)
    trainer.open(folder, Summaries([CsvWriter(folder / "metrics.csv")]))
    return trainer


def metrics(folder, name):
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == name]


def test_a_synchronous_engine_learns_what_the_same_process_learns(tmp_path):
    states = []
    for name, engine in (("here", SameProcessEngine), ("there", ENGINES["background"])):
        trainer = make_trainer(tmp_path / name, engine)
        trainer.train()
        states.append([pair for pair in everything(trainer) if not pair[0].startswith("engine")])
    for (path, leaf), (_, found) in zip(*states, strict=True):
        assert torch.equal(leaf, found) if isinstance(leaf, torch.Tensor) else leaf == found, path
    here, there = ((tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("here", "there"))
    assert here == [line for line in there if ",engine/" not in line]


def test_staleness_and_restarts_are_reported(tmp_path):
    config = ["Trainer.batch_source = @OnPolicyBatches", "Trainer.summary_interval = 1"]
    trainer = make_trainer(tmp_path, ENGINES["background_ahead"], config=config)
    trainer.train()
    # 3 mini-batches in each of 2 epochs; window k has the weights of two iterations before, or those of the start.
    assert metrics(tmp_path, "engine/staleness")[:5] == [0, 6, 12, 12, 12]
    assert max(metrics(tmp_path, "engine/staleness_max")) == 12
    assert set(metrics(tmp_path, "engine/restarts")) == {0}


def test_the_learner_makes_one_environment_for_the_specs_and_closes_it(tmp_path):
    made = []

    def make_environment(num_envs):
        made.append(ScriptedEnvironment(num_envs))
        return made[-1]

    parts = {"environment": make_environment, "algorithm": TinyAlgorithm, "evaluation_environment": ScriptedEnvironment}
    trainer = make_trainer(tmp_path, ENGINES["processes"], lambda: Experiment(**parts))
    assert [(environment.num_envs, environment.closed) for environment in made] == [(1, True)]
    assert trainer.num_envs == 4
    gin.bind_parameter("MultiProcessEngine.num_workers", 2)
    gin.bind_parameter("MultiProcessEngine.max_staleness", 0)
    gin.bind_parameter("Trainer.engine", MultiProcessEngine)
    closed_after_test(Trainer(Experiment(**parts), CPU, make_experiment=lambda: None))
    assert [(environment.num_envs, environment.closed) for environment in made[1:]] == [(1, True)]


def test_a_partial_engine_needs_the_configuration_too():
    gin.clear_config()
    gin.parse_config(CONFIG)
    with pytest.raises(
        ValueError, match="MultiProcessEngine makes the experiment anew .* does not bind Experiment.env"
    ):
        Trainer(make_experiment(), CPU, engine=ENGINES["processes"])


def test_a_bad_setting_is_refused_before_any_process_starts(tmp_path):
    with pytest.raises(ValueError, match="num_workers"):
        make_trainer(tmp_path, functools.partial(MultiProcessEngine, num_workers=3, max_staleness=0))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("engine", TinyAlgorithm, "is TinyAlgorithm, which has no method collect; expected an engine, such as @Same"),
        ("engine", 3, "is 3, which has no method collect"),
        ("evaluation", Evaluator, "is Evaluator, which has no method request; expected @SameProcessEvaluation or"),
        ("evaluation", functools.partial(Evaluator), "is Evaluator, which has no method request"),
        ("batch_source", TinyAlgorithm, "is TinyAlgorithm, which has no method batches; expected a source of batches"),
    ],
)
def test_parts_of_another_kind_are_refused(setting, value, message):
    gin.clear_config()
    gin.parse_config(CONFIG)
    with pytest.raises(ValueError, match=f"^Trainer.{setting} {message}"):
        Trainer(make_experiment(), CPU, **{setting: value})


def test_the_experiment_travels_as_configuration():
    gin_config.parse_text("""
        import alfish.algorithms.ppo_algorithm
        import alfish.environments.gymnasium_adapter
        Experiment.environment = @make_gymnasium
        Experiment.algorithm = @PPOAlgorithm
        Experiment.cpu_threads = 1
        make_gymnasium.name = "CartPole-v1"
    """)
    made = ConfiguredExperiment("an engine")
    gin.clear_config()
    built = made().build(2, CPU)
    built.environment.close()
    assert (built.environment.name, type(built.algorithm).__name__) == ("CartPole-v1", "PPOAlgorithm")
    gin.clear_config()
    with pytest.raises(
        ValueError, match="MultiProcessEngine makes the experiment anew .* does not bind Experiment.env"
    ):
        ConfiguredExperiment("MultiProcessEngine")
