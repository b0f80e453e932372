"""MuZero over sampled actions: what is answered, stored and learned."""

import functools
import math

import pytest
import torch
from muzero_parts import OBSERVATION, PlainModel, small_model, small_support

from alfish import nest, specs
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm, SearchInfo
from alfish.algorithms.muzero_algorithm import MuzeroAlgorithm
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.data_structures import BatchInfo, StepType, TimeStep, time_step_spec
from alfish.mcts.proposals import ProposalSettings
from alfish.mcts.search_policies import GumbelPolicy, PuctPolicy
from alfish.models.continuous_mcts_model import ContinuousMCTSModel
from alfish.networks.muzero_vector_networks import VectorDynamics, VectorEncoding, VectorPrediction
from alfish.specs import BoundedTensorSpec, TensorSpec

BOX = BoundedTensorSpec((2,), torch.float32, (-2.0, 0.0), (2.0, 10.0))
SEVERAL = BoundedTensorSpec((2,), torch.int64, 1, (3, 2))
MANY = BoundedTensorSpec((), torch.int64, 5, 204)
B, K = 16, 6


def continuous_model(observation_spec=OBSERVATION, action_spec=BOX):
    return ContinuousMCTSModel(
        observation_spec,
        action_spec,
        encoding_network=functools.partial(VectorEncoding, latent_size=8, hidden_sizes=(16,)),
        dynamics_network=functools.partial(VectorDynamics, hidden_sizes=(16,)),
        prediction_network=functools.partial(VectorPrediction, hidden_sizes=(16,)),
        value_support=small_support(),
        reward_support=small_support(2.0, 9),
    )


def actor(action_spec=BOX, model=None, observation_spec=OBSERVATION, **options):
    if model is None:
        model = continuous_model(action_spec=action_spec)
    settings = {"num_simulations": 8, "proposals": ProposalSettings(K)} | options
    return MCTSAlgorithm(observation_spec, action_spec, model, 0.9, **settings)


def act(hook, action_spec=BOX, observation_spec=OBSERVATION, observation=None):
    rows = specs.zeros(time_step_spec(observation_spec, action_spec), (B,))
    if observation is not None:
        rows = rows._replace(observation=observation)
    with torch.inference_mode():
        return hook(rows, ())


def within(action, spec):
    low, high = spec.bounds()
    return bool(((action >= low) & (action <= high)).all())


@pytest.mark.parametrize("search_policy", [PuctPolicy(), GumbelPolicy()])
@pytest.mark.parametrize("spec", [BOX, SEVERAL])
def test_actions_that_are_not_one_choice_are_stored_as_candidates(spec, search_policy):
    algorithm = actor(spec, search_policy=search_policy)
    for hook in (algorithm.rollout_step, algorithm.predict_step):
        step = act(hook, spec)
        assert step.output.shape == (B, 2)
        assert step.output.dtype == spec.dtype
        assert within(step.output, spec)
        assert step.info.policy.shape == (B, K)
        torch.testing.assert_close(step.info.policy.sum(1), torch.ones(B))
        assert step.info.candidates.shape == (B, K, 2)
        stored = algorithm._actions.to_environment(step.info.candidates)
        assert (stored == step.output.unsqueeze(1)).all(2).any(1).all()


def test_many_choices_are_stored_as_a_policy_over_all_of_them():
    model = PlainModel(logits=(0.0,) * 199 + (9.0,))
    algorithm = actor(MANY, model, TensorSpec((1,)), temperature=0.0)
    step = act(algorithm.rollout_step, MANY, TensorSpec((1,)))
    assert step.output.dtype == torch.int64
    assert within(step.output, MANY)
    assert step.info.candidates == ()
    assert step.info.policy.shape == (B, 200)
    assert ((step.info.policy > 0).sum(1) <= K).all()
    torch.testing.assert_close(step.info.policy.sum(1), torch.ones(B))
    assert (step.output == 204).float().mean() > 0.9


def test_illegal_choices_are_no_candidates():
    spec = {"board": TensorSpec((1,)), "legal": TensorSpec((200,), torch.uint8)}

    class BoardModel(PlainModel):
        def encode(self, observation):
            return observation["board"]

    algorithm = actor(MANY, BoardModel(logits=(0.0,) * 200), spec, legal_mask_key="legal")
    legal = torch.zeros(B, 200, dtype=torch.uint8)
    legal[:, ::50] = 1
    step = act(algorithm.rollout_step, MANY, spec, {"board": torch.zeros(B, 1), "legal": legal})
    assert ((step.output - 5) % 50 == 0).all()
    assert (step.info.policy[legal == 0] == 0).all()


def test_the_root_is_wide_while_collecting_only():
    settings = ProposalSettings(K, root_uniform_fraction=1.0)
    box = BoundedTensorSpec((1,), torch.float32, -1, 1)
    model = continuous_model(action_spec=box)
    with torch.no_grad():
        model._prediction._layers.output.bias[1] = -20.0  # a policy that is sure
    algorithm = actor(box, model, proposals=settings)
    assert act(algorithm.rollout_step, box).info.candidates.abs().max() > 0.9
    assert act(algorithm.predict_step, box).info.candidates.abs().max() < 0.3


def test_trees_are_reused_with_their_candidates():
    algorithm = actor(reuse_trees=True, num_simulations=20)
    rows = specs.zeros(time_step_spec(OBSERVATION, BOX), (B,))
    rows = rows._replace(step_type=torch.full((B,), StepType.MID, dtype=torch.uint8))
    with torch.inference_mode():
        first = algorithm.search(rows, explore=False)
        second = algorithm.search(rows, explore=False)
    every = torch.arange(B)
    child = first.search.tree.children[every, 0, first.action].long()
    expected = first.search.latents.candidates[child, every]
    assert torch.equal(second.search.latents.candidates[0], expected)
    assert (second.search.visits.sum(1) > 20).all()


def test_a_seed_reproduces_the_answers():
    algorithm = actor()
    answers = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        answers.append(act(algorithm.rollout_step))
    nest.map_structure(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), answers[0], answers[1])
    assert not torch.equal(answers[0].output, answers[2].output)


def test_what_does_not_go_together_is_named():
    with pytest.raises(ValueError, match=r"MCTSAlgorithm\.proposals is None, but the actions are"):
        actor(proposals=None)
    with pytest.raises(ValueError, match="replacement is False"):
        actor(proposals=ProposalSettings(4, replacement=False))


def muzero(action_spec=BOX, model=continuous_model, policy=None, **options):
    settings = {"num_unroll_steps": 3, "td_steps": 2, "discount": 0.9} | options
    return MuzeroAlgorithm(
        OBSERVATION,
        action_spec,
        functools.partial(MuzeroRepresentationImpl, model=model, **settings),
        functools.partial(MCTSAlgorithm, **({"num_simulations": 4, "proposals": ProposalSettings(K)} | (policy or {}))),
    )


def block(algorithm, length=6):
    """Random rows `[B, L]` of which each third ends an episode, answered by the algorithm."""
    shape = (B, length)
    is_last = torch.zeros(shape, dtype=torch.bool)
    is_last[:, 2] = True
    spec = algorithm.action_spec
    low, high = (bound.float() for bound in spec.bounds())
    action = (low + (high - low) * torch.rand(*shape, *spec.shape)).to(spec.dtype)
    rows = TimeStep(
        step_type=torch.where(is_last, StepType.LAST, StepType.MID).byte(),
        reward=torch.randn(shape),
        discount=1.0 - is_last.float(),
        observation=torch.randn(*shape, 4),
        prev_action=action,
        env_id=torch.zeros(shape, dtype=torch.int32),
    )
    flat = nest.map_structure(lambda leaf: leaf.flatten(0, 1), rows)
    with torch.no_grad():
        info = algorithm.rollout_step(flat, ()).info
    info = nest.map_structure(lambda leaf: leaf.unflatten(0, shape), info)
    return rows, info, BatchInfo(action, torch.arange(length).expand(shape))


@pytest.mark.parametrize("random_action", [True, False])
@pytest.mark.parametrize("spec", [BOX, SEVERAL])
def test_from_rows_to_the_loss(spec, random_action):
    torch.manual_seed(0)
    algorithm = muzero(
        spec,
        random_action_after_episode_end=random_action,
    )
    rows, info, batch_info = block(algorithm)
    inputs, targets = algorithm.preprocess_experience(rows, info, batch_info)
    assert targets.candidates.shape == (B, 1, 4, K, 2)
    # From row 0: the actions that led to rows 1 and 2, and beyond the end at row 2 the last again, or any.
    expected = algorithm.representation._actions.from_environment(rows.prev_action)
    assert torch.equal(targets.action[:, 0, :2], expected[:, 1:3])
    beyond = algorithm.representation._actions.to_environment(targets.action[:, 0, 2])
    assert within(beyond, spec)
    assert torch.equal(targets.action[:, 0, 2], expected[:, 2]) != random_action
    for k, row in enumerate((0, 1, 2, 2)):
        assert torch.equal(targets.candidates[:, 0, k], info.candidates[:, row])
        assert torch.equal(targets.policy[:, 0, k], info.policy[:, row])
    flat_inputs, flat_targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    flat_inputs = flat_inputs._replace(observation=inputs.observation[:, 0])
    step = algorithm.train_step(flat_inputs, (), flat_targets)
    loss = algorithm.calc_loss(step.info)
    assert loss.loss.isfinite().all()
    # Of a new model: minus the log probability of each candidate, weighed by the policy of the search.
    log_prob = algorithm.representation._actions.log_prob(
        torch.zeros(B, 2, step.info.unrolled.prediction.policy_logits.shape[-1]), info.candidates[:, :2]
    )
    by_hand = -(info.policy[:, :2] * log_prob).sum(-1) * torch.tensor([1.0, 1.0 / 3.0])
    torch.testing.assert_close(loss.extra["loss/policy"], by_hand.sum(1), rtol=1e-4, atol=1e-4)
    loss.loss.mean().backward()
    assert algorithm.representation.model._prediction._layers.output.weight.grad.abs().sum() > 0


def test_choices_are_trained_as_ever():
    algorithm = muzero(MANY, small_model)
    rows, info, batch_info = block(algorithm)
    _, targets = algorithm.preprocess_experience(rows, info, batch_info)
    assert targets.candidates == ()
    assert targets.policy.shape == (B, 1, 4, 200)
    assert isinstance(info, SearchInfo)


def test_a_loop_of_search_and_training_finds_the_best_action():
    # One step to go: the reward is the closeness of the first number to 1.2, learned from what was tried.
    torch.manual_seed(0)
    box = BoundedTensorSpec((1,), torch.float32, -2, 2)
    proposals = ProposalSettings(8, root_uniform_fraction=0.5, prior="drawn")
    policy = {"num_simulations": 12, "search_policy": GumbelPolicy(), "proposals": proposals}
    algorithm = muzero(box, policy=policy, num_unroll_steps=1, td_steps=1)
    optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.005)
    rows = specs.zeros(time_step_spec(OBSERVATION, box), (64,))
    rows = rows._replace(step_type=torch.full((64,), StepType.FIRST, dtype=torch.uint8))
    for _ in range(150):
        with torch.no_grad():
            answer = algorithm.rollout_step(rows, ())
        reward = 1.0 - (answer.output[:, 0] - 1.2).abs()
        pair = nest.map_structure(lambda leaf: torch.stack((leaf, leaf, leaf), dim=1), (rows, answer.info))
        is_last = torch.tensor([False, True, True])
        block_rows = pair[0]._replace(
            step_type=torch.where(is_last, StepType.LAST, StepType.FIRST).byte().expand(64, -1),
            reward=torch.stack((torch.zeros(64), reward, torch.zeros(64)), dim=1),
            discount=(~is_last).float().expand(64, -1),
            prev_action=answer.output.unsqueeze(1).expand(-1, 3, -1),
        )
        info = BatchInfo(block_rows.prev_action, torch.arange(3).expand(64, -1))
        inputs, targets = algorithm.preprocess_experience(block_rows, pair[1], info)
        inputs, targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
        loss = algorithm.calc_loss(algorithm.train_step(inputs, (), targets).info).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = algorithm.predict_step(rows, ()).output[:, 0]
    assert found.median().item() == pytest.approx(1.2, abs=0.4)
    assert math.isfinite(loss.item())
