"""Reanalysis: which rows are searched, how often, and what becomes of what is found."""

import collections

import pytest
import torch
from muzero_histories import (
    History,
    blocks_of,
    check_against_definition,
    random_histories,
    return_of,
)
from muzero_parts import PlainModel
from reanalysis_parts import GAMMA, make, search_policy, search_value

from alfish import nest
from alfish.algorithms import muzero_reanalysis
from alfish.algorithms.muzero_reanalysis import Found
from alfish.algorithms.td_horizons import LinearTdStepFunc, MixedValueTarget
from alfish.data_structures import StepType

F, M, L = StepType.FIRST, StepType.MID, StepType.LAST


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


BY_AGE = LinearTdStepFunc(15)  # not for Monte-Carlo returns


@pytest.mark.parametrize(
    ("old_steps", "fresh_steps", "full", "function"),
    [
        (3, 1, False, None),
        (3, 1, False, BY_AGE),
        (3, 5, True, None),
        (3, 5, True, BY_AGE),
        (2, 2, False, None),
        (2, 2, False, BY_AGE),
        (-1, 2, False, None),
        (2, -1, False, None),
    ],
)
def test_a_share_is_reanalysed_by_whole_segments(old_steps, fresh_steps, full, function):
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
    ("ratio", "batch_size", "expected"),
    [(0.5, 4, {2}), (0.1, 30, {3}), (0.29, 100, {29}), (0.5, 5, {2, 3}), (0.01, 4, {0, 1}), (1.0, 3, {3})],
)
def test_shares_of_segments_are_right_in_the_mean(ratio, batch_size, expected):
    torch.manual_seed(1)
    maker, search, _ = make({"ratio": ratio}, 1, 1)
    stored = Found(torch.zeros(batch_size, 2))
    draws = [maker._reanalyzer.draw(stored) for _ in range(400)]
    counts = [0 if draw.segments is None else len(draw.segments) for draw in draws]
    assert set(counts) == expected
    assert sum(counts) / 400 == pytest.approx(ratio * batch_size, abs=0.06)
    assert all(len(set(torch.cat(draw[1:3]).tolist())) == batch_size for draw in draws if draw.others is not None)


def test_numbers_of_segments_follow_from_the_state_of_the_generator():
    maker, _, _ = make({"ratio": 0.3}, 1, 1)
    stored = Found(torch.zeros(5, 2))
    torch.manual_seed(2)
    for _ in range(3):
        maker._reanalyzer.draw(stored)
    state = torch.get_rng_state()
    first = [maker._reanalyzer.draw(stored).segments.tolist() for _ in range(20)]
    torch.set_rng_state(state)
    assert [maker._reanalyzer.draw(stored).segments.tolist() for _ in range(20)] == first
    assert {len(segments) for segments in first} == {1, 2}


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
