"""Reanalysis: which rows are searched, how often, and what becomes of what is found."""

import collections
import functools

import pytest
import torch
from muzero_histories import (
    NUM_ACTIONS,
    History,
    blocks_of,
    check_against_definition,
    make_blocks,
    random_histories,
    return_of,
)
from muzero_parts import OBSERVATION, PlainModel, small_model

from alfish import nest
from alfish.algorithms import muzero_reanalysis
from alfish.algorithms.algorithm import Algorithm
from alfish.algorithms.mcts_algorithm import MCTSAlgorithm, SearchInfo
from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.algorithms.ppo_algorithm import PPOAlgorithm
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.data_structures import AlgStep, Progress, StepType
from alfish.mcts.proposals import ProposalSettings
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.ops.schedules import LinearSchedule
from alfish.specs import BoundedTensorSpec, TensorSpec

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
MARK = TensorSpec((1,))
ACTION = BoundedTensorSpec((), torch.int64, 0, NUM_ACTIONS - 1)
GAMMA = 0.75


def search_value(mark):
    return -10.0 * mark


def search_policy(mark):
    return torch.stack([mark, mark + 0.5, -mark], dim=-1)


class MadeUpSearch(Algorithm):
    """Finds numbers that follow from a row's mark, and notes which rows it saw, in calls of how many."""

    def __init__(self, observation_spec, action_spec, model=None, discount=None):
        super().__init__(observation_spec, action_spec)
        self.given = (model, discount)
        self.marks, self.sizes, self.rows, self.modes = [], [], [], []
        self.progress = None

    def rollout_step(self, time_step, state):
        mark = time_step.observation[:, 0]
        self.marks += mark.tolist()
        self.sizes.append(len(mark))
        self.rows.append(time_step)
        self.modes.append((self.training, torch.is_inference_mode_enabled()))
        return AlgStep((), state, SearchInfo(search_policy(mark), search_value(mark)))

    def after_train_iter(self, progress):
        self.progress = progress


def make(reanalysis, num_unroll_steps=2, td_steps=2, **options):
    """A TargetMaker, the search that reanalyses, and the target network, whose value of a row is its mark."""
    searches = []

    def algorithm(*arguments, **named):
        searches.append(MadeUpSearch(*arguments, **named))
        return searches[-1]

    model = PlainModel(logits=(0.0,) * NUM_ACTIONS)
    settings = Reanalysis(**({"algorithm": algorithm} | reanalysis))
    actions = make_sampled_policy(ACTION)
    maker = TargetMaker(
        MARK,
        ACTION,
        actions,
        num_unroll_steps,
        td_steps,
        GAMMA,
        target_model=model,
        reanalysis=settings,
        needs_observations=True,
        **options,
    )
    return maker, searches[0] if searches else None, model


def reached(history, first, num_starts, num_unroll_steps):
    """The rows min(p + k, E(p)) of a segment."""
    starts = range(first, first + num_starts)
    return {min(start + k, history.end(start)) for start in starts for k in range(num_unroll_steps + 1)}


def searched_policies(rows):
    """Changes the policies of histories to those that a search finds, where there is one."""
    for history in rows:
        for row in range(len(history)):
            if not history.is_over(row):
                history.policy[row] = search_policy(torch.tensor(history.mark[row])).tolist()


@pytest.mark.parametrize("num_starts", [1, 2, 3])
def test_each_row_that_targets_reach_is_searched_once(num_starts):
    maker, search, _ = make({"ratio": 1.0}, 3)
    blocks = blocks_of(maker, random_histories(seed=1), num_starts, GAMMA)
    maker(blocks.rows, blocks.search, blocks.info)
    expected = collections.Counter(
        history.mark[row]
        for history, first in blocks.starts
        for row in reached(history, first, num_starts, 3)
        if not history.is_over(row)
    )
    assert collections.Counter(search.marks) == expected
    assert search.sizes == [expected.total()]


@pytest.mark.parametrize("num_starts", [1, 3])
def test_full_reanalysis_also_searches_where_returns_end(num_starts):
    maker, search, _ = make({"ratio": 1.0, "full": True, "td_steps": 4}, 2)
    blocks = blocks_of(maker, random_histories(seed=2), num_starts, GAMMA)
    maker(blocks.rows, blocks.search, blocks.info)
    expected = collections.Counter()
    for history, first in blocks.starts:
        rows = reached(history, first, num_starts, 2)
        rows |= {min(row + 4, history.end(row)) for row in rows}
        expected.update(history.mark[row] for row in rows if not history.is_over(row))
    assert collections.Counter(search.marks) == expected


def fresh_value(history, row, first, num_rows):
    """What a return of a reanalysed segment is bootstrapped from: a search of its first rows, else the network."""
    return search_value(history.mark[row]) if row < first + num_rows else history.mark[row]


@pytest.mark.parametrize("num_starts", [1, 3])
@pytest.mark.parametrize("td_steps", [1, 4])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_returns_against_the_definition(num_starts, td_steps, full, batch_size):
    maker, search, _ = make({"ratio": 1.0, "td_steps": td_steps, "full": full, "batch_size": batch_size}, 2, 9)
    rows = random_histories(seed=3)
    blocks = blocks_of(maker, rows, num_starts, GAMMA)
    searched_policies(rows)
    _, targets, report = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        num_rows = 1000 if full else num_starts + 2
        return return_of(history, row, td_steps, GAMMA, lambda at: fresh_value(history, at, first, num_rows))

    check_against_definition(blocks, targets, 2, value_at)
    assert report["target/reanalyzed"].item() == 1.0
    assert report["target/staleness"].item() == 0.0
    assert max(search.sizes) == (batch_size or len(search.marks))


@pytest.mark.parametrize("full", [True, False])
def test_searching_every_row_as_a_gpu_does_changes_nothing(monkeypatch, full):
    width = 3 + 2 + (4 if full else 0)

    def targets_of(num_searched):
        maker, search, _ = make({"ratio": 1.0, "td_steps": 4, "full": full}, 2)
        blocks = blocks_of(maker, random_histories(seed=3), 3, GAMMA)
        targets = maker(blocks.rows, blocks.search, blocks.info)[1]
        assert num_searched is None or len(search.marks) == len(blocks.starts) * num_searched
        acts = ~targets.beyond_episode_end & ~targets.game_over
        return targets._replace(policy=targets.policy * acts.unsqueeze(-1))

    expected = targets_of(None)
    every = torch.arange(3 + 2 + 4) < width
    monkeypatch.setattr(muzero_reanalysis, "rows_to_search", lambda block, *_: every.expand_as(block.end_row))
    nest.map_structure(lambda a, b: torch.testing.assert_close(a, b), targets_of(width), expected)


def test_full_reanalysis_asks_no_network(monkeypatch):
    asked = []
    monkeypatch.setattr(PlainModel, "predict", lambda self, latent: asked.append(latent))
    maker, _, _ = make({"ratio": 1.0, "full": True})
    blocks = blocks_of(maker, random_histories(seed=3), 1, GAMMA)
    maker(blocks.rows, blocks.search, blocks.info)
    assert asked == []


def test_every_row():
    rows, position = muzero_reanalysis.every_row(torch.tensor([4, 1]), 3)
    assert (rows.tolist(), position.tolist()) == ([4, 4, 4, 1, 1, 1], [0, 1, 2, 0, 1, 2])


def test_monte_carlo_returns_against_the_definition():
    # Fresh where the last row of the episode is among those searched, else what is stored with it.
    maker, _, _ = make({"ratio": 1.0, "td_steps": -1}, 2, 5)
    rows = random_histories(seed=4)
    blocks = blocks_of(maker, rows, 2, GAMMA)
    searched_policies(rows)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        end = history.end(row)
        value = search_value(history.mark[end]) if end < first + 4 else history.value[end]
        return return_of(history, row, 1000, GAMMA, lambda at: value)

    check_against_definition(blocks, targets, 2, value_at)


@pytest.mark.parametrize("num_starts", [1, 3])
def test_search_values_against_the_definition(num_starts):
    maker, _, _ = make({"ratio": 1.0}, 2, value_target="search")
    rows = random_histories(seed=5)
    blocks = blocks_of(maker, rows, num_starts, GAMMA)
    searched_policies(rows)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        return return_of(history, row, 0, GAMMA, lambda at: search_value(history.mark[at]))

    check_against_definition(blocks, targets, 2, value_at)


def test_mixed_values_and_horizons_by_age_against_the_definition():
    function = LinearTdStepFunc(20)
    mixed = MixedValueTarget(initial_updates=0, fresh_env_steps=10)
    maker, _, _ = make({"ratio": 1.0, "full": True}, 2, 4, value_target=mixed, td_steps_function=function)
    rows = random_histories(seed=6)
    blocks = blocks_of(maker, rows, 2, GAMMA)
    searched_policies(rows)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        age = len(history) - 1 - row
        steps = 0 if age >= 10 else 1 + -(-3 * (20 - age) // 20)
        return return_of(history, row, steps, GAMMA, lambda at: search_value(history.mark[at]))

    check_against_definition(blocks, targets, 2, value_at)


@pytest.mark.parametrize(
    ("old_steps", "fresh_steps", "full"), [(3, 1, False), (3, 5, True), (-1, 2, False), (2, -1, False), (2, 2, False)]
)
@pytest.mark.parametrize("function", [None, LinearTdStepFunc(15)])
def test_a_share_is_reanalysed_by_whole_segments(old_steps, fresh_steps, full, function):
    if function is not None and -1 in (old_steps, fresh_steps):
        return
    torch.manual_seed(0)
    maker, search, _ = make(
        {"ratio": 0.4, "td_steps": fresh_steps, "full": full}, 2, old_steps, td_steps_function=function
    )
    stored, fresh = random_histories(seed=7), random_histories(seed=7)
    blocks, searched = blocks_of(maker, stored, 2, GAMMA), blocks_of(maker, fresh, 2, GAMMA)
    searched_policies(fresh)
    _, targets, report = maker(blocks.rows, blocks.search, blocks.info)

    def steps_at(history, row, steps):
        if steps == -1 or function is None:
            return 1000 if steps == -1 else steps
        return 1 + -(-(steps - 1) * max(0, 15 - (len(history) - 1 - row)) // 15)

    def old_value(history, row, first):
        value_of = history.value if old_steps == -1 else history.mark
        return return_of(history, row, steps_at(history, row, old_steps), GAMMA, value_of.__getitem__)

    def new_value(history, row, first):
        def value_of(at):
            if at < first + 4 or full:
                return search_value(history.mark[at])
            return history.value[at] if fresh_steps == -1 else history.mark[at]

        return return_of(history, row, steps_at(history, row, fresh_steps), GAMMA, value_of)

    seen = set(search.marks)
    num_fresh = 0
    for number in range(len(blocks.starts)):
        one = torch.tensor([number])
        each = type(targets)(*(field[one] if isinstance(field, torch.Tensor) else field for field in targets))
        matches = []
        for source, value_at in ((blocks, old_value), (searched, new_value)):
            try:
                check_against_definition(source._replace(starts=[source.starts[number]]), each, 2, value_at)
                matches.append(value_at)
            except AssertionError:
                continue
        assert len(matches) > 0, f"segment {number} is neither as stored nor as searched"
        num_fresh += new_value in matches
    # Segments that begin where the game is over are the same either way.
    same = sum(h.is_over(first) and h.is_over(min(first + 1, len(h) - 1)) for h, first in blocks.starts)
    expected = round(0.4 * len(blocks.starts))
    assert expected <= num_fresh <= expected + same
    assert len(seen) > 0
    assert report["target/reanalyzed"].item() == pytest.approx(expected / len(blocks.starts))


@pytest.mark.parametrize(
    ("ratio", "batch_size", "expected"), [(0.5, 5, 3), (0.1, 4, 0), (0.125, 4, 1), (0.99, 10, 10), (1.0, 3, 3)]
)
def test_the_number_of_segments_is_rounded(ratio, batch_size, expected):
    maker, search, _ = make({"ratio": ratio}, 1, 1)
    history = History([M] * (batch_size + 1), [0] * (batch_size + 1), [1] * (batch_size + 1))
    needed = maker.rows_needed()
    blocks = make_blocks([history], 2, needed.future, GAMMA)
    report = maker(blocks.rows, blocks.search, blocks.info)[2]
    assert report["target/reanalyzed"].item() == pytest.approx(expected / batch_size)
    assert (len(search.marks) > 0) == (expected > 0)


def test_segments_are_drawn_anew_each_time():
    torch.manual_seed(0)
    maker, search, _ = make({"ratio": 0.5}, 1, 1)
    history = History([M] * 42, [0] * 42, [1] * 42)
    blocks = blocks_of(maker, [history], 1, GAMMA)
    draws = []
    for _ in range(8):
        search.marks.clear()
        maker(blocks.rows, blocks.search, blocks.info)
        draws.append(tuple(search.marks))
    assert len(set(draws)) == 8
    assert len(set().union(*draws)) > 38


def test_staleness_counts_what_is_not_reanalysed():
    # One row of age 1, one of age 0, in episodes that end at once: segments with one age each.
    maker, search, _ = make({"ratio": 0.5}, 1, 1)
    history = History([L, L], [0, 0], [1, 1])
    blocks = blocks_of(maker, [history], 1, GAMMA)
    report = maker(blocks.rows, blocks.search, blocks.info)[2]
    (mark,) = search.marks
    assert report["target/staleness"].item() == mark  # row 0, of mark 0, has age 1


def test_a_batch_where_every_game_is_over_is_not_searched():
    maker, search, _ = make({"ratio": 1.0})
    blocks = blocks_of(maker, [History([L, L], [3, 4], [0, 0], value=[9, 9])], 1, GAMMA)
    targets = maker(blocks.rows, blocks.search, blocks.info)[1]
    assert search.marks == []
    assert not targets.value.any()


def test_what_the_search_sees():
    # Rows as they were collected: rewards that are not transformed, the environment's actions.
    maker, search, model = make({"ratio": 1.0}, 1, 1, reward_transform=torch.sign)
    history = History([F, M, L], [0, 5, -7], [1, 1, 1], [0, 2, 1])
    blocks = blocks_of(maker, [history], 1, GAMMA)
    model.train()
    targets = maker(blocks.rows, blocks.search, blocks.info)[1]
    (rows,) = search.rows
    seen = zip(rows.step_type.tolist(), rows.reward.tolist(), rows.prev_action.tolist(), strict=True)
    assert sorted(seen) == [(F, 0, 0), (M, 5, 2), (M, 5, 2), (L, -7, 1), (L, -7, 1)]
    assert search.given == (model, GAMMA)
    assert search.modes == [(False, True)]
    assert not targets.policy.is_inference()  # a loss can learn from it
    assert not model.training


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
        _, by_hand = acting.actor_critic(model.encode(blocks.rows.observation[0, :3]))
    torch.testing.assert_close(targets.value[0, 0], by_hand)
    assert acting.training  # as it was
    # PPO has no policy to learn from.
    maker, _ = small_maker(Reanalysis(1.0, None))
    maker.use_acting_algorithm(acting)
    blocks = wide(blocks_of(maker, [History([F, M, L], [0, 1, 2], [1, 1, 1])], 1, GAMMA))
    with pytest.raises(ValueError, match="PPOAlgorithm, which reanalyses, gives a PPOInfo without a policy"):
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
