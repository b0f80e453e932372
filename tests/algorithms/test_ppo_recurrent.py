"""PPO with a memory."""

import functools

import gin
import pytest
import torch
from agent_parts import make_trainer as make_agent_trainer
from memory_environment import MemoryEnvironment
from trainer_parts import assert_same, closed_after_test

from alfish import nest, specs
from alfish.algorithms.agent import AgentState
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.data_structures import BatchInfo, time_step_spec
from alfish.networks.encoders import MLPEncoder
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.on_policy_batches import OnPolicyBatches
from alfish.trainers.trainer import Trainer

CPU = torch.device("cpu")
RECURRENT = functools.partial(RecurrentEncoder, state_size=8)


def make_trainer(encoder, root_dir=None, algorithm=PPOAlgorithm, **settings):
    gin.clear_config()
    settings = {
        "Updater.optimizer": torch.optim.Adam,
        "Updater.learning_rate": 0.02,
        "OnPolicyBatches.mini_batch_size": 80,
        "OnPolicyBatches.num_epochs": 4,
        "Evaluator.episodes": 64,
        "Trainer.batch_source": OnPolicyBatches,
        "Trainer.num_envs": 16,
        "Trainer.window_length": 20,
        "Trainer.total_env_steps": 4800,
        "Trainer.summary_interval": 1000,
        "Trainer.evaluation_interval": None,
        "Trainer.checkpoint_interval": 10**6,
    } | settings
    for name, value in settings.items():
        gin.bind_parameter(name, value)
    algorithm = functools.partial(algorithm, discount=0.9, encoder=encoder, entropy_weight=0.01)
    trainer = closed_after_test(Trainer(Experiment(environment=MemoryEnvironment, algorithm=algorithm), CPU, seed=1))
    if root_dir is not None:
        trainer.open(root_dir, Summaries([]))
    return trainer


@pytest.mark.parametrize(("cell", "sequence_length"), [("gru", None), ("lstm", 5)])
def test_it_learns_what_needs_a_memory(cell, sequence_length):
    encoder = functools.partial(RECURRENT, cell=cell)
    trainer = make_trainer(encoder, **{"OnPolicyBatches.sequence_length": sequence_length})
    assert trainer.train().mean > 0.95


def test_without_a_memory_it_does_not():
    assert make_trainer(functools.partial(MLPEncoder, hidden_sizes=(8,))).train().mean < 0.75


def first_batches(trainer, num_windows=2):
    """The batches of the last of some windows, before anything has been learned."""
    source = trainer.runners[0].batch_source
    for _ in range(num_windows):
        source.add(trainer._engine.collect({}).experience)
        batches = list(source.batches(trainer.progress))
    return batches


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_sequences_repeat_the_rollout(cell):
    trainer = make_trainer(functools.partial(RECURRENT, cell=cell), **{"OnPolicyBatches.sequence_length": 5})
    algorithm, states = trainer.built.algorithm, []
    for batch in first_batches(trainer):
        info = algorithm.train_step(batch.inputs, batch.state, batch.rollout_info).info
        torch.testing.assert_close(info.log_prob, batch.rollout_info.log_prob)
        torch.testing.assert_close(info.value, batch.rollout_info.value)
        states.append(batch.state.hidden)
    # Sequences of five rows begin within the episodes of four, with a memory of what came before, or with a new one.
    begins = (torch.cat(states) == 0).all(dim=-1)
    assert begins.any() and not begins.all()


def test_the_value_behind_the_window_remembers():
    trainer = make_trainer(RECURRENT, **{"Trainer.window_length": 1})
    algorithm = trainer.built.algorithm
    _, before, after = (nest.map_structure(torch.clone, trainer._engine.collect({}).experience) for _ in range(3))
    # Of an episode's rows 1 and 2. The first answered row of the next window is this one's last: its value was computed
    # with the state that led there, and row 0 is in it.
    window = nest.map_structure(lambda leaf: leaf.transpose(0, 1), before)
    state = nest.map_structure(lambda leaf: leaf[:, 0], window.state)
    assert state.hidden.all() and not window.time_step.is_first().any()
    torch.testing.assert_close(algorithm._final_value(window.time_step, state), after.rollout_info.value[0])


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path):
    settings = {"Trainer.total_env_steps": 1200, "Trainer.checkpoint_interval": 600, "Evaluator.episodes": 4}
    whole = make_trainer(RECURRENT, tmp_path / "whole", **settings)
    whole.train()
    make_trainer(RECURRENT, tmp_path / "parts", **settings).train(stop_at_env_steps=600)
    resumed = make_trainer(RECURRENT, tmp_path / "parts", **settings)
    resumed.train()
    assert_same(whole, resumed)


def test_it_remembers_latents_in_an_agent():
    algorithm = functools.partial(PPOAlgorithm, encoder=RECURRENT)
    trainer = closed_after_test(make_agent_trainer(algorithm=algorithm))
    agent = trainer.built.algorithm
    assert isinstance(agent.initial_state(2), AgentState)
    for batch in first_batches(trainer):
        info = agent.train_step(batch.inputs, batch.state, batch.rollout_info).info
        torch.testing.assert_close(info.log_prob, batch.rollout_info.log_prob)
        assert batch.state.algorithm.hidden.shape == (1, 8)
        assert batch.inputs.reward.shape == (1, 4)
    trainer.train()
    assert all(runner.progress(trainer.progress).updates for runner in trainer.runners)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_everything_moves_to_the_device_of_the_algorithm(cell):
    # An operation that mixes the device "meta" with another one raises, as a GPU would, on machines without one.
    observation, action = MemoryEnvironment.observation_spec, MemoryEnvironment.action_spec
    algorithm = PPOAlgorithm(observation, action, encoder=functools.partial(RECURRENT, cell=cell)).to("meta")
    row_spec = time_step_spec(observation, action)
    state = nest.map_structure(lambda leaf: leaf.to("meta"), algorithm.initial_state(2))
    step = algorithm.rollout_step(specs.zeros(row_spec, (2,), "meta"), state)
    assert {leaf.device.type for leaf in nest.leaves(step)} == {"meta"}
    answers, info = nest.map_structure(lambda leaf: torch.stack([leaf] * 4, dim=1), (step.output, step.info))
    rows = specs.zeros(row_spec, (2, 5), "meta")
    inputs, targets = algorithm.preprocess_experience(rows, info, BatchInfo(answers, rows.step_type, state=state))
    result = algorithm.calc_loss(algorithm.train_step(inputs, state, targets).info)
    assert result.loss.shape == (2, 4) and result.loss.device.type == "meta"
    result.loss.mean().backward()
