"""A hook that an algorithm forgets is named before anything runs."""

import functools

import pytest
import torch
from muzero_parts import small_model
from support import ScriptedEnvironment, TinyAlgorithm

from alfish.algorithms.agent import Agent
from alfish.algorithms.algorithm import Algorithm, TrainingOptions, TrainingTask
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.algorithms.muzero_representation_learner import MuzeroRepresentationLearner
from alfish.trainers.experiment import Experiment
from alfish.trainers.hooks import check_hooks
from alfish.trainers.trainer import Trainer

SPECS = ScriptedEnvironment.observation_spec, ScriptedEnvironment.action_spec
HOOKS = ("rollout_step", "predict_step", "preprocess_experience", "train_step", "calc_loss")


def without(*hooks, **others):
    """TinyAlgorithm's class, some hooks undone."""
    return type("Forgetful", (TinyAlgorithm,), {hook: getattr(Algorithm, hook) for hook in hooks} | others)


def make_agent(algorithm):
    settings = {"num_unroll_steps": 1, "td_steps": 1, "discount": 0.9, "train_policy": False, "model": small_model}
    learner = functools.partial(
        MuzeroRepresentationLearner,
        representation=functools.partial(MuzeroRepresentationImpl, **settings),
    )
    return Agent(*SPECS, learner, algorithm)


@pytest.mark.parametrize("hook", HOOKS)
def test_each_hook_is_missed(hook):
    with pytest.raises(ValueError, match=rf"Forgetful does not define {hook}; an algorithm that is run defines"):
        check_hooks(without(hook)(*SPECS))


def test_all_that_are_missing_are_named():
    with pytest.raises(ValueError, match="does not define rollout_step, calc_loss;"):
        check_hooks(without("rollout_step", "calc_loss")(*SPECS))


def test_a_slip_of_the_pen_is_found():
    with pytest.raises(ValueError, match=r"calc_loss \(did you mean one of them by calculate_loss\?\)"):
        check_hooks(without("calc_loss", calculate_loss=lambda self, info: None)(*SPECS))


def test_what_defines_them_passes_however_it_does():
    check_hooks(TinyAlgorithm(*SPECS))
    algorithm = without("calc_loss")(*SPECS)
    algorithm.calc_loss = lambda info: None
    check_hooks(algorithm)
    check_hooks(make_agent(algorithm=TinyAlgorithm))


def test_a_part_need_not_act():
    class WithPart(TinyAlgorithm):
        def training_tasks(self):
            return [TrainingTask("part", self.part, TrainingOptions(None, None))]

    algorithm = WithPart(*SPECS)
    algorithm.part = without("rollout_step", "predict_step")(*SPECS)
    check_hooks(algorithm)
    algorithm.part = without("train_step")(*SPECS)
    with pytest.raises(ValueError, match=r"train_step; an algorithm that is trained defines preprocess_experience, "):
        check_hooks(algorithm)


def test_an_agents_algorithm_is_meant():
    with pytest.raises(ValueError, match="Forgetful does not define train_step"):
        check_hooks(make_agent(algorithm=without("train_step")))


def test_a_trainer_refuses_before_anything_runs():
    made = []

    def make_environment(num_envs):
        made.append(ScriptedEnvironment(num_envs))
        return made[-1]

    trainer = functools.partial(Trainer, batch_source=None, num_envs=2, window_length=2, total_env_steps=10)
    trainer = functools.partial(trainer, summary_interval=1, evaluation_interval=None, checkpoint_interval=1)
    with pytest.raises(ValueError, match="does not define rollout_step, predict_step;"):
        trainer(Experiment(make_environment, without("rollout_step", "predict_step")), torch.device("cpu"))
    assert [environment.resets for environment in made] == [[]]
    assert made[0].closed
