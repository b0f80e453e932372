"""A small representation under an algorithm, and a trainer of both."""

import functools

import gin
import torch
from muzero_parts import small_model
from support import ScriptedEnvironment

from alfish.algorithms.agent import Agent
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.algorithms.muzero_representation_learner import (
    MuzeroRepresentationLearner,
    MuzeroRepresentationTrainingOptions,
)
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

OBSERVATION, ACTION = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec

SHORT_RUN = """
import alfish.trainers.replay_batches
Updater.optimizer = @torch.optim.Adam
Updater.learning_rate = 0.01
ReplayBuffer.capacity = 80
ReplayBatches.batch_size = 6
ReplayBatches.updates_per_env_step = 0.25
ReplayBatches.initial_env_steps = 20
Evaluator.episodes = 1
Trainer.num_envs = 2
Trainer.window_length = 4
Trainer.total_env_steps = 60
Trainer.summary_interval = 10
Trainer.evaluation_interval = None
Trainer.checkpoint_interval = 20
"""

CONFIG = f"""
import alfish.trainers.on_policy_batches
{SHORT_RUN}
OnPolicyBatches.mini_batch_size = 4
OnPolicyBatches.num_epochs = 2
ReplayBatches.segment_length = 2
Trainer.batch_source = @OnPolicyBatches
MuzeroRepresentationTrainingOptions.batch_source = @representation/ReplayBatches
MuzeroRepresentationTrainingOptions.updater = @representation/Updater
representation/Updater.learning_rate = 0.02
"""


def make_learner(observation_spec=OBSERVATION, action_spec=ACTION, trained=False, **options):
    """A MuzeroRepresentationLearner of a small model without a policy."""
    settings = {"num_unroll_steps": 3, "td_steps": 2, "discount": 0.9, "train_policy": False, "model": small_model}
    impl = functools.partial(MuzeroRepresentationImpl, **(settings | options))
    training = MuzeroRepresentationTrainingOptions() if trained else None
    return MuzeroRepresentationLearner(observation_spec, action_spec, impl, training)


def make_agent(observation_spec=OBSERVATION, action_spec=ACTION, algorithm=PPOAlgorithm, **options):
    """An Agent of `make_learner` and an algorithm."""
    return Agent(observation_spec, action_spec, functools.partial(make_learner, **options), algorithm)


def make_trainer(root_dir=None, bindings=(), algorithm=PPOAlgorithm, trained=True, transform=None, **options):
    """A trainer of an Agent; opened in a folder if one is given. To be closed."""
    gin.clear_config()
    gin.parse_config([CONFIG, *bindings])
    agent = functools.partial(make_agent, algorithm=algorithm, trained=trained, **options)
    transforms = {} if transform is None else {"observation_transform": transform}
    experiment = Experiment(environment=ScriptedEnvironment, algorithm=agent, **transforms)
    trainer = Trainer(experiment, torch.device("cpu"), seed=1)
    if root_dir is not None:
        trainer.open(root_dir, Summaries([CsvWriter(root_dir / "metrics.csv")]))
    return trainer
