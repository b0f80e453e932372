"""What is wrong with an algorithm that a user wrote is said when it is made."""

import functools

import pytest
import torch
from muzero_parts import small_model
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.algorithms.agent import Agent
from alfish.algorithms.making import make_algorithm
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.algorithms.muzero_representation_learner import MuzeroRepresentationLearner
from alfish.trainers.experiment import Experiment

SPECS = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec


class WithoutSuper(TinyAlgorithm):
    def __init__(self, observation_spec, action_spec):
        self.layer = torch.nn.Linear(3, 1)


class WithSuperOfModuleOnly(TinyAlgorithm):
    def __init__(self, observation_spec, action_spec):
        torch.nn.Module.__init__(self)


class WithoutSpecs(TinyAlgorithm):
    def __init__(self):
        pass


class NoAlgorithm(torch.nn.Module):
    def __init__(self, observation_spec, action_spec):
        super().__init__()


class Misspelling(TinyAlgorithm):
    def __init__(self, observation_spec, action_spec):
        super().__init__(observation_spec, action_spec)
        self.size = observation_spec.shpe


MISTAKES = [
    (
        WithoutSuper,
        r"is WithoutSuper, whose __init__ does not begin with super\(\).__init__\(observation_spec, action_spec",
    ),
    (WithSuperOfModuleOnly, r"is WithSuperOfModuleOnly, whose __init__ does not begin with super\(\).__init__\(obs"),
    (WithoutSpecs, r"is WithoutSpecs, which does not take both specs \(.*\); define __init__\(self, observation_spec"),
    (NoAlgorithm, r"makes a NoAlgorithm; expected an Algorithm: derive its class from"),
]


@pytest.mark.parametrize(("kind", "cause"), MISTAKES)
def test_mistakes_are_named(kind, cause):
    environments = []

    def make_environment(num_envs):
        environments.append(ScriptedEnvironment(num_envs))
        return environments[-1]

    with pytest.raises(ValueError, match=rf"^Experiment.algorithm {cause}"):
        Experiment(make_environment, kind).build(2, torch.device("cpu"))
    assert [environment.closed for environment in environments] == [True]


def test_of_an_agent_too():
    settings = {"num_unroll_steps": 1, "td_steps": 1, "discount": 0.9, "train_policy": False, "model": small_model}
    implementation = functools.partial(MuzeroRepresentationImpl, **settings)
    learner = functools.partial(MuzeroRepresentationLearner, representation=implementation)
    with pytest.raises(ValueError, match="^Agent.algorithm makes a NoAlgorithm; expected an Algorithm"):
        Agent(*SPECS, learner, NoAlgorithm)


def test_other_errors_pass():
    with pytest.raises(AttributeError, match="shpe"):
        make_algorithm("Experiment.algorithm", Misspelling, *SPECS)


@pytest.mark.parametrize(
    "factory", [TinyAlgorithm, functools.partial(TinyAlgorithm, future=2), lambda **specs: TinyAlgorithm(**specs)]
)
def test_factories_of_all_kinds(factory):
    assert isinstance(make_algorithm("Experiment.algorithm", factory, *SPECS), TinyAlgorithm)
