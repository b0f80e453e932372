"""What may search stored rows, and how it is asked."""

import functools

import pytest
import torch
from muzero_histories import History, blocks_of, random_histories
from muzero_parts import OBSERVATION, PlainModel, small_model
from reanalysis_parts import ACTION, GAMMA, MARK, MadeUpSearch, make

from alfish.algorithms.mcts_algorithm import MCTSAlgorithm, SearchInfo
from alfish.algorithms.muzero_algorithm import MuzeroAlgorithm
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.data_structures import Progress, StepType
from alfish.mcts.proposals import ProposalSettings
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.ops.schedules import LinearSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


def test_the_schedules_of_the_search_follow_the_run():
    maker, search, _ = make({"ratio": 1.0})
    maker.after_train_iter(Progress(iteration=3))
    assert search.progress == Progress(iteration=3)


def small_maker(reanalysis, observation_spec=OBSERVATION, action_spec=ACTION, **options):
    model = small_model(observation_spec, action_spec)
    return TargetMaker(
        observation_spec,
        action_spec,
        make_sampled_policy(action_spec),
        2,
        2,
        GAMMA,
        target_model=model,
        reanalysis=reanalysis,
        **options,
    ), model


def wide(blocks):
    """Blocks whose observations are as wide as OBSERVATION."""
    return blocks._replace(rows=blocks.rows._replace(observation=blocks.rows.observation.expand(-1, -1, 4) / 100))


def test_a_tree_search_reanalyses():
    torch.manual_seed(0)
    algorithm = functools.partial(MCTSAlgorithm, num_simulations=8, temperature=LinearSchedule(1.0))
    maker, model = small_maker(Reanalysis(1.0, algorithm), value_target="search")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    blocks = wide(blocks_of(maker, [History([F, M, L], [0, 1, 2], [1, 1, 0])], 1, GAMMA))
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)
    # The visits of 8 simulations, and the value that goes with them: not what is stored.
    shares = targets.policy[0, 0, :2] * 8
    torch.testing.assert_close(shares, shares.round())
    torch.testing.assert_close(targets.policy[0, 0, :2].sum(-1), torch.ones(2))
    assert targets.value[0, 0, :2].all()
    assert targets.value[0, 0, 2] == 0
    assert not targets.policy.requires_grad


def test_sampled_actions_are_reanalysed_with_their_candidates():
    torch.manual_seed(0)
    box = BoundedTensorSpec((2,), torch.float32, -2, 2)
    model = PlainModel(MARK, box)
    model.action_policy = make_sampled_policy(box)
    model.logits = torch.zeros(model.action_policy.num_parameters)

    def make_box(num_candidates):
        algorithm = functools.partial(
            MCTSAlgorithm, num_simulations=6, proposals=ProposalSettings(num_candidates=num_candidates)
        )
        return TargetMaker(
            MARK, box, model.action_policy, 1, 1, GAMMA, target_model=model, reanalysis=Reanalysis(1.0, algorithm)
        )

    maker = make_box(5)
    blocks = blocks_of(maker, [History([F, M, L], [0, 1, 2], [1, 1, 1])], 1, GAMMA)
    length = blocks.rows.reward.shape[1]
    rows = blocks.rows._replace(prev_action=torch.zeros(3, length, 2))
    stored = SearchInfo(torch.full((3, length, 5), 0.2), blocks.search.value, torch.full((3, length, 5, 2), 9.0))
    targets = maker(rows, stored, blocks.info)[1]
    assert targets.candidates.shape == (3, 1, 2, 5, 2)
    assert (targets.candidates.abs() <= 2).all()
    with pytest.raises(ValueError, match=r"policy of the shape \(4,\).* stored is one of \(5,\).*num_candidates"):
        make_box(4)(rows, stored, blocks.info)
    with pytest.raises(ValueError, match="what reanalysis finds, beside what is stored"):
        make_box(5)(rows, stored._replace(candidates=()), blocks.info)


def test_the_algorithm_that_acts_over_latents_reanalyses():
    torch.manual_seed(0)
    maker, model = small_maker(Reanalysis(1.0, None), value_target="search", train_policy=False)
    blocks = wide(blocks_of(maker, [History([F, M, L], [0, 1, 2], [1, 1, 1])], 1, GAMMA))
    with pytest.raises(ValueError, match="Reanalysis.algorithm is None, and no algorithm acts over latents"):
        maker(blocks.rows, blocks.search, blocks.info)
    acting = PPOAlgorithm(TensorSpec(model.latent_shape), ACTION)
    maker.use_acting_algorithm(acting)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)
    with torch.no_grad():
        _, by_hand = acting.policy.network(model.encode(blocks.rows.observation[0, :3]))
    torch.testing.assert_close(targets.value[0, 0], by_hand)
    assert acting.training  # as it was
    # PPO has no policy to learn from.
    maker, _ = small_maker(Reanalysis(1.0, None))
    maker.use_acting_algorithm(acting)
    blocks = wide(blocks_of(maker, [History([F, M, L], [0, 1, 2], [1, 1, 1])], 1, GAMMA))
    with pytest.raises(ValueError, match="PPOAlgorithm, which reanalyses, gives a PolicyInfo without a policy"):
        maker(blocks.rows, blocks.search, blocks.info)


def test_an_acting_algorithm_is_not_taken_in_place_of_another():
    maker, search, _ = make({"ratio": 1.0})
    maker.use_acting_algorithm(MadeUpSearch(MARK, ACTION))
    blocks = blocks_of(maker, random_histories(seed=1), 1, GAMMA)
    maker(blocks.rows, blocks.search, blocks.info)
    assert search.marks


class WithState(MadeUpSearch):
    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 1)


class WithParameters(MadeUpSearch):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.critic = torch.nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            functools.partial(MCTSAlgorithm, num_simulations=4, reuse_trees=True),
            r"MCTSAlgorithm with reuse_trees.* reanalysis/MCTSAlgorithm\.reuse_trees = False",
        ),
        (
            functools.partial(MCTSAlgorithm, num_simulations=4, greedy_after_moves=5),
            r"with greedy_after_moves.* reanalysis/MCTSAlgorithm\.greedy_after_moves = None",
        ),
        (WithState, "WithState with a recurrent state"),
        (
            MuzeroAlgorithm,
            r"^Reanalysis\.algorithm is MuzeroAlgorithm, which does not take both specs, a model and a disc",
        ),
        (
            PPOAlgorithm,
            r"is PPOAlgorithm, which .* argument 'model'\); expected one that .* such as @MCTSAlgorithm, or",
        ),
        (lambda *_, **__: 3, r"^Reanalysis\.algorithm makes a int; expected one that searches a model, such as @MCTS"),
        (WithParameters, "WithParameters with parameters of its own, critic.weight among them"),
    ],
)
def test_algorithms_that_cannot_search_any_rows_are_refused(algorithm, message):
    with pytest.raises(ValueError, match=message):
        make({"ratio": 0.5, "algorithm": algorithm})


def test_an_acting_algorithm_that_cannot_search_any_rows_is_refused():
    maker, _, _ = make({"ratio": 0.5, "algorithm": None})
    with pytest.raises(ValueError, match="WithState with a recurrent state"):
        maker.use_acting_algorithm(WithState(MARK, ACTION))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": -0.1}, "Reanalysis.ratio is -0.1"),
        ({"ratio": 1.01}, "Reanalysis.ratio is 1.01"),
        ({"ratio": float("nan")}, "Reanalysis.ratio is nan"),
        ({"ratio": 0.5, "td_steps": 0}, "Reanalysis.td_steps is 0; it must be at least 1, or -1 for Monte-Carlo"),
        ({"ratio": 0.5, "batch_size": 0}, "Reanalysis.batch_size is 0"),
        ({"ratio": 0.5, "algorithm": MadeUpSearch(MARK, ACTION)}, "a MadeUpSearch that is already built"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Reanalysis(**options)


def test_a_search_is_not_made_where_nothing_is_reanalysed():
    maker, search, _ = make({"ratio": 0.0})
    assert search is None
    assert maker.rows_needed().future_observations == 4
