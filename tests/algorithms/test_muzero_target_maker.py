"""The settings of MuZero's targets: against their definition on random episodes, and by hand."""

import itertools

import pytest
import torch
from muzero_histories import NUM_ACTIONS, History, blocks_of, check_against_definition, random_histories, return_of
from muzero_parts import PlainModel

from alfish.algorithms.muzero_reanalysis import Reanalysis
from alfish.algorithms.muzero_target_maker import TargetMaker
from alfish.algorithms.stochastic_policy import PolicyInfo
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.data_structures import Progress, RowsNeeded, StepType, TailNeeded
from alfish.ops.reward_transforms import SignReward
from alfish.ops.sampled_policies import make_sampled_policy
from alfish.specs import BoundedTensorSpec, TensorSpec

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST
OBSERVATION = TensorSpec((1,))
ACTION = BoundedTensorSpec((), torch.int64, 0, NUM_ACTIONS - 1)
GAMMA = 0.75


def make(num_unroll_steps=2, td_steps=2, discount=GAMMA, action_spec=ACTION, network=False, **options):
    """A TargetMaker; the target network's value of a row is its mark."""
    return TargetMaker(
        OBSERVATION,
        action_spec,
        make_sampled_policy(action_spec),
        num_unroll_steps,
        td_steps,
        discount,
        target_model=PlainModel(logits=(0.0,) * NUM_ACTIONS) if network else None,
        **options,
    )


@pytest.mark.parametrize(
    ("num_starts", "td_steps", "network", "predicts_reward"),
    [
        *itertools.product((1, 2, 3), (1, 2, 5, -1), (False,), (True, False)),
        *itertools.product((1, 3), (1, 5), (True,), (True,)),
    ],
)
def test_returns_against_the_definition(num_starts, td_steps, network, predicts_reward):
    maker = make(3, td_steps, network=network, predicts_reward=predicts_reward, needs_observations=True)
    blocks = blocks_of(maker, random_histories(seed=num_starts), num_starts, GAMMA)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        value_of = history.mark if network else history.value
        steps = 1000 if td_steps == -1 else td_steps
        return return_of(history, row, steps, GAMMA, value_of.__getitem__, predicts_reward)

    check_against_definition(blocks, targets, 3, value_at)


@pytest.mark.parametrize("predicts_reward", [True, False])
@pytest.mark.parametrize("num_starts", [1, 3])
def test_search_values_against_the_definition(num_starts, predicts_reward):
    maker = make(2, 5, value_target="search", predicts_reward=predicts_reward, needs_observations=True)
    blocks = blocks_of(maker, random_histories(seed=7), num_starts, GAMMA)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        return return_of(history, row, 0, GAMMA, history.value.__getitem__, predicts_reward)

    check_against_definition(blocks, targets, 2, value_at)


@pytest.mark.parametrize("num_starts", [1, 3])
@pytest.mark.parametrize("network", [True, False])
def test_a_horizon_by_age_against_the_definition(num_starts, network):
    maker = make(2, 5, network=network, td_steps_function=LinearTdStepFunc(20, min_td_steps=2), needs_observations=True)
    blocks = blocks_of(maker, random_histories(seed=8), num_starts, GAMMA)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        age = len(history) - 1 - row
        steps = 2 + -(-3 * max(0, 20 - age) // 20)
        return return_of(history, row, steps, GAMMA, (history.mark if network else history.value).__getitem__)

    check_against_definition(blocks, targets, 2, value_at)


@pytest.mark.parametrize("td_steps", [3, -1])
@pytest.mark.parametrize("updates", [9, 10])
def test_mixed_values_against_the_definition(td_steps, updates):
    maker = make(2, td_steps, value_target=MixedValueTarget(10, 12), needs_observations=True)
    blocks = blocks_of(maker, random_histories(seed=9), 2, GAMMA)
    maker.after_train_iter(Progress(updates=updates))
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)

    def value_at(history, row, first):
        searched = updates >= 10 and len(history) - 1 - row >= 12
        steps = 0 if searched else 1000 if td_steps == -1 else td_steps
        return return_of(history, row, steps, GAMMA, history.value.__getitem__)

    check_against_definition(blocks, targets, 2, value_at)


def test_monte_carlo_by_hand():
    # Gamma = 1/2, R = 1. One episode of rewards 1 2 4 8, cut at row 4, whose search found 16:
    # z = 1 + 2/2 + 4/4 + 8/8 + 16/16, 2 + 2 + 2 + 2, 4 + 4 + 4, 8 + 8, 16.
    cut = History([F, M, M, M, L], [0, 1, 2, 4, 8], [1] * 5, value=[99, 99, 99, 99, 16])
    # The same, still open; and the same with the end of the game there.
    still_open = History([F, M, M, M, M], [0, 1, 2, 4, 8], [1] * 5, value=[99, 99, 99, 99, 16])
    ended = History([F, M, M, M, L], [0, 1, 2, 4, 8], [1, 1, 1, 1, 0], value=[99, 99, 99, 99, 16])
    maker = make(1, -1, 0.5)
    assert maker.rows_needed() == RowsNeeded(future=2, tail=TailNeeded(0.5))
    blocks = blocks_of(maker, [cut, still_open, ended], 1, 0.5)
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)
    by_hand = [[5, 8], [8, 12], [12, 16], [16, 16], [16, 16]]
    assert targets.value[:10, 0].tolist() == by_hand * 2
    assert targets.value[10:, 0].tolist() == [[4, 6], [6, 8], [8, 8], [8, 0], [0, 0]]


def test_rewards_are_transformed_before_anything_else():
    history = History([F, M, M, M, M], [0, 7, -9, 5, 3], [1] * 5, value=[8] * 5)
    maker = make(2, 1, 0.5, reward_transform=SignReward())
    blocks = blocks_of(maker, [history], 1, 0.5)
    inputs, targets, _ = maker(blocks.rows, blocks.search, blocks.info)
    assert inputs.reward[0].tolist() == [0.0]
    assert targets.reward[0].tolist() == [[0.0, 1.0, -1.0]]
    assert targets.value[0].tolist() == [[1.0 + 4.0, -1.0 + 4.0, 1.0 + 4.0]]
    # To the end: -1 + 1/2 + 1/4 + 8/8 from row 1 on, of which the block holds two rows.
    transform = SignReward()
    maker = make(1, -1, 0.5, reward_transform=transform)
    assert maker.rows_needed().tail == TailNeeded(0.5, transform)
    blocks = blocks_of(maker, [history], 1, 0.5, lambda reward: (reward > 0) - (reward < 0))
    _, targets, _ = maker(blocks.rows, blocks.search, blocks.info)
    assert targets.value[0].tolist() == [[1.375, 0.75]]


def test_what_is_returned_beside_the_targets():
    maker = make(2, 2)
    blocks = blocks_of(maker, random_histories(seed=3), 3, GAMMA)
    inputs, targets, report = maker(blocks.rows, blocks.search, blocks.info)
    assert torch.equal(inputs.reward, blocks.rows.reward[:, :3])
    assert torch.equal(inputs.prev_action, blocks.rows.prev_action[:, :3])
    assert inputs.observation.shape[1] == 3
    assert targets.observation == ()
    assert report["target/reanalyzed"].item() == 0.0


def test_staleness_by_hand():
    # R = 1. The game ends at row 1: row 0 reaches the ages 3 2, row 1 only 2, row 2 the ages 1 0, row 3 only 0.
    history = History([F, L, F, M], [0] * 4, [1, 0, 1, 1])
    maker = make(1, 1)
    blocks = blocks_of(maker, [history], 1, GAMMA)
    report = maker(blocks.rows, blocks.search, blocks.info)[2]
    assert report["target/staleness"].item() == pytest.approx((3 + 2 + 2 + 1 + 0 + 0) / 6)
    report = maker(blocks.rows, blocks.search, blocks.info._replace(age=()))[2]
    assert set(report) == {"target/reanalyzed"}


def test_without_a_policy_a_value_is_enough():
    maker = make(2, 2, train_policy=False)
    blocks = blocks_of(maker, random_histories(seed=4), 1, GAMMA)
    with_policy = make(2, 2)(blocks.rows, blocks.search, blocks.info)[1]
    info = PolicyInfo(torch.zeros_like(blocks.search.value), blocks.search.value)
    targets = maker(blocks.rows, info, blocks.info)[1]
    assert (targets.policy, targets.candidates) == ((), ())
    assert torch.equal(targets.value, with_policy.value)
    with pytest.raises(ValueError, match=r"a PolicyInfo without a policy.*train_policy = False"):
        make(2, 2)(blocks.rows, info, blocks.info)
    with pytest.raises(ValueError, match="a tuple without a value"):
        maker(blocks.rows, (), blocks.info)


def test_candidates_go_with_their_policy():
    maker = make(2, 1)
    blocks = blocks_of(maker, random_histories(seed=5), 2, GAMMA)
    candidates = torch.arange(blocks.search.policy.numel()).view(blocks.search.policy.shape)
    targets = maker(blocks.rows, blocks.search._replace(candidates=candidates), blocks.info)[1]
    for k in range(3):
        row = torch.minimum(torch.tensor(1 + k), torch.tensor([h.end(first + 1) - first for h, first in blocks.starts]))
        every = torch.arange(len(row))
        assert torch.equal(targets.candidates[:, 1, k], candidates[every, row])
        assert torch.equal(targets.policy[:, 1, k], blocks.search.policy[every, row])


@pytest.mark.parametrize("spec", [ACTION, BoundedTensorSpec((2,), torch.float32, -3, -1)])
def test_random_actions_beyond_the_end(spec):
    torch.manual_seed(0)
    history = History([F, L], [0, 0], [1, 0], [0, 1])
    for drawn in (False, True):
        maker = make(40, 1, action_spec=spec, random_action_after_episode_end=drawn)
        blocks = blocks_of(maker, [history], 1, GAMMA)
        taken = torch.ones(2, 42, dtype=torch.int64) if spec is ACTION else torch.full((2, 42, 2), -2.0)
        action = maker(blocks.rows._replace(prev_action=taken), blocks.search, blocks.info)[1].action[0, 0]
        assert (action[0] == taken[0, 0]).all()  # the one that was taken
        low, high = spec.bounds()
        assert ((action >= low) & (action <= high)).all()
        assert (len(action[1:].flatten().unique()) >= 3) == drawn


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, RowsNeeded(future=15)),
        ({"needs_observations": True}, RowsNeeded(future=15, future_observations=5)),
        ({"network": True}, RowsNeeded(future=15, future_observations=15)),
        ({"value_target": "search"}, RowsNeeded(future=6)),
        ({"td_steps": -1}, RowsNeeded(future=6, tail=TailNeeded(GAMMA))),
        (
            {"td_steps": -1, "needs_observations": True},
            RowsNeeded(future=6, future_observations=5, tail=TailNeeded(GAMMA)),
        ),
        ({"network": True, "reanalysis": Reanalysis(0.5)}, RowsNeeded(future=15, future_observations=15)),
        ({"network": True, "reanalysis": Reanalysis(0.5, td_steps=3)}, RowsNeeded(future=15, future_observations=15)),
        ({"network": True, "reanalysis": Reanalysis(1.0, td_steps=3)}, RowsNeeded(future=8, future_observations=8)),
        (
            {"network": True, "reanalysis": Reanalysis(0.5, td_steps=3), "td_steps": -1},
            RowsNeeded(future=8, future_observations=8, tail=TailNeeded(GAMMA)),
        ),
        (
            {"network": True, "reanalysis": Reanalysis(0.5, td_steps=-1)},
            RowsNeeded(future=15, future_observations=15, tail=TailNeeded(GAMMA)),
        ),
        (
            {"network": True, "reanalysis": Reanalysis(1.0, td_steps=-1)},
            RowsNeeded(future=6, future_observations=5, tail=TailNeeded(GAMMA)),
        ),
        (
            {"network": True, "reanalysis": Reanalysis(1.0), "value_target": "search"},
            RowsNeeded(future=6, future_observations=5),
        ),
        ({"network": True, "reanalysis": Reanalysis(0.0, td_steps=3)}, RowsNeeded(future=15, future_observations=15)),
    ],
)
def test_rows_needed(options, expected):
    if "reanalysis" in options:
        options["reanalysis"] = Reanalysis(
            options["reanalysis"].ratio, algorithm=None, td_steps=options["reanalysis"].td_steps
        )
    assert make(5, **({"td_steps": 10} | options)).rows_needed() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"td_steps": 0}, "MuzeroRepresentationImpl.td_steps is 0; it must be at least 1, or -1 for Monte-Carlo"),
        ({"td_steps": -2}, "MuzeroRepresentationImpl.td_steps is -2"),
        ({"td_steps": 1.5}, "MuzeroRepresentationImpl.td_steps is 1.5"),
        ({"value_target": "td"}, "value_target is 'td'; expected 'n_step', 'search' or @MixedValueTarget"),
        ({"value_target": MixedValueTarget}, "value_target is .*class.*expected"),
        ({"reanalysis": Reanalysis}, r"reanalysis is .*class.*; expected None or, .* @Reanalysis\(\)"),
        ({"reward_transform": SignReward}, r"reward_transform is .*class.*; .* @SignReward\(\) with"),
        ({"td_steps_function": LinearTdStepFunc}, r"td_steps_function is .*class.*; .* @LinearTdStepFunc\(\)"),
        ({"td_steps": -1, "td_steps_function": LinearTdStepFunc(9)}, "td_steps is -1, but td_steps_function"),
        ({"td_steps_function": LinearTdStepFunc(9, 3)}, "td_steps is 2, but td_steps_function.* 3 steps"),
        ({"value_target": "search", "td_steps_function": LinearTdStepFunc(9)}, "value_target is 'search'; set"),
        ({"network": True, "td_steps": -1}, "nothing asks a target network"),
        ({"network": True, "value_target": "search"}, "nothing asks a target network"),
        ({"reanalysis": Reanalysis(0.5, None)}, "reanalysis searches the target network, but target_update is None"),
        (
            {"network": True, "td_steps": -1, "reanalysis": Reanalysis(0.5, None, full=True)},
            "Reanalysis.full is True, but",
        ),
        (
            {"network": True, "value_target": "search", "reanalysis": Reanalysis(0.5, None, full=True)},
            "Reanalysis.full is True, but",
        ),
        (
            {
                "network": True,
                "td_steps_function": LinearTdStepFunc(9, 2),
                "reanalysis": Reanalysis(0.5, None, td_steps=1),
            },
            "Reanalysis.td_steps is 1, but td_steps_function",
        ),
    ],
)
def test_what_does_not_go_together_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("td_steps", [2, -1])
@pytest.mark.parametrize(
    ("transform", "message"),
    [(torch.sum, r"made torch.float32 \(\) of rewards"), (lambda reward: reward / 0, "made (nan|inf|-inf) of the rew")],
)
def test_a_transform_that_makes_no_rewards_is_refused(td_steps, transform, message):
    maker = make(2, td_steps)
    blocks = blocks_of(maker, random_histories(seed=1), 2, GAMMA)
    maker = make(2, td_steps, reward_transform=transform)
    with pytest.raises(ValueError, match=f"the reward transform .* {message}"):
        maker(blocks.rows, blocks.search, blocks.info)
