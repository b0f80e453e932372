"""An algorithm with a part that is trained apart, and a trainer of it."""

import gin
import torch
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.algorithms.algorithm import TrainingOptions, TrainingTask
from alfish.data_structures import LossInfo
from alfish.summary.csv_writer import CsvWriter
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

CONFIG = """
import alfish.experience_replayers.prioritized_sampler
import alfish.trainers.on_policy_batches
import alfish.trainers.replay_batches
Updater.optimizer = @torch.optim.Adam
Updater.learning_rate = 0.01
ReplayBuffer.capacity = 60
ReplayBatches.batch_size = 4
ReplayBatches.updates_per_env_step = 0.5
ReplayBatches.initial_env_steps = 10
OnPolicyBatches.mini_batch_size = 4
OnPolicyBatches.num_epochs = 1
PrioritizedSampler.alpha = 0.7
PrioritizedSampler.beta = 0.5
Evaluator.episodes = 1
Trainer.batch_source = @ReplayBatches
Trainer.num_envs = 2
Trainer.window_length = 4
Trainer.total_env_steps = 100
Trainer.summary_interval = 20
Trainer.evaluation_interval = None
Trainer.checkpoint_interval = 40
PartOptions.batch_source = @part/ReplayBatches
PartOptions.updater = @part/Updater
part/Updater.learning_rate = 0.02
part/ReplayBuffer.capacity = 40
part/ReplayBuffer.sampler = @PrioritizedSampler()
part/ReplayBatches.batch_size = 6
part/ReplayBatches.updates_per_env_step = 0.25
part/ReplayBatches.initial_env_steps = 20
"""


@gin.configurable
class PartOptions(TrainingOptions):
    def __init__(self, batch_source=gin.REQUIRED, updater=gin.REQUIRED, interval=1):
        super().__init__(batch_source, updater, interval)


class Prioritising(TinyAlgorithm):
    """Its priorities are its errors; it keeps the latest."""

    gives_priorities = True

    def calc_loss(self, info):
        loss, extra, _ = super().calc_loss(info)
        self.priority = loss.detach().sum(1).sqrt()
        return LossInfo(loss, extra, self.priority)


class WithPart(TinyAlgorithm):
    """Trains `part` apart, by `PartOptions`."""

    part_type = Prioritising
    part_names = ("part",)

    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.part = self.part_type(observation_spec, action_spec)

    def training_tasks(self):
        return [TrainingTask(name, self.part, PartOptions()) for name in self.part_names]


class OnPolicyWithPart(WithPart):
    on_policy = True


def bind(*bindings, on_policy=False):
    """Takes CONFIG; the bindings override it."""
    source = ["Trainer.batch_source = @OnPolicyBatches"] if on_policy else []
    gin.clear_config()
    gin.parse_config([CONFIG, *source, *bindings])


def make_trainer(root_dir=None, algorithm=WithPart, seed=0, drop_replay=False, **parts):
    """A trainer, opened in a folder if one is given. To be closed."""
    experiment = Experiment(environment=ScriptedEnvironment, algorithm=algorithm, **parts)
    trainer = Trainer(experiment, torch.device("cpu"), seed=seed)
    if root_dir is not None:
        trainer.open(root_dir, Summaries([CsvWriter(root_dir / "metrics.csv")]), drop_replay)
    return trainer
