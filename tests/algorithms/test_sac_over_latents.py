"""SAC over a representation: it acts on latents, and its values are what the representation learns from."""

import functools

import agent_parts
import pytest
import torch
from agent_parts import ACTION, OBSERVATION
from trainer_parts import closed_after_test

from alfish import specs
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.sac_algorithm import SACAlgorithm, SACInfo
from alfish.data_structures import BatchInfo, StepType, time_step_spec
from alfish.networks.actor import ActorNetwork
from alfish.networks.critics import CriticsNetwork
from alfish.ops.reward_transforms import SignReward
from alfish.ops.target_updates import TargetUpdate

SAC = functools.partial(
    SACAlgorithm,
    actor=functools.partial(ActorNetwork, hidden_sizes=(8,)),
    critics=functools.partial(CriticsNetwork, hidden_sizes=(8,)),
    target_update=TargetUpdate(tau=0.1),
)
BINDINGS = ["Trainer.batch_source = @ReplayBatches", "representation/ReplayBatches.initial_env_steps = 20"]
TARGETS = {
    "stored": {},
    "target network": {"target_update": TargetUpdate(tau=0.1)},
    "reanalysed": {"target_update": TargetUpdate(tau=0.1), "reanalysis": Reanalysis(1.0, algorithm=None, full=True)},
}


def make_trainer(root_dir=None, algorithm=SAC, **options):
    return closed_after_test(agent_parts.make_trainer(root_dir, BINDINGS, algorithm=algorithm, **options))


def parameters(module):
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


@pytest.mark.parametrize("targets", TARGETS)
def test_both_learn_from_what_sac_collects(targets, tmp_path):
    trainer = make_trainer(tmp_path, **TARGETS[targets])
    agent = trainer.built.algorithm
    before = {name: parameters(part) for name, part in agent.named_children()}
    trainer.train()
    for name, part in agent.named_children():
        assert not torch.equal(parameters(part), before[name]), name
        assert parameters(part).isfinite().all()
    names = {line.split(",")[3] for line in (tmp_path / "metrics.csv").read_text().splitlines()}
    assert {"critic_loss", "temperature", "representation/loss/value", "representation/loss/reward"} <= names


def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path):
    options = TARGETS["reanalysed"]
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    make_trainer(tmp_path / "parts", **options).train(stop_at_env_steps=40)
    torch.manual_seed(99)  # a new process has other random numbers
    second = make_trainer(tmp_path / "parts", **options)
    second.train()
    assert torch.equal(parameters(whole.built.algorithm), parameters(second.built.algorithm))


@pytest.mark.parametrize("targets", ["stored", "reanalysed"])
def test_values_and_rewards_of_different_scales_are_refused(targets):
    with pytest.raises(ValueError, match="reward_transform is .* values of SACAlgorithm, which are among its targets"):
        make_trainer(reward_transform=SignReward(), **TARGETS[targets])


def test_transformed_rewards_with_values_of_the_target_network():
    make_trainer(reward_transform=SignReward(), **TARGETS["target network"])


def test_reanalysed_values_are_those_of_the_critics_over_the_target_latents():
    """With one action that is certain and no entropy term, the values are known."""
    trainer = make_trainer(
        algorithm=functools.partial(SAC, initial_temperature=1.0e-30),
        num_unroll_steps=2,
        td_steps=1,
        value_target="search",
        target_update=TargetUpdate(tau=0.1),
        reanalysis=Reanalysis(1.0, algorithm=None),
    )
    agent = trainer.built.algorithm
    sac, impl = agent.algorithm, agent.representation.impl
    with torch.no_grad():
        sac.actor.policy.output.weight.zero_()
        sac.actor.policy.output.bias.copy_(torch.tensor([200.0, 0.0]))
        for parameter in impl._target_model.parameters():
            parameter.add_(0.1)
    num_rows = 1 + impl.rows_needed().future
    rows = specs.zeros(time_step_spec(OBSERVATION, ACTION), (3, num_rows))._replace(
        step_type=torch.full((3, num_rows), StepType.MID, dtype=torch.uint8),
        discount=torch.ones(3, num_rows),
        observation=torch.randn(3, num_rows, *OBSERVATION.shape),
    )
    stored = SACInfo(torch.full((3, num_rows), 99.0))
    position = torch.arange(num_rows).expand(3, -1)
    batch_info = BatchInfo(rows.prev_action, position, age=torch.zeros_like(position))  # as of a replay
    _, targets = impl.preprocess_experience(rows, stored, batch_info)
    with torch.no_grad():
        latent = impl._target_model.encode(rows.observation[:, :3].flatten(0, 1)).unflatten(0, (3, 3))
        # The first action is the certain one.
        expected = sac.critic_side.critics(latent)[..., 0].min(dim=-1).values
    torch.testing.assert_close(targets.value.squeeze(1), expected)
