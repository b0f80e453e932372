import math

import pytest
import torch
from muzero_parts import ACTION, OBSERVATION, PlainModel, small_model

from alfish import specs
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm
from alfish.data_structures import Progress, StepType, time_step_spec
from alfish.mcts.proposals import ProposalSettings
from alfish.mcts.search_policies import GumbelPolicy, PuctPolicy
from alfish.mcts.settings import SearchSettings
from alfish.ops.schedules import StepSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec


def make(model=None, action_spec=ACTION, **options):
    settings = {"num_simulations": 8} | options
    if "noise_fraction" in settings:
        settings["search_policy"] = PuctPolicy(noise_fraction=settings.pop("noise_fraction"))
    return MCTSAlgorithm(OBSERVATION, action_spec, small_model() if model is None else model, 0.9, **settings)


def rows(batch_size, observation_spec=OBSERVATION):
    """The same observation in every row."""
    return specs.zeros(time_step_spec(observation_spec, ACTION), (batch_size,))


def act(hook, batch_size=64, observation_spec=OBSERVATION):
    with torch.inference_mode():
        return hook(rows(batch_size, observation_spec), ())


def prior_actor(logits, **options):
    """Acts by a model whose prior is known, without simulations."""
    spec = BoundedTensorSpec((), torch.int64, 0, len(logits) - 1)
    return make(PlainModel(logits=logits), spec, **({"num_simulations": 0} | options))


def test_what_is_answered_and_stored():
    for hook in (make().rollout_step, make().predict_step):
        step = act(hook, 5)
        assert step.output.shape == (5,)
        assert step.output.dtype == torch.int64
        assert step.info.policy.shape == (5, 2)
        assert step.info.value.shape == (5,)
        torch.testing.assert_close(step.info.policy.sum(dim=1), torch.ones(5))


def test_noise_while_collecting_only():
    algorithm = make()
    assert (act(algorithm.predict_step).info.policy == act(algorithm.predict_step).info.policy).all()
    assert len(act(algorithm.predict_step).info.policy.unique(dim=0)) == 1
    assert len(act(algorithm.rollout_step).info.policy.unique(dim=0)) > 1
    assert len(act(make(noise_fraction=0.0).rollout_step).info.policy.unique(dim=0)) == 1


def test_without_simulations_the_prior_acts():
    algorithm = prior_actor((math.log(3.0), 0.0, -math.inf))
    step = act(algorithm.predict_step, 2, TensorSpec((1,)))
    torch.testing.assert_close(step.info.policy, torch.tensor([[0.75, 0.25, 0.0]]).expand(2, -1))
    assert step.output.tolist() == [0, 0]
    assert step.info.value.tolist() == [0.0, 0.0]


def test_prediction_has_its_own_number_of_simulations():
    # With 4 simulations the policy is in quarters, with none it is the prior of 0.6.
    algorithm = prior_actor((math.log(1.5), 0.0), num_simulations=4, num_evaluation_simulations=0)
    predicted = act(algorithm.predict_step, 1, TensorSpec((1,))).info.policy
    collected = act(algorithm.rollout_step, 1, TensorSpec((1,))).info.policy
    torch.testing.assert_close(predicted, torch.tensor([[0.6, 0.4]]))
    torch.testing.assert_close(4.0 * collected, (4.0 * collected).round())


def shares(algorithm):
    torch.manual_seed(0)
    output = act(algorithm.rollout_step, 4000, TensorSpec((1,))).output
    return [(output == action).float().mean().item() for action in range(2)]


def test_the_temperature_follows_its_schedule():
    # Prior 3 : 1. Temperature 1 acts by it, 1/2 by its square 9 : 1, 0 takes the first.
    schedule = StepSchedule(boundaries=(0.5, 0.75), values=(1.0, 0.5, 0.0))
    algorithm = prior_actor((math.log(3.0), 0.0), noise_fraction=0.0, temperature=schedule)
    assert shares(algorithm) == pytest.approx([0.75, 0.25], abs=0.03)
    algorithm.after_train_iter(Progress(fraction=0.6))
    assert shares(algorithm) == pytest.approx([0.9, 0.1], abs=0.03)
    algorithm.after_train_iter(Progress(fraction=1.0))
    assert shares(algorithm) == [1.0, 0.0]
    algorithm.after_train_iter(Progress(fraction=0.0))  # it follows from the progress alone
    assert shares(algorithm) == pytest.approx([0.75, 0.25], abs=0.03)


def test_prediction_takes_the_best_whatever_the_temperature():
    algorithm = prior_actor((0.0, 0.1), temperature=5.0)
    assert act(algorithm.predict_step, 50, TensorSpec((1,))).output.unique().tolist() == [1]


@pytest.mark.parametrize("start", [5, -3])
def test_actions_that_do_not_start_at_0(start):
    spec = BoundedTensorSpec((), torch.int64, start, start + 2)
    algorithm = make(PlainModel(logits=(0.0, 0.0, 9.0)), spec, num_simulations=3, noise_fraction=0.0, temperature=0.0)
    assert act(algorithm.predict_step, 2, TensorSpec((1,))).output.tolist() == [start + 2] * 2
    assert act(algorithm.rollout_step, 2, TensorSpec((1,))).output.tolist() == [start + 2] * 2


def test_a_search_finds_what_the_prior_does_not_see():
    class OneGoodArm(PlainModel):
        """Action 1 is rewarded; the prior prefers action 0."""

        def step(self, latent, action):
            return super().step(latent, action)._replace(reward_logits=action.float().unsqueeze(1))

    algorithm = make(OneGoodArm(logits=(1.0, 0.0)), num_simulations=30)
    found = act(algorithm.predict_step, 1, TensorSpec((1,)))
    assert found.output.item() == 1
    assert found.info.policy[0, 1] > 0.8
    assert found.info.value.item() > 0.5


def test_it_draws_from_torchs_generator_only():
    algorithm = make()
    answers = []
    for _ in range(2):
        torch.manual_seed(3)
        answers.append(act(algorithm.rollout_step))
    assert torch.equal(answers[0].output, answers[1].output)
    assert torch.equal(answers[0].info.policy, answers[1].info.policy)


def test_from_a_move_on_the_temperature_is_0():
    algorithm = prior_actor((math.log(3.0), 0.0), noise_fraction=0.0, greedy_after_moves=2)
    torch.manual_seed(0)
    step = rows(4000, TensorSpec((1,)))
    second_action = []
    for move in range(4):
        kind = StepType.FIRST if move == 0 else StepType.MID
        step = step._replace(step_type=torch.full_like(step.step_type, kind))
        if move == 3:  # half of the rows begin a new episode
            step.step_type[:2000] = StepType.FIRST
        with torch.inference_mode():
            second_action.append((algorithm.rollout_step(step, ()).output == 1).float())
    assert [share.mean().item() for share in second_action[:3]] == pytest.approx([0.25, 0.25, 0.0], abs=0.03)
    assert second_action[2].sum() == 0
    assert second_action[3][:2000].mean() == pytest.approx(0.25, abs=0.04)
    assert second_action[3][2000:].sum() == 0


@pytest.mark.parametrize("search_policy", [PuctPolicy(), GumbelPolicy()])
def test_illegal_actions_of_the_observation_are_not_taken(search_policy):
    class Masked(PlainModel):
        def encode(self, observation):
            return super().encode(observation["board"])

    observation_spec = {"board": TensorSpec((1,)), "legal": TensorSpec((3,), torch.int8)}
    action_spec = BoundedTensorSpec((), torch.int64, 0, 2)
    algorithm = MCTSAlgorithm(
        observation_spec,
        action_spec,
        Masked(logits=(9.0, 0.0, 0.0)),
        0.9,
        num_simulations=8,
        search_policy=search_policy,
        legal_mask_key="legal",
    )
    step = specs.zeros(time_step_spec(observation_spec, action_spec), (2,))
    step.observation["legal"][:] = torch.tensor([[0, 1, 1], [0, 0, 1]], dtype=torch.int8)
    for hook in (algorithm.predict_step, algorithm.rollout_step):
        with torch.inference_mode():
            found = hook(step, ())
        assert (found.output > 0).all()
        assert found.output[1] == 2
        assert found.info.policy[:, 0].tolist() == [0.0, 0.0]


def test_trees_are_reused_within_an_episode_only():
    algorithm = make(num_simulations=8, reuse_trees=True)
    step = rows(3)
    first = step._replace(step_type=torch.full_like(step.step_type, StepType.FIRST))
    later = step._replace(step_type=torch.full_like(step.step_type, StepType.MID))
    later.step_type[1] = StepType.FIRST
    with torch.inference_mode():
        before = algorithm.search(first, explore=False)
        after = algorithm.search(later, explore=False)
    kept = before.search.visits.gather(1, before.action.unsqueeze(1)).squeeze(1) - 1
    kept[1] = 0
    assert (kept[[0, 2]] > 0).all()
    assert torch.equal(after.search.visits.sum(1), kept.int() + 8)


def test_a_finished_game_without_legal_actions_is_no_error():
    """Rollouts hold LAST rows, whose answer is ignored."""

    class Masked(PlainModel):
        def encode(self, observation):
            return super().encode(observation["board"])

    observation_spec = {"board": TensorSpec((1,)), "legal": TensorSpec((2,), torch.int8)}
    model = Masked(logits=(0.0, 0.0))
    algorithm = MCTSAlgorithm(observation_spec, ACTION, model, 0.9, num_simulations=4, legal_mask_key="legal")
    step = specs.zeros(time_step_spec(observation_spec, ACTION), (1,))
    step.step_type[:] = StepType.LAST
    with torch.inference_mode():
        assert algorithm.rollout_step(step, ()).output.shape == (1,)
        step.step_type[:] = StepType.MID
        with pytest.raises(ValueError, match="row 0 has no legal action"):
            algorithm.rollout_step(step, ())


def test_reused_trees_do_not_grow_for_ever():
    """With one action every node is left after each move."""
    spec = BoundedTensorSpec((), torch.int64, 0, 0)
    algorithm = make(PlainModel(logits=(0.0,)), spec, num_simulations=5, reuse_trees=True, max_retained_nodes=12)
    step = rows(2, TensorSpec((1,)))
    step.step_type[:] = StepType.MID
    with torch.inference_mode():
        sizes = [algorithm.search(step, explore=False).search.tree.visits.shape[1] for _ in range(8)]
    assert max(sizes) <= 12 + 5
    assert sizes[1] > sizes[0]


def test_candidates_of_a_retained_tree_know_no_mask():
    observation_spec = {"board": TensorSpec((1,)), "legal": TensorSpec((2,), torch.int8)}
    with pytest.raises(ValueError, match="reuse_trees is True with proposals and legal_mask_key = 'legal'"):
        MCTSAlgorithm(
            observation_spec,
            ACTION,
            PlainModel(logits=(0.0, 0.0)),
            0.9,
            num_simulations=4,
            legal_mask_key="legal",
            proposals=ProposalSettings(2),
            reuse_trees=True,
        )


@pytest.mark.parametrize("name", ["num_simulations", "num_evaluation_simulations"])
def test_simulations_that_are_not_whole_rounds_are_refused_when_it_is_made(name):
    policy = PuctPolicy(SearchSettings(leaves_per_round=4))
    with pytest.raises(
        ValueError, match=rf"MCTSAlgorithm.{name} is 6; expected a multiple of SearchSettings.leaves_per_round, 4"
    ):
        make(search_policy=policy, **{name: 6})


def test_sequential_halving_has_no_trees_to_reuse():
    with pytest.raises(ValueError, match="reuse_trees is True and search_policy is GumbelPolicy"):
        make(search_policy=GumbelPolicy(), reuse_trees=True)


def test_a_mask_that_the_observation_does_not_have_is_named():
    with pytest.raises(ValueError, match="legal_mask_key is 'legal'; expected a key of the observation"):
        make(legal_mask_key="legal")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_simulations", -1),
        ("num_evaluation_simulations", -2),
        ("greedy_after_moves", -1),
        ("temperature", -1.0),
        ("temperature", math.inf),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=rf"MCTSAlgorithm\.{name} is {value}"):
        make(**{name: value})


@pytest.mark.parametrize("discount", [0.0, 1.1, math.nan])
def test_a_discount_out_of_range_is_refused(discount):
    with pytest.raises(ValueError, match=r"MCTSAlgorithm\.discount is"):
        MCTSAlgorithm(OBSERVATION, ACTION, small_model(), discount, num_simulations=1)
