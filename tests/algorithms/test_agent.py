"""A representation under an algorithm: what each sees, stores and is trained by."""

import functools

import agent_parts
import engine_parts
import gin
import pytest
import torch
from agent_parts import ACTION, OBSERVATION, make_agent, make_learner
from support import ScriptedEnvironment, TinyAlgorithm
from trainer_parts import closed_after_test

from alfish import nest, specs
from alfish.algorithms.agent import Agent, AgentState
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.algorithms.stochastic_policy import PolicyInfo
from alfish.data_structures import AlgStep, BatchInfo, Progress, RowsNeeded, time_step_spec
from alfish.networks.preprocessing import FrameStack, ObservationTransform
from alfish.ops.target_updates import TargetUpdate
from alfish.specs import BoundedTensorSpec

CPU = torch.device("cpu")


def make_trainer(*arguments, **options):
    return closed_after_test(agent_parts.make_trainer(*arguments, **options))


def collect(agent, length=6):
    environment = ScriptedEnvironment(2)
    transform = ObservationTransform(environment.observation_spec)
    return engine_parts.collect(engine_parts.same_process_engine(environment, agent, transform, length))


def parameters(module):
    return torch.cat([parameter.detach().flatten().clone() for parameter in module.parameters()])


class Looking(TinyAlgorithm):
    """Notes what it sees, and says how it wants to be trained."""

    on_policy = True
    needs_replay = True
    burn_in = 2
    trains_on_last_rows = True
    acting_phase = "look"
    gives_priorities = True

    def predict_step(self, time_step, state):
        self.seen = time_step.observation
        return super().predict_step(time_step, state)

    def check_experience(self, row_specs):
        self.checked = row_specs


class Counting(TinyAlgorithm):
    """Its state counts the rows of an episode; so does its info."""

    def initial_state(self, batch_size):
        return torch.zeros(batch_size)

    def rollout_step(self, time_step, state):
        return AlgStep(torch.zeros_like(time_step.prev_action), state + 1, state + 1)


def test_a_representation_that_is_no_learner_is_refused():
    with pytest.raises(ValueError, match="^Agent.representation makes a TinyAlgorithm; expected"):
        Agent(OBSERVATION, ACTION, TinyAlgorithm, TinyAlgorithm)


def test_an_agent_in_an_agent_is_refused():
    with pytest.raises(ValueError, match="Agent.algorithm makes another Agent; there is one representation only. Bind"):
        make_agent(algorithm=make_agent)


def test_the_algorithm_sees_latents_and_says_what_it_needs():
    agent = make_agent(algorithm=Looking)
    assert agent.algorithm.observation_spec == agent.representation.latent_spec
    assert (agent.on_policy, agent.trains_on_last_rows, agent.acting_phase) == (True, True, "look")
    assert agent.gives_priorities and agent.needs_replay and agent.burn_in == 2
    assert agent.rows_needed() == RowsNeeded(future=1)
    time_step = specs.zeros(time_step_spec(OBSERVATION, ACTION), (4,))._replace(observation=torch.randn(4, 3))
    agent.predict_step(time_step, ())
    assert torch.equal(agent.algorithm.seen, agent.representation.predict_step(time_step, ()).output)
    agent.check_experience("specs")
    assert agent.algorithm.checked == "specs"


def test_what_is_stored_are_rows_as_collected_and_the_info_of_the_algorithm():
    window = collect(make_agent())
    assert window.time_step.observation.shape == (7, 2, 3)
    assert window.time_step.observation[:, 0, 2].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert isinstance(window.rollout_info, PolicyInfo)
    assert nest.leaves(window.state) == []


def test_targets_are_those_of_the_algorithm_on_latents():
    agent = make_agent()
    window = nest.map_structure(lambda leaf: leaf.transpose(0, 1), collect(agent))
    info = BatchInfo(window.action, torch.arange(6).expand(2, 6))
    inputs, targets = agent.preprocess_experience(window.time_step, window.rollout_info, info)
    encode = agent.representation.impl.model.encode
    latents = torch.stack([encode(row) for row in window.time_step.observation]).detach()
    expected = agent.algorithm.preprocess_experience(
        window.time_step._replace(observation=latents), window.rollout_info, info
    )
    for (path, leaf), found in zip(nest.leaves_with_paths(expected), nest.leaves((inputs, targets)), strict=True):
        torch.testing.assert_close(found, leaf, msg=path)
    assert not inputs.observation.requires_grad
    step = agent.train_step(*nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, (), targets)))
    # Nothing has been learned since the rollout: the latents, and so the probabilities, are those it acted by.
    torch.testing.assert_close(step.info.log_prob, targets.log_prob.flatten())
    agent.calc_loss(step.info).loss.mean().backward()
    assert all(parameter.grad is None for parameter in agent.representation.parameters())
    assert any(parameter.grad is not None for parameter in agent.algorithm.parameters())


def test_fewer_observations_than_rows_are_encoded_as_many_as_there_are():
    agent = make_agent(algorithm=Looking)
    window = nest.map_structure(lambda leaf: leaf.transpose(0, 1), collect(agent))
    root_inputs = window.time_step._replace(observation=window.time_step.observation[:, :6])
    inputs, _ = agent.preprocess_experience(root_inputs, window.rollout_info, BatchInfo((), torch.arange(7)))
    assert inputs.observation.shape == (2, 6, 8)


def test_recurrent_states_of_both_are_carried_and_begin_with_episodes():
    agent = make_agent(algorithm=Counting)
    window = collect(agent)
    # Episodes of 3 and 4 steps: rows 4 and 5 begin the next ones.
    assert window.rollout_info[:, 0].tolist() == [1, 2, 3, 4, 1, 2]
    assert window.rollout_info[:, 1].tolist() == [1, 2, 3, 4, 5, 1]
    assert isinstance(window.state, AgentState)
    assert window.state.algorithm[:, 0].tolist() == [0, 1, 2, 3, 0, 1]


def test_hooks_after_updates_are_the_algorithms():
    agent = make_agent(algorithm=TinyAlgorithm, target_update=TargetUpdate())
    impl = agent.representation.impl
    target = parameters(impl._target_model)
    with torch.no_grad():
        for parameter in impl.model.parameters():
            parameter.add_(1.0)
    agent.after_update(Progress(updates=3))
    agent.after_train_iter(Progress(iteration=2))
    assert agent.algorithm.updates_seen == [3]
    assert agent.algorithm.iterations_seen == [2]
    assert torch.equal(parameters(impl._target_model), target)


def test_the_representation_is_trained_by_its_own_task_and_the_algorithm_by_its_own(tmp_path):
    trainer = make_trainer(tmp_path, ["representation/ReplayBatches.initial_env_steps = 40"])
    main, own = trainer.runners
    agent = trainer.built.algorithm
    assert (main.algorithm, own.algorithm) == (agent, agent.representation.impl)
    before = parameters(agent.representation), parameters(agent.algorithm)
    trainer.train(stop_at_env_steps=20)  # no update of the representation is due yet
    assert torch.equal(parameters(agent.representation), before[0])
    assert not torch.equal(parameters(agent.algorithm), before[1])
    trainer.train()
    assert not torch.equal(parameters(agent.representation), before[0])
    assert own.progress(trainer.progress).updates == int((trainer.progress.env_steps - 40) * 0.25)
    names = {line.split(",")[3] for line in (tmp_path / "metrics.csv").read_text().splitlines()}
    assert {"representation/loss", "representation/loss/value", "policy_loss", "explained_variance"} <= names


def test_a_frozen_representation_stays_as_it_is():
    trainer = make_trainer(trained=False)
    agent = trainer.built.algorithm
    before = parameters(agent.representation)
    trainer.train()
    assert len(trainer.runners) == 1
    assert torch.equal(parameters(agent.representation), before)


TARGETS = {
    "bootstrapped": {},
    "target network": {"target_update": TargetUpdate(period=3)},
    "mixed": {"target_update": TargetUpdate(period=3), "reanalysis": Reanalysis(0.5, algorithm=None)},
    "full": {"target_update": TargetUpdate(period=3), "reanalysis": Reanalysis(1.0, algorithm=None, full=True)},
}


@pytest.mark.parametrize("targets", TARGETS)
def test_a_resumed_run_is_the_run_that_was_not_stopped(tmp_path, targets):
    options = {
        "transform": functools.partial(FrameStack, num_frames=2),
        "bindings": ["MuzeroRepresentationTrainingOptions.interval = 2"],
        **TARGETS[targets],
    }
    whole = make_trainer(tmp_path / "whole", **options)
    whole.train()
    make_trainer(tmp_path / "parts", **options).train(stop_at_env_steps=40)
    torch.manual_seed(99)  # a new process has other random numbers
    second = make_trainer(tmp_path / "parts", **options)
    assert 0 < second.progress.env_steps < 60
    second.train()
    assert torch.equal(parameters(whole.built.algorithm), parameters(second.built.algorithm))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_the_acting_algorithm_searches_for_reanalysis():
    trainer = make_trainer(**TARGETS["full"])
    agent = trainer.built.algorithm
    seen = []
    rollout_step = PPOAlgorithm.rollout_step

    def looked(time_step, state):
        seen.append(time_step.observation.shape[1:])
        return rollout_step(agent.algorithm, time_step, state)

    agent.algorithm.rollout_step = looked
    trainer.runners[1].batch_source.example()
    assert seen == [(8,)]  # one call for all rows, of latents


def test_a_policy_cannot_be_learned_from_an_algorithm_that_stores_none():
    with pytest.raises(ValueError, match=r"PolicyInfo without a policy.*train_policy = False"):
        make_trainer(train_policy=True)


MASKED = {"board": OBSERVATION, "legal": BoundedTensorSpec((2,), torch.int8, 0, 1)}


def masked_rows(outer):
    """Rows in which action 1 alone is legal."""
    rows = specs.zeros(time_step_spec(MASKED, ACTION), outer)
    rows.observation["legal"][..., 1] = 1
    return rows


def make_masked(**options):
    algorithm = functools.partial(PPOAlgorithm, legal_mask_key="legal")
    learner = functools.partial(make_learner, **options)
    return Agent(MASKED, ACTION, learner, algorithm, legal_mask_key="legal")


def test_a_mask_reaches_the_algorithm_beside_the_latent():
    agent = make_masked()
    assert agent.algorithm.observation_spec == {"latent": agent.representation.latent_spec, "legal": MASKED["legal"]}
    step = agent.rollout_step(masked_rows((16,)), ())
    assert step.output.tolist() == [1] * 16
    action, info = nest.map_structure(lambda leaf: leaf.unflatten(0, (4, 4)), (step.output, step.info))
    inputs, targets = agent.preprocess_experience(masked_rows((4, 5)), info, BatchInfo(action, torch.zeros(4, 4)))
    assert inputs.observation["latent"].shape == (4, 4, 8)
    trained = agent.train_step(*nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, (), targets)))
    assert trained.info.entropy.tolist() == pytest.approx([0.0] * 16)


def test_a_mask_reaches_the_acting_algorithm_that_reanalyses():
    gin.parse_config(agent_parts.CONFIG)
    agent = make_masked(reanalysis=Reanalysis(1.0, None), target_update=TargetUpdate(period=10), trained=True)
    reanalyzer = agent.representation.impl._target_maker._reanalyzer
    rows = masked_rows((2, 3))
    place = (torch.tensor([0, 1]), torch.tensor([2, 0]))
    found = reanalyzer._search_chunk(reanalyzer._algorithm, rows, place)
    expected = agent.rollout_step(nest.map_structure(lambda leaf: leaf[place], rows), ()).info.value
    torch.testing.assert_close(found.value, expected)


def test_an_algorithm_that_lacks_the_agents_mask_is_told_of_it():
    algorithm = functools.partial(PPOAlgorithm, legal_mask_key="legal")
    with pytest.raises(ValueError, match="PPOAlgorithm.legal_mask_key is 'legal'; .* Agent.legal_mask_key = 'legal'"):
        Agent(MASKED, ACTION, make_learner, algorithm)


@pytest.mark.parametrize("target_kl", [None, 1.0e-12])
def test_its_algorithm_may_stop_early(target_kl):
    trainer = make_trainer(algorithm=functools.partial(PPOAlgorithm, target_kl=target_kl))
    main = trainer.runners[0]
    trainer._collect()
    main.update(trainer.progress, False, lambda: False)
    # Eight rows in mini-batches of four, twice. The first update leads away from the policy that collected.
    assert main.progress(trainer.progress).updates == (4 if target_kl is None else 2)


@pytest.mark.parametrize("key", ["moves", "latent"])
def test_a_mask_that_is_not_there_is_refused(key):
    observation = MASKED | {"latent": MASKED["legal"]}
    with pytest.raises(ValueError, match=f"Agent.legal_mask_key is '{key}'; expected a key of the observation"):
        Agent(observation, ACTION, make_learner, PPOAlgorithm, legal_mask_key=key)


def test_an_agent_is_not_made_in_an_agent():
    with gin.unlock_config():
        gin.parse_config("import alfish.algorithms.agent\nAgent.algorithm = @Agent")
    with pytest.raises(ValueError, match=r"Agent\.algorithm makes another Agent; .* such as @PPOAlgorithm"):
        Agent(OBSERVATION, ACTION, make_learner)
