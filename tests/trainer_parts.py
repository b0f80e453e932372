"""What tests of whole trainers share: settings of a short run, closing them, and comparing all that they hold."""

import gin
import torch

from alfish import nest
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.replay_batches import ReplayBatches

_OPEN = []


def bind_short_run(replay, settings):
    """Binds the settings of a run of two environments, from a replay or on-policy, and others beside or instead."""
    gin.clear_config()
    settings = {
        "Updater.optimizer": torch.optim.Adam,
        "Updater.learning_rate": 0.01,
        "ReplayBuffer.capacity": 60,
        "ReplayBatches.batch_size": 4,
        "ReplayBatches.updates_per_env_step": 0.5,
        "OnPolicyBatches.mini_batch_size": 4,
        "OnPolicyBatches.num_epochs": 2,
        "Trainer.batch_source": ReplayBatches if replay else OnPolicyBatches,
        "Trainer.num_envs": 2,
        "Trainer.window_length": 4,
        "Trainer.summary_interval": 20,
        "Trainer.checkpoint_interval": 40,
    } | settings
    for name, value in settings.items():
        gin.bind_parameter(name, value)


def closed_after_test(trainer):
    """The trainer, which is closed when the test is over."""
    _OPEN.append(trainer)
    return trainer


def close_trainers():
    """Called by `conftest.py` after each test."""
    while _OPEN:
        _OPEN.pop().close()


def everything(trainer):
    """Names and values of all that a checkpoint of the trainer would hold."""
    components = {name: part.state_dict() for name, part in trainer._components().items() if name != "summaries"}
    return nest.leaves_with_paths(components)


def assert_same(first, second):
    """Asserts that two trainers hold the same, bit for bit."""
    for (path, leaf), (_, found) in zip(everything(first), everything(second), strict=True):
        same = torch.equal(leaf, found) if isinstance(leaf, torch.Tensor) else leaf == found
        assert same, path
