"""Open-loop search against a slow, plain one, and against the closed-loop search where nothing is random."""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch

from alfish.mcts.open_loop import open_loop_search
from alfish.mcts.open_loop_policy import OpenLoopPolicy
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.tree import ILLEGAL
from alfish.ops.counter_random import mix, uniform

B, A, S, DRAWS = 5, 4, 9, 5
F = np.float32


class Latent(NamedTuple):
    state: torch.Tensor
    key: torch.Tensor
    depth: torch.Tensor


class Game:
    """Random rules over S states; what an action does is one of DRAWS, drawn by the latent's key and depth."""

    def __init__(self, seed, num_draws=DRAWS, with_players=False):
        generator = np.random.default_rng(seed)
        shape = (S, A, num_draws)
        self.num_draws = num_draws
        self.next_state = torch.from_numpy(generator.integers(0, S, shape))
        self.reward = torch.from_numpy(generator.normal(size=shape).astype(F))
        self.discount = torch.from_numpy(generator.choice([0.0, 0.9, 0.9, 1.0], shape).astype(F))
        self.legal = torch.from_numpy(generator.random((S, A)) < 0.7)
        self.legal[torch.arange(S), torch.arange(S) % A] = True
        self.logits = torch.from_numpy(generator.normal(size=(S, A)).astype(F)).masked_fill(~self.legal, -math.inf)
        self.value = torch.from_numpy(generator.normal(size=S).astype(F))
        self.player = torch.arange(S) % 2 if with_players else None
        self.calls = 0

    def root(self, seed=0):
        state = torch.from_numpy(np.random.default_rng(seed).integers(0, S, B))
        latent = Latent(state, torch.arange(B), torch.zeros(B, dtype=torch.int64))
        return RootNode(latent, self.logits[state], self.value[state], self.players(state))

    def players(self, state):
        return None if self.player is None else self.player[state]

    def draw(self, latent):
        return (uniform(latent.key, latent.depth, 1)[:, 0] * self.num_draws).long()

    def step(self, latent, action):
        self.calls += 1
        index = latent.state, action, self.draw(latent)
        state = self.next_state[index]
        after = Latent(state, latent.key, latent.depth + 1)
        reward, discount = self.reward[index], self.discount[index]
        return Step(after, reward, discount, self.logits[state], self.value[state], self.players(state))


def resample(latent, simulation):
    return latent._replace(key=mix(latent.key, simulation))


class PlainNode:
    def __init__(self):
        self.visits, self.value = 0, F(0)
        self.children, self.edge_visits, self.q_values = {}, {}, {}


class PlainSearch:
    """One tree, with PUCT, written from its definition; numbers are float32 as in the package."""

    def __init__(self, game, c1=1.25, c2=19652.0, unvisited=0.0, max_depth=None):
        self.game, self.c1, self.c2, self.unvisited, self.max_depth = game, c1, c2, unvisited, max_depth
        self.low, self.high = F(np.inf), F(-np.inf)
        self.num_terminal = 0

    def scaled(self, q_value):
        if self.high < self.low:
            return F(0)
        return (q_value - self.low) * (F(1) / max(self.high - self.low, F(0.01)))

    def unvisited_score(self, node, legal):
        if self.unvisited == "parent":
            return min(max(self.scaled(node.value), F(0)), F(1))
        if self.unvisited == "siblings":
            scores = [self.scaled(node.q_values[action]) for action in legal if action in node.children]
            return sum(scores, F(0)) / F(max(len(scores), 1))
        return F(self.unvisited)

    def choose(self, node, state):
        legal = [action for action in range(A) if self.game.legal[state, action]]
        logits = self.game.logits[state].numpy()
        weights = {action: np.exp(logits[action] - logits.max()) for action in legal}
        total = sum(weights.values(), F(0))
        exploration = F(math.sqrt(node.visits) * (self.c1 + math.log((node.visits + self.c2 + 1) / self.c2)))

        def score(action):
            visits = node.edge_visits.get(action, 0)
            value = self.scaled(node.q_values[action]) if visits else self.unvisited_score(node, legal)
            return value + exploration * (weights[action] / total) / F(visits + 1)

        return max(legal, key=score)

    def sign(self, state, after):
        player = self.game.player
        return F(1) if player is None or player[state] == player[after] else F(-1)

    def simulate(self, root, latent):
        node, path = root, []
        while True:
            state = int(latent.state)
            action = self.choose(node, state)
            step = self.game.step(Latent(*(leaf.reshape(1) for leaf in latent)), torch.tensor([action]))
            after = int(step.latent.state)
            path.append((node, action, F(step.reward.item()), F(step.discount.item()) * self.sign(state, after)))
            is_new = action not in node.children
            node = node.children.setdefault(action, PlainNode())
            if is_new or step.discount == 0 or len(path) == self.max_depth:
                break
            latent = Latent(*(leaf[0] for leaf in step.latent))
        self.num_terminal += int(step.discount == 0)
        value = F(step.value.item()) if step.discount != 0 else F(0)
        for parent, action, reward, discount in reversed(path):
            child = parent.children[action]
            child.visits += 1
            child.value += (value - child.value) / F(child.visits)
            value = reward + discount * value
            visits = parent.edge_visits.get(action, 0) + 1
            old = parent.q_values.get(action, F(0))
            parent.edge_visits[action], parent.q_values[action] = visits, old + (value - old) / F(visits)
            self.low = min(self.low, parent.q_values[action])
            self.high = max(self.high, parent.q_values[action])
        root.visits += 1
        root.value += (value - root.value) / F(root.visits)

    def run(self, root, row, num_simulations):
        node = PlainNode()
        node.visits, node.value = 1, F(root.value[row].item())
        for simulation in range(1, num_simulations + 1):
            latent = resample(root.latent, simulation)
            self.simulate(node, Latent(*(leaf[row] for leaf in latent)))
        return node


def puct(**options):
    return SearchSettings(root=Puct(**options), interior=Puct(**options))


def assert_same_tree(tree, row, node, plain):
    assert tree.visits[row, node] == plain.visits
    assert float(tree.values[row, node]) == pytest.approx(float(plain.value), abs=1e-4)
    for action in range(A):
        child = int(tree.children[row, node, action])
        assert (child >= 0) == (action in plain.children)
        if child >= 0:
            assert tree.edge_visits[row, node, action] == plain.edge_visits[action]
            assert float(tree.q_values[row, node, action]) == pytest.approx(float(plain.q_values[action]), abs=1e-4)
            assert_same_tree(tree, row, child, plain.children[action])


@pytest.mark.parametrize("with_players", [False, True])
@pytest.mark.parametrize("unvisited", [0.0, "parent", "siblings"])
@pytest.mark.parametrize("max_depth", [None, 3])
def test_trees_are_those_of_a_plain_search(with_players, unvisited, max_depth):
    game = Game(3, with_players=with_players)
    settings = dataclasses.replace(puct(unvisited_value=unvisited), max_depth=max_depth)
    result = open_loop_search(game.root(), game.step, 60, resample, settings)
    assert result.visits.sum(1).tolist() == [60] * B
    num_terminal = 0
    for row in range(B):
        plain = PlainSearch(game, unvisited=unvisited, max_depth=max_depth)
        assert_same_tree(result.tree, row, 0, plain.run(game.root(), row, 60))
        num_terminal += plain.num_terminal
    assert num_terminal > 0


SETTINGS = {
    "puct": puct(),
    "puct, random ties": SearchSettings(tie_breaking="random"),
    "puct, node": SearchSettings(value_range="node", max_depth=4),
    "improved": SearchSettings(root=ImprovedPolicy(), interior=ImprovedPolicy()),
    "gumbel": SearchSettings(root=SequentialHalving(3), interior=ImprovedPolicy()),
    "regularised": SearchSettings(root=RegularisedPolicy(sampled=False), interior=RegularisedPolicy(sampled=False)),
    "regularised, sampled": SearchSettings(root=RegularisedPolicy(), interior=RegularisedPolicy()),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("with_players", [False, True])
def test_without_chance_it_is_the_closed_loop_search(name, with_players):
    settings = SETTINGS[name]
    game = Game(5, num_draws=1, with_players=with_players)
    gumbel = torch.randn(B, A, generator=torch.Generator().manual_seed(0)) if name == "gumbel" else None
    options = {"gumbel": gumbel, "seed": 11}
    closed = search(game.root(), game.step, 60, settings, **options)
    opened = open_loop_search(game.root(), game.step, 60, resample, settings, **options)
    assert torch.equal(opened.visits, closed.visits)
    torch.testing.assert_close(opened.value, closed.value, atol=1e-5, rtol=0)
    for name in ("visits", "parents"):
        assert torch.equal(getattr(opened.tree, name), getattr(closed.tree, name)), name
    used = (closed.tree.visits > 0).unsqueeze(2)
    for name in ("q_values", "priors", "edge_visits"):
        left, right = getattr(opened.tree, name) * used, getattr(closed.tree, name) * used
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_only_actions_that_are_legal_in_the_state_drawn_are_taken(settings):
    game = Game(7)

    def step(latent, action):
        answer = game.step(latent, action)
        # Illegal actions give a number that cannot be used; rows that have ended may be asked anything.
        illegal = ~game.legal[latent.state, action]
        return answer._replace(reward=answer.reward.masked_fill(illegal, math.nan))

    mask = torch.ones(B, A, dtype=torch.bool)
    mask[:, 0] = ~game.legal[game.root().latent.state][:, 1:].any(1)
    result = open_loop_search(game.root(), step, 60, resample, settings, legal_mask=mask)
    assert (result.visits[~mask] == 0).all()
    assert (result.tree.children[:, 0][~mask] == ILLEGAL).all()
    assert result.visits.sum(1).tolist() == [60] * B


def test_record_is_consistent():
    game = Game(9, with_players=True)
    tree = open_loop_search(game.root(), game.step, 200, resample, puct()).tree
    row, child = torch.nonzero((tree.visits > 0) & (tree.parents >= 0), as_tuple=True)
    parent, action = tree.parents[row, child].long(), tree.actions[row, child].long()
    assert torch.equal(tree.children[row, parent, action].long(), child)
    assert torch.equal(tree.edge_visits[row, parent, action], tree.visits[row, child])
    expected = tree.rewards[row, child] + tree.discounts[row, child] * tree.values[row, child]
    torch.testing.assert_close(tree.q_values[row, parent, action], expected, atol=1e-5, rtol=0)
    assert (tree.discounts < 0).any()
    # Every simulation through a node goes on, ends there because it is new, or ends the game there.
    assert (tree.edge_visits.sum(2) <= tree.visits).all()
    assert torch.equal(tree.edge_visits[:, 0].sum(1) + 1, tree.visits[:, 0])


def test_rewards_of_the_record_are_means_where_the_discount_is_constant():
    game = Game(9)
    game.discount.fill_(0.5)
    tree = open_loop_search(
        game.root(), game.step, 1000, resample, dataclasses.replace(puct(c1=100.0), max_depth=1)
    ).tree
    state = game.root().latent.state
    for row in range(B):
        for action in torch.nonzero(game.legal[state[row]]).flatten():
            child = int(tree.children[row, 0, action])
            drawn = game.reward[state[row], action]
            assert float(tree.discounts[row, child]) == 0.5
            assert float(drawn.min()) <= float(tree.rewards[row, child]) <= float(drawn.max())
            assert float(tree.rewards[row, child]) == pytest.approx(float(drawn.mean()), abs=0.2)


def test_leaf_value_is_asked_once_for_the_states_at_the_ends():
    game = Game(3)
    asked = []

    def leaf_value(latent):
        asked.append(latent)
        return game.value[latent.state]

    def step(latent, action):
        return game.step(latent, action)._replace(value=torch.full((B,), math.nan))

    result = open_loop_search(game.root(), step, 50, resample, puct(), leaf_value=leaf_value)
    expected = open_loop_search(game.root(), game.step, 50, resample, puct())
    assert len(asked) == 50
    assert torch.equal(result.tree.q_values, expected.tree.q_values)
    assert torch.equal(result.visits, expected.visits)


def test_depth_limit_bounds_the_steps():
    game = Game(3)
    open_loop_search(game.root(), game.step, 30, resample, dataclasses.replace(puct(), max_depth=2))
    assert game.calls <= 60


def test_seed_and_resampling_decide_everything():
    game = Game(3)
    settings = SearchSettings(root=RegularisedPolicy(), interior=RegularisedPolicy())

    def run(seed, stream):
        def other(latent, simulation):
            return resample(latent, simulation + stream)

        return open_loop_search(game.root(), game.step, 50, other, settings, seed=seed).tree.q_values

    assert torch.equal(run(1, 0), run(1, 0))
    assert not torch.equal(run(1, 0), run(2, 0))
    assert not torch.equal(run(1, 0), run(1, 1000))


def test_root_is_left_as_it_was():
    game = Game(3, with_players=True)
    root, expected = (Game(3, with_players=True).root() for _ in range(2))
    root = root._replace(to_play=root.to_play.float())  # which needs no conversion, but a copy
    open_loop_search(root, game.step, 3, resample, puct(), legal_mask=torch.ones(B, A, dtype=torch.bool))
    assert torch.equal(root.to_play, expected.to_play.float())
    assert all(torch.equal(left, right) for left, right in zip(root.latent, expected.latent, strict=True))
    assert torch.equal(root.prior_logits, expected.prior_logits)


def test_no_simulations():
    game = Game(3)
    output = OpenLoopPolicy(resample, puct())(game.root(), game.step, 0)
    assert game.calls == 0
    torch.testing.assert_close(output.policy, torch.softmax(game.root().prior_logits, 1))
    assert torch.equal(output.value, game.root().value)


def test_policy_acts_by_the_visits_and_explores_only_when_asked():
    game = Game(3)
    policy = OpenLoopPolicy(resample, puct(), noise_fraction=0.5)
    torch.manual_seed(0)
    output = policy(game.root(), game.step, 40)
    expected = open_loop_search(game.root(), game.step, 40, resample, puct())
    assert torch.equal(output.search.visits, expected.visits)
    torch.testing.assert_close(output.policy, expected.visits / 40)
    assert torch.equal(output.action, expected.visits.argmax(1))
    assert output.search.latents == ()
    noisy = policy(game.root(), game.step, 40, explore=True, temperature=1.0)
    assert not torch.equal(noisy.search.tree.priors[:, 0], expected.tree.priors[:, 0])
    assert game.legal[game.root().latent.state, noisy.action].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": math.nan}, "the model's reward is nan in simulation 1 of row 0"),
        ({"discount": 1.5}, "the model's discount is 1.5"),
        ({"value": math.inf}, "the model's value is inf"),
        ({"prior_logits": math.nan}, "one of the model's prior_logits is nan"),
    ],
)
def test_unusable_numbers_are_named(change, message):
    game = Game(3)
    game.discount.clamp_(min=0.9)

    def step(latent, action):
        answer = game.step(latent, action)
        (name, number), *_ = change.items()
        return answer._replace(**{name: torch.full_like(getattr(answer, name), number)})

    with pytest.raises(ValueError, match=message):
        open_loop_search(game.root(), step, 3, resample, puct())


def test_value_of_a_finished_game_is_not_read():
    game = Game(3)
    game.discount.zero_()
    game.value[:] = math.nan
    root = game.root()._replace(value=torch.zeros(B))
    result = open_loop_search(root, game.step, 30, resample, puct())
    assert torch.isfinite(result.q_values).all()


def test_what_does_not_fit_is_refused():
    game = Game(3)
    with pytest.raises(ValueError, match="leaves_per_round is 2"):
        open_loop_search(game.root(), game.step, 4, resample, SearchSettings(leaves_per_round=2))
    with pytest.raises(ValueError, match="OpenLoopPolicy.settings is .*SequentialHalving"):
        OpenLoopPolicy(resample, SearchSettings(root=SequentialHalving()))
    with pytest.raises(ValueError, match="OpenLoopPolicy.resample is 3"):
        OpenLoopPolicy(3)
    with pytest.raises(ValueError, match="retained trees"):
        OpenLoopPolicy(resample)(game.root(), game.step, 4, retained=object())

    def chance(latent, action):
        return game.step(latent, action)._replace(is_chance=torch.ones(B, dtype=torch.bool))

    with pytest.raises(ValueError, match="is_chance is set"):
        open_loop_search(game.root(), chance, 4, resample, puct())
    with pytest.raises(ValueError, match=r"leaf_value has the shape \(5, 1\)"):
        open_loop_search(game.root(), game.step, 4, resample, puct(), leaf_value=lambda latent: torch.zeros(B, 1))


EXTREMES = {
    "largest and lowest": [3.4e38, -3.4e38, 0.0, -math.inf],
    "equal": [0.0, 0.0, 0.0, 0.0],
    "prior 0 of a legal action": [0.0, -1e4, 0.0, -1e4],
    "one legal action": [-math.inf, -math.inf, 2.0, -math.inf],
    "none": [-math.inf] * 4,
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("logits", EXTREMES.values(), ids=EXTREMES)
def test_extremes_give_finite_numbers(settings, logits):
    game = Game(3)
    root = game.root()
    game.logits[1:] = torch.tensor(logits)
    game.value.zero_()
    game.reward.zero_()
    settings = dataclasses.replace(settings, value_range=(0.0, 0.0)) if settings.value_range == "tree" else settings
    result = open_loop_search(root._replace(prior_logits=torch.zeros(B, A)), game.step, 40, resample, settings)
    assert result.visits.sum(1).tolist() == [40] * B
    used = result.tree.visits > 0
    for name in ("values", "rewards", "discounts", "raw_values"):
        assert torch.isfinite(getattr(result.tree, name)[used]).all(), name
    for name in ("q_values", "priors"):
        assert torch.isfinite(getattr(result.tree, name)[used]).all(), name


def test_returns_that_overflow_are_named():
    game = Game(3)
    game.discount.clamp_(min=1.0)
    game.reward[:] = 1.2e38
    with pytest.raises(ValueError, match="the value backed up is 2.4"):
        open_loop_search(game.root(), game.step, 30, resample, puct())
