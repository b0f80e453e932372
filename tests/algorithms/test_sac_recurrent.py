"""SAC with a memory: what is trained sees what acting saw, with the stored state before it."""

import functools

import gin
import pytest
import torch
from agent_parts import SHORT_RUN
from sac_parts import BOX, CHOICE, FIRST, LAST, MID, OBSERVATION, block, loss_of, make_sac, trained
from support import ScriptedEnvironment
from trainer_parts import assert_same, closed_after_test

from alfish import nest, specs
from alfish.algorithms.sac_algorithm import SACAlgorithm
from alfish.data_structures import time_step_spec
from alfish.networks.actor import ActorNetwork
from alfish.networks.critics import CriticsNetwork
from alfish.networks.recurrent_encoder import RecurrentEncoder
from alfish.ops.target_updates import TargetUpdate
from alfish.summary.writers import Summaries
from alfish.trainers.experiment import Experiment
from alfish.trainers.trainer import Trainer

STEP_TYPES = [MID, MID, LAST, FIRST, MID]
KINDS = {"box": BOX, "choice": CHOICE}


def make_recurrent(kind, cell="gru"):
    encoder = functools.partial(RecurrentEncoder, cell=cell, state_size=6)
    return make_sac(KINDS[kind], by_hand=False, encoder=encoder, discount=0.5, initial_temperature=1.0e-30)


def random_block(algorithm, kind):
    state = nest.map_structure(torch.randn_like, algorithm.initial_state(1))
    action = torch.rand(1, 5, 1) if kind == "box" else torch.tensor([[1, 2, 2, 1, 1]])
    return block(STEP_TYPES, torch.randn(1, 5, 2), torch.randn(5).tolist(), action=action, state=state)


def features_row_by_row(encoder, rows, state):
    """The features of each row `[1, T, *]` as while collecting, with states zeroed where episodes begin."""
    found = []
    for t in range(rows.reward.shape[1]):
        if rows.step_type[0, t] == FIRST:
            state = nest.map_structure(torch.zeros_like, state)
        features, state = encoder.step(rows.observation[:, t], state)
        found.append(features)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_training_and_targets_see_what_acting_saw(cell):
    algorithm = make_recurrent("choice", cell)
    with torch.no_grad():
        for parameter in algorithm.target_side.parameters():
            parameter.add_(0.1)
    rows, batch_info = random_block(algorithm, "choice")
    online, target = (
        features_row_by_row(side.encoder, rows, batch_info.state)
        for side in (algorithm.critic_side, algorithm.target_side)
    )
    info = trained(algorithm, rows, batch_info)
    chosen = algorithm.critic_side.critics(online)[0, torch.arange(4), :, batch_info.action[0, :4] - 1]
    torch.testing.assert_close(info.q_taken[0], chosen)
    policy = torch.softmax(algorithm.actor(online), dim=-1)
    value = (policy * algorithm.target_side.critics(target).min(dim=-2).values).sum(-1)
    expected = rows.reward[:, 1:] + 0.5 * value[:, 1:]
    kept = [0, 1, 3]  # row 2 is LAST
    torch.testing.assert_close(info.target[0, kept], expected[0, kept])
    assert info.is_trained.tolist() == [[True, True, False, True]]
    torch.testing.assert_close(info.q_value, (policy * algorithm.critic_side.critics(online).amin(-2)).sum(-1)[:, :4])


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_is_trained_by_the_critics_alone(kind):
    algorithm = make_recurrent(kind)
    rows, batch_info = random_block(algorithm, kind)
    torch.manual_seed(0)
    info = trained(algorithm, rows, batch_info)
    critic = 0.5 * ((info.q_taken - info.target.unsqueeze(-1)).square().sum(-1) * info.is_trained).sum()
    encoder = list(algorithm.critic_side.encoder.parameters())
    expected = torch.autograd.grad(critic, encoder, retain_graph=True)
    found = torch.autograd.grad(algorithm.calc_loss(info).loss.sum(), encoder)
    for own, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(own, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_hands_the_state_on(kind):
    algorithm = make_recurrent(kind)
    row = specs.zeros(time_step_spec(OBSERVATION, KINDS[kind]), (3,))._replace(observation=torch.randn(3, 2))
    state = nest.map_structure(torch.randn_like, algorithm.initial_state(3))
    after = algorithm.critic_side.encoder.step(row.observation, state)[1]
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        assert all(map(torch.equal, nest.leaves(hook(row, state).state), nest.leaves(after)))
    assert loss_of(algorithm, *random_block(algorithm, kind)).loss.shape == (1, 4)


CONFIG = f"""
{SHORT_RUN}
ReplayBatches.segment_length = 4
Trainer.batch_source = @ReplayBatches
"""


def make_trainer(root_dir):
    gin.clear_config()
    gin.parse_config(CONFIG)
    algorithm = functools.partial(
        SACAlgorithm,
        encoder=functools.partial(RecurrentEncoder, state_size=6),
        actor=functools.partial(ActorNetwork, hidden_sizes=(8,)),
        critics=functools.partial(CriticsNetwork, hidden_sizes=(8,)),
        target_update=TargetUpdate(tau=0.1),
    )
    experiment = Experiment(environment=ScriptedEnvironment, algorithm=algorithm)
    trainer = closed_after_test(Trainer(experiment, torch.device("cpu"), seed=1))
    trainer.open(root_dir, Summaries([]))
    return trainer


def test_a_run_with_stored_states_and_its_continuation(tmp_path):
    whole = make_trainer(tmp_path / "whole")
    critics = whole.built.algorithm.critic_side.critics
    before = [parameter.clone() for parameter in critics.parameters()]
    whole.train()
    assert not any(map(torch.equal, critics.parameters(), before))
    make_trainer(tmp_path / "parts").train(stop_at_env_steps=40)
    torch.manual_seed(99)  # a new process has other random numbers
    second = make_trainer(tmp_path / "parts")
    second.train()
    assert_same(whole, second)
