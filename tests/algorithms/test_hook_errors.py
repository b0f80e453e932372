"""Of which hook an exception is told."""

import pytest
import torch
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.algorithms.dqn_algorithm import DQNAlgorithm
from alfish.algorithms.hook_errors import class_name, hook_that_raised
from alfish.networks.q_network import QNetwork
from alfish.ops.target_updates import TargetUpdate

SPECS = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec


class Outer(TinyAlgorithm):
    """Its acting hook calls that of another one."""

    @torch.no_grad()
    def rollout_step(this, time_step, state):  # noqa: N805  not everybody writes self
        return this.other.train_step(time_step, state, None)

    def helper(self):
        raise ValueError("no hook")


def raised(call, *arguments):
    with pytest.raises(Exception) as caught:  # noqa: PT011  any
        call(*arguments)
    return caught.value


def test_the_innermost_hook_is_told():
    algorithm = Outer(*SPECS)
    algorithm.other = TinyAlgorithm(*SPECS)
    assert hook_that_raised(raised(algorithm.rollout_step, None, ())) == "support.TinyAlgorithm.train_step"
    algorithm.other = None
    assert hook_that_raised(raised(algorithm.rollout_step, None, ())) == f"{class_name(algorithm)}.rollout_step"
    assert class_name(algorithm) == "test_hook_errors.Outer"


def test_what_is_no_hook_or_alfishs_own_is_not():
    assert hook_that_raised(raised(Outer(*SPECS).helper)) == ""
    assert hook_that_raised(ValueError("never raised")) == ""
    own = DQNAlgorithm(
        *SPECS,
        lambda **given: QNetwork(hidden_sizes=(2,), **given),
        discount=0.9,
        epsilon=0.1,
        target_update=TargetUpdate(1.0),
    )
    assert hook_that_raised(raised(own.rollout_step, None, ())) == ""


def test_errors_of_tensors_and_their_methods_are_told_too():
    assert hook_that_raised(raised(torch.ones(21).unflatten, 0, (7, 4))) == ""
    algorithm = Outer(*SPECS)
    algorithm.other = algorithm
    algorithm.train_step = lambda *arguments: torch.ones(6).split([1, 2])
    assert hook_that_raised(raised(algorithm.rollout_step, None, ())) == "test_hook_errors.Outer.rollout_step"
