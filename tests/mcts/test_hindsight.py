"""Hindsight optimisation: its means against trees that are searched one by one, and what it does with gaps."""

import dataclasses
import math
from typing import NamedTuple

import pytest
import torch

from alfish.mcts.hindsight import HindsightPolicy, future_means
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.search_policies import sample_by_scores
from alfish.mcts.settings import Puct, RegularisedPolicy, SearchSettings
from alfish.ops.counter_random import mix, uniform

B, A, H = 3, 4, 5
WIDE = SearchSettings(root=Puct(c1=100.0), value_range=(-3.0, 3.0))


class Latent(NamedTuple):
    number: torch.Tensor
    key: torch.Tensor


def make_root():
    number = torch.arange(B)
    return RootNode(Latent(number, torch.full((B,), 17)), torch.zeros(B, A), torch.zeros(B))


def model(latent, action):
    """Rewards of 0 or 1 with the same chances for all actions, decided by the key and the way here; no values."""
    number = latent.number * (A + 1) + action + 1
    reward = (uniform(latent.key, number, 1)[:, 0] < 0.5).float()
    zeros = torch.zeros(len(action))
    return Step(Latent(number, latent.key), reward, torch.full_like(zeros, 0.5), torch.zeros(len(action), A), zeros)


def split(latent, num_futures):
    numbers = torch.arange(num_futures).repeat(len(latent.key))
    return Latent(latent.number.repeat_interleave(num_futures), mix(latent.key.repeat_interleave(num_futures), numbers))


def test_it_is_the_mean_of_trees_searched_one_by_one():
    output = HindsightPolicy(H, split, WIDE)(make_root(), model, 40)
    latents = split(make_root().latent, H)
    for row in range(B):
        results = []
        for future in range(row * H, (row + 1) * H):
            latent = Latent(*(leaf[future : future + 1] for leaf in latents))
            results.append(search(RootNode(latent, torch.zeros(1, A), torch.zeros(1)), model, 40, WIDE))
        q_values = torch.cat([result.q_values for result in results]).mean(0)
        visits = torch.cat([result.visits for result in results]).float().mean(0)
        torch.testing.assert_close(output.policy[row], visits / 40)
        torch.testing.assert_close(output.value[row], torch.cat([result.value for result in results]).mean())
        assert output.action[row] == q_values.argmax()
        means = future_means(output.search, H)
        torch.testing.assert_close(means.q_values[row], q_values)
        best = torch.stack([result.q_values.max() for result in results]).mean()
        torch.testing.assert_close(means.best_value[row], best)


def test_futures_differ_and_knowing_them_is_optimistic():
    output = HindsightPolicy(200, split, dataclasses.replace(WIDE, max_depth=1))(make_root(), model, A)
    means = future_means(output.search, 200)
    assert (output.search.visits == 1).all()
    # One of four fair coins: E max = 1 - 1 / 16, while each is worth 1 / 2 on its own.
    torch.testing.assert_close(means.best_value, torch.full((B,), 15 / 16), atol=0.06, rtol=0)
    torch.testing.assert_close(means.q_values, torch.full((B, A), 0.5), atol=0.12, rtol=0)
    by_future = output.search.q_values.view(B, 200, A)
    assert len(torch.unique(by_future[0], dim=0)) == 2**A
    correlation = torch.corrcoef(by_future.transpose(0, 1).reshape(200, -1).t()).fill_diagonal_(0.0)
    assert correlation.abs().max() < 0.3


def test_the_same_keys_give_the_same_and_the_root_stays_as_it_was():
    root = make_root()
    policy = HindsightPolicy(H, split, WIDE)
    first, second = policy(root, model, 20), policy(root, model, 20)
    assert torch.equal(first.search.q_values, second.search.q_values)
    assert all(torch.equal(left, right) for left, right in zip(root.latent, make_root().latent, strict=True))
    other = root._replace(latent=root.latent._replace(key=root.latent.key + 1))
    assert not torch.equal(first.search.q_values, policy(other, model, 20).search.q_values)


def test_unvisited_actions_take_no_part():
    # Only the two actions with the largest logits are visited, and which of them twice depends on the future.
    logits = torch.tensor([0.0, -20.0, 0.1, -20.0]).expand(B, A)
    root = make_root()._replace(prior_logits=logits)
    output = HindsightPolicy(H, split, SearchSettings(root=Puct(c1=100.0)))(root, model, 3)
    means = future_means(output.search, H)
    assert means.visited.tolist() == [[True, False, True, False]] * B
    assert (means.q_values[:, [1, 3]] == 0).all()
    assert torch.isin(output.action, torch.tensor([0, 2])).all()
    # A value below 0 is better than one that nobody knows.
    negative = HindsightPolicy(H, split, WIDE)(root, lambda *args: model(*args)._replace(value=-torch.ones(B * H)), 3)
    assert torch.isin(negative.action, torch.tensor([0, 2])).all()


def test_a_future_that_left_an_action_out_is_no_zero_in_its_mean():
    result = HindsightPolicy(2, split, SearchSettings(max_depth=1))(make_root(), model, A).search
    q_values = torch.tensor([[3.0, 0.0, -1.0, 0.0], [5.0, 4.0, 0.0, 0.0]]).repeat(B, 1)
    visits = torch.tensor([[3, 0, 1, 0], [2, 2, 0, 0]], dtype=torch.int32).repeat(B, 1)
    means = future_means(result._replace(q_values=q_values, visits=visits), 2)
    assert means.q_values[0].tolist() == [4.0, 4.0, -1.0, 0.0]
    assert means.policy[0].tolist() == [5 / 8, 2 / 8, 1 / 8, 0.0]
    assert means.best_value[0] == 4.0


def test_masks_are_those_of_the_row():
    mask = torch.tensor([[True] * 4, [False, True, False, True], [False, False, True, False]])
    logits = torch.zeros(B, A)
    logits[0, 1] = -math.inf
    output = HindsightPolicy(H, split, WIDE)(make_root()._replace(prior_logits=logits), model, 30, legal_mask=mask)
    illegal = ~mask | (logits == -math.inf)
    assert (output.policy[illegal] == 0).all()
    assert (output.policy[~illegal] > 0).all()
    assert output.action[2] == 2
    for temperature in (0.0, 1.0, 1e9):
        assert not illegal[torch.arange(B), sample_by_value_of(output, temperature)].any()


def sample_by_value(q_values, temperature):
    return sample_by_scores(q_values, q_values.argmax(dim=1), temperature)


def sample_by_value_of(output, temperature):
    means = future_means(output.search, H)
    return sample_by_value(means.q_values.masked_fill(~means.visited, -math.inf), temperature)


def test_temperature_is_that_of_a_softmax_of_values():
    torch.manual_seed(0)
    q_values = torch.tensor([[1.0, 2.0, 2.0, -math.inf]]).expand(40_000, A)
    assert sample_by_value(q_values[:2], 0.0).tolist() == [1, 1]
    for temperature in (0.5, 2.0, 1e-30, 1e30):
        weights = [math.exp(max(-1 / temperature, -700.0)), 1.0, 1.0, 0.0]
        expected = torch.tensor(weights) / sum(weights)
        share = torch.bincount(sample_by_value(q_values, temperature), minlength=A) / len(q_values)
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
    by_row = sample_by_value(q_values, torch.arange(len(q_values)) % 2 * 1e30)
    assert (by_row[::2] == 1).all()
    assert by_row[1::2].unique().tolist() == [0, 1, 2]


def test_torch_seed_decides_the_draws():
    def draw(seed):
        torch.manual_seed(seed)
        settings = SearchSettings(root=RegularisedPolicy(), interior=RegularisedPolicy())
        output = HindsightPolicy(H, split, settings)(make_root(), model, 20, temperature=1.0)
        return torch.cat((output.action.float(), output.search.q_values.flatten()))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_players_are_split_too():
    to_play = torch.tensor([0, 1, 0])

    def two_players(latent, action):
        return model(latent, action)._replace(to_play=latent.number % 2)

    output = HindsightPolicy(H, split, WIDE)(make_root()._replace(to_play=to_play), two_players, 20)
    assert torch.equal(output.search.tree.players[:, 0].long(), to_play.repeat_interleave(H))


def test_what_does_not_fit_is_refused():
    policy = HindsightPolicy(H, split)
    with pytest.raises(ValueError, match="HindsightPolicy.num_futures is 0"):
        dataclasses.replace(policy, num_futures=0)
    with pytest.raises(ValueError, match="HindsightPolicy.split is 3"):
        dataclasses.replace(policy, split=3)
    with pytest.raises(ValueError, match="num_simulations is 0"):
        policy(make_root(), model, 0)
    with pytest.raises(ValueError, match="temperature is -1.0"):
        policy(make_root(), model, 4, temperature=-1.0)
    with pytest.raises(ValueError, match=r"temperature has the shape \(1,\)"):
        policy(make_root(), model, 4, temperature=torch.ones(1))
    with pytest.raises(ValueError, match="retained trees"):
        policy(make_root(), model, 4, retained=object())
    with pytest.raises(ValueError, match=r"split returned a latent number of the shape \(3,\); expected 15 rows"):
        dataclasses.replace(policy, split=lambda latent, _: latent)(make_root(), model, 4)
