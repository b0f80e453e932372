"""MuZero through the updater and through the trainer."""

import copy

import gin
import pytest
import torch
from muzero_parts import random_block, small_model, small_muzero, small_support

from alfish import nest, specs
from alfish.data_structures import Progress, StepType, time_step_spec
from alfish.environments.environment import VectorEnvironment
from alfish.trainers.batch_source import TrainBatch
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.experiment import Experiment
from alfish.trainers.replay_batches import ReplayBatches
from alfish.trainers.trainer import Trainer
from alfish.trainers.updater import Updater

GAMMA = 0.9


def make_updater(algorithm):
    return Updater(algorithm, optimizer=torch.optim.Adam, learning_rate=0.01)


def make_batch(algorithm):
    algorithm.train()
    with torch.no_grad():
        inputs, targets = algorithm.preprocess_experience(*random_block(algorithm))
    return TrainBatch(inputs, targets, ())


def losses(seed, num_updates):
    torch.manual_seed(seed)
    algorithm = small_muzero()
    updater, batch = make_updater(algorithm), make_batch(algorithm)
    return [updater.update(batch, Progress()).metrics["loss"].item() for _ in range(num_updates)]


def test_the_loss_falls_on_one_batch():
    found = losses(0, 80)
    # What is left is mostly the entropy of the targets: policies, and two-hot values between two bins.
    assert found[-1] < 0.7 * found[0]
    assert min(found[:40]) > found[-1]


def test_training_is_deterministic():
    assert losses(1, 5) == losses(1, 5)
    assert losses(1, 5) != losses(2, 5)


def test_every_parameter_is_trained():
    algorithm = small_muzero()
    updater, batch = make_updater(algorithm), make_batch(algorithm)
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    for _ in range(3):  # the heads start at zero, and hold back the gradient of what is below them
        updater.update(batch, Progress())
    assert [name for name, parameter in algorithm.named_parameters() if torch.equal(parameter, before[name])] == []


def test_the_model_is_registered_once():
    algorithm = small_muzero()
    names = [name for name, _ in algorithm.named_parameters(remove_duplicate=False)]
    assert len(names) == len(list(algorithm.parameters()))
    assert all(name.startswith("representation.model.") for name in names)
    assert all(name.startswith("representation.model.") for name in algorithm.state_dict())


def answers(algorithm):
    observation = torch.randn(6, 4, generator=torch.Generator().manual_seed(5))
    rows = specs.zeros(time_step_spec(algorithm.observation_spec, algorithm.action_spec), (6,))
    with torch.inference_mode():
        return algorithm.predict_step(rows._replace(observation=observation), ())


def assert_same_answers(first, second):
    nest.map_structure(lambda one, other: torch.testing.assert_close(one, other, rtol=0, atol=0), first, second)


def test_a_checkpoint_brings_the_search_back(tmp_path):
    algorithm = small_muzero()
    updater, batch = make_updater(algorithm), make_batch(algorithm)
    for _ in range(5):
        updater.update(batch, Progress())
    CheckpointStore(tmp_path).save(5, {"algorithm": algorithm, "updater": updater})
    other = small_muzero()
    other_updater = make_updater(other)
    assert CheckpointStore(tmp_path).load({"algorithm": other, "updater": other_updater}) is not None
    assert_same_answers(answers(algorithm), answers(other))
    # The optimiser came along: the next step is the same.
    assert updater.update(batch, Progress()).metrics["loss"] == other_updater.update(batch, Progress()).metrics["loss"]
    assert_same_answers(answers(algorithm), answers(other))


def test_a_copy_searches_its_own_model():
    algorithm = small_muzero()
    other = copy.deepcopy(algorithm)
    before = answers(algorithm)
    updater, batch = make_updater(other), make_batch(other)
    for _ in range(5):
        updater.update(batch, Progress())
    assert_same_answers(before, answers(algorithm))
    assert not torch.equal(before.info.value, answers(other).info.value)


def test_hooks_are_passed_on():
    algorithm = small_muzero(policy={"temperature": lambda fraction: 1.0 - fraction})
    algorithm.after_train_iter(Progress(fraction=0.25))
    assert algorithm._policy._temperature == 0.75
    seen = []
    algorithm.representation.after_train_iter = seen.append
    algorithm.representation.after_update = seen.append
    algorithm.after_train_iter(Progress(iteration=1))
    algorithm.after_update(Progress(iteration=2))
    assert [progress.iteration for progress in seen] == [1, 2]
    assert algorithm.rows_needed().future == 5


class TwoDoors(VectorEnvironment):
    """Two actions: the first opens a door, of which the observation then tells; the second is of no matter.

    Behind the right door is a reward of 1, behind the left one 0.25; then the game ends. The best return is 1, and the
    discounted values are γ, and 1 behind the right door.
    """

    name = "TwoDoors"
    observation_spec = specs.TensorSpec((4,))
    action_spec = specs.BoundedTensorSpec((), torch.int64, 0, 1)
    START, LEFT, RIGHT, END = torch.eye(4)

    def __init__(self, num_envs):
        self.num_envs = num_envs

    def reset(self, seed, out):
        self._row = -1
        self.step(torch.zeros(self.num_envs, dtype=torch.int64), out)

    def step(self, action, out):
        self._row = (self._row + 1) % 3
        out.step_type.fill_((StepType.FIRST, StepType.MID, StepType.LAST)[self._row])
        out.discount.fill_(float(self._row != 2))
        out.reward.zero_()
        out.prev_action.copy_(action if self._row else torch.zeros_like(action))
        out.env_id.copy_(torch.arange(self.num_envs))
        if self._row == 0:
            out.observation.copy_(self.START.expand(self.num_envs, -1))
        elif self._row == 1:
            self._right = action == 1
            out.observation.copy_(torch.where(self._right.unsqueeze(1), self.RIGHT, self.LEFT))
        else:
            out.reward.copy_(torch.where(self._right, 1.0, 0.25))
            out.observation.copy_(self.END.expand(self.num_envs, -1))

    def close(self):
        pass


def bind(**settings):
    settings = {
        "Updater.optimizer": torch.optim.Adam,
        "Updater.learning_rate": 0.01,
        "ReplayBuffer.capacity": 2000,
        "ReplayBatches.batch_size": 32,
        "ReplayBatches.updates_per_env_step": 0.5,
        "ReplayBatches.initial_env_steps": 50,
        "Evaluator.episodes": 4,
        "Trainer.batch_source": ReplayBatches,
        "Trainer.num_envs": 8,
        "Trainer.window_length": 3,
        "Trainer.summary_interval": 1600,
        "Trainer.evaluation_interval": None,
        "Trainer.checkpoint_interval": 1600,
    } | settings
    for name, value in settings.items():
        gin.bind_parameter(name, value)


def make_learner(observation_spec, action_spec):
    supports = {"value_support": small_support(1.0, 11), "reward_support": small_support(1.0, 11)}
    return small_muzero(
        observation_spec,
        action_spec,
        model=lambda *args: small_model(*args, **supports),
        num_unroll_steps=2,
        td_steps=2,
        discount=GAMMA,
        policy={"num_simulations": 8},
    )


def train_two_doors(seed, total_env_steps):
    bind(**{"Trainer.total_env_steps": total_env_steps})
    torch.manual_seed(seed)
    trainer = Trainer(Experiment(TwoDoors, make_learner), torch.device("cpu"), seed=seed)
    evaluation = trainer.train()
    trainer.close()
    return trainer.built.algorithm, evaluation


@pytest.mark.parametrize("seed", [0, 1])
def test_it_solves_two_doors(seed):
    algorithm, evaluation = train_two_doors(seed, 1200)
    assert evaluation.returns.tolist() == [1.0] * 4
    model = algorithm.representation.model.eval()
    with torch.no_grad():
        start = model.encode(TwoDoors.START.expand(2, -1))
        behind = model.step(start, torch.tensor([0, 1]))
        rewarded = model.step(behind.latent, torch.tensor([0, 1]))
        value = model.value_of(model.predict(start).value_logits)[0].item()
        values = model.value_of(model.predict(behind.latent).value_logits)
    # It has learned the game: rewards on the way, values behind the doors. The value before them is of what was
    # played, which at first was the left one as often.
    assert model.reward_of(behind.reward_logits).tolist() == pytest.approx([0.0, 0.0], abs=0.1)
    assert model.reward_of(rewarded.reward_logits).tolist() == pytest.approx([0.25, 1.0], abs=0.15)
    assert values.tolist() == pytest.approx([0.25, 1.0], abs=0.15)
    assert GAMMA * (0.25 + 1.0) / 2 - 0.05 < value < GAMMA + 0.05


def test_learning_is_deterministic():
    states = [train_two_doors(3, 200)[0].state_dict() for _ in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    # Updates were made: the heads start at zero.
    assert all(states[0][name].any() for name in states[0])
