"""Decision and chance nodes: the search against a slow one, both ways to run two functions, and the errors."""

import math

import numpy as np
import pytest
import torch

from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.settings import Puct, SearchSettings
from alfish.mcts.stochastic import Afterstate, num_edges, stochastic_model, stochastic_root

F = np.float32
STATES = 5


class StochasticGame:
    """B random games: tables over states, actions and outcomes. The latent says which action led to an afterstate."""

    def __init__(self, B, A, C, seed, discounts=(0.9,), players=False):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.standard_normal((B, STATES, *shape)).astype(F)

        self.B, self.A, self.C = B, A, C
        self.value, self.logits = 3 * draw(), 2 * draw(A)
        self.afterstate_value, self.outcome_logits = 3 * draw(A), 2 * draw(A, C)
        self.reward, self.next = draw(A, C), rng.integers(0, STATES, (B, STATES, A, C))
        self.discount = rng.choice(np.asarray(discounts, F), (B, STATES, A, C))
        self.player = rng.integers(0, 2, (B, STATES)) if players else None
        impossible = rng.random(self.outcome_logits.shape) < 0.3
        impossible[..., 0] &= ~impossible.all(-1)
        self.outcome_logits[impossible] = -np.inf
        illegal = rng.random(self.logits.shape) < 0.2
        illegal[..., 0] &= ~illegal.all(-1)
        self.logits[illegal] = -np.inf
        self.calls = []

    def to_play(self, row, state):
        return None if self.player is None else torch.from_numpy(self.player[row, state])

    def root(self):
        row = np.arange(self.B)
        latent = {
            "row": torch.from_numpy(row),
            "state": torch.zeros(self.B).long(),
            "action": torch.zeros(self.B).long(),
        }
        logits, value = torch.from_numpy(self.logits[:, 0]), torch.from_numpy(self.value[:, 0])
        return stochastic_root(RootNode(latent, logits, value, self.to_play(row, 0 * row)), self.C)

    def decide(self, latent, action):
        self.calls.append(("decision", len(action)))
        index = latent["row"].numpy(), latent["state"].numpy(), action.numpy()
        value, logits = self.afterstate_value[index], self.outcome_logits[index]
        return Afterstate(latent | {"action": action.clone()}, torch.from_numpy(value), torch.from_numpy(logits))

    def happen(self, latent, outcome):
        self.calls.append(("chance", len(outcome)))
        index = latent["row"].numpy(), latent["state"].numpy(), latent["action"].numpy(), outcome.numpy()
        state = self.next[index]
        numbers = self.reward[index], self.discount[index], self.logits[index[0], state], self.value[index[0], state]
        new = {"row": latent["row"], "state": torch.from_numpy(state), "action": torch.zeros_like(outcome)}
        return Step(new, *map(torch.from_numpy, numbers), self.to_play(index[0], state))

    def model(self, by_mask=None):
        return stochastic_model(self.decide, self.happen, self.A, self.C, by_mask)


class Node:
    def __init__(self, is_chance, state, action, reward, discount, logits, value, player):
        self.is_chance, self.state, self.action, self.player = is_chance, state, action, player
        self.reward, self.discount = F(reward), F(discount)
        self.raw_value = F(value) if discount != 0 else F(0)
        weights = np.exp(logits - logits.max())
        self.priors = weights / weights.sum()
        self.legal = logits > -np.inf
        self.children, self.visits, self.value_sum = {}, 0, 0.0


class SlowSearch:
    """One tree. Quantities of a node are in the view of its player; of an afterstate, in that of who acted."""

    def __init__(self, game, row, c1=1.25, c2=19652.0, minimum_range=0.01):
        self.game, self.row, self.c1, self.c2, self.minimum_range = game, row, c1, c2, minimum_range
        self.low, self.high = math.inf, -math.inf

    def q_value(self, parent, child):
        sign = 1 if parent.player == child.player else -1
        return child.reward + sign * child.discount * child.value_sum / child.visits

    def choose(self, node):
        scores = []
        exploration = math.sqrt(node.visits) * (self.c1 + math.log((node.visits + self.c2 + 1) / self.c2))
        for edge, prior in enumerate(node.priors):
            child = node.children.get(edge)
            visits = child.visits if child else 0
            if node.is_chance:
                score = F(prior) / F(visits + 1)
            else:
                scaled = (
                    (self.q_value(node, child) - self.low) / max(self.high - self.low, self.minimum_range)
                    if child
                    else 0
                )
                score = scaled + exploration * prior / (visits + 1)
            scores.append(score if node.legal[edge] else -math.inf)
        return int(np.argmax(scores))

    def expand(self, node, edge):
        game, row = self.game, self.row
        if node.is_chance:
            index = row, node.state, node.action, edge
            state = game.next[index]
            player = None if game.player is None else game.player[row, state]
            logits, value = game.logits[row, state], game.value[row, state]
            child = Node(False, state, 0, game.reward[index], game.discount[index], logits, value, player)
        else:
            index = row, node.state, edge
            logits, value = game.outcome_logits[index], game.afterstate_value[index]
            child = Node(True, node.state, edge, 0.0, 1.0, logits, value, node.player)
        node.children[edge] = child
        return child

    def run(self, num_simulations):
        game, row = self.game, self.row
        player = None if game.player is None else game.player[row, 0]
        root = Node(False, 0, 0, 0.0, 1.0, game.logits[row, 0], game.value[row, 0], player)
        root.visits, root.value_sum = 1, float(root.raw_value)
        for _ in range(num_simulations):
            node, path = root, [root]
            while True:
                edge = self.choose(node)
                is_new = edge not in node.children
                node = self.expand(node, edge) if is_new else node.children[edge]
                path.append(node)
                if is_new or node.discount == 0:
                    break
            value = float(node.raw_value)
            for depth in range(len(path) - 1, -1, -1):
                node = path[depth]
                node.visits += 1
                node.value_sum += value
                if depth > 0:
                    parent = path[depth - 1]
                    q_value = self.q_value(parent, node)
                    self.low, self.high = min(self.low, q_value), max(self.high, q_value)
                    value = node.reward + (1 if parent.player == node.player else -1) * node.discount * value
        children = [root.children.get(action) for action in range(game.A)]
        visits = [child.visits if child else 0 for child in children]
        return visits, root.value_sum / root.visits, [self.q_value(root, child) if child else 0 for child in children]


SIZES = [(1, 1, 1), (3, 3, 3), (3, 2, 6), (3, 6, 2), (2, 4, 1), (2, 1, 4)]


@pytest.mark.parametrize(
    "discounts", [(0.9,), (0.0, 0.95, 1.0), (-0.9, 0.0, -1.0)], ids=["goes_on", "ends", "two_players"]
)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_slow_search(size, discounts):
    check(StochasticGame(*size, seed=sum(size), discounts=discounts))


@pytest.mark.parametrize("size", SIZES[1:3], ids=str)
def test_equals_the_slow_search_with_any_order_of_turns(size):
    check(StochasticGame(*size, seed=7, discounts=(0.0, 0.9, 0.9), players=True))


def check(game, num_simulations=90):
    result = search(game.root(), game.model(), num_simulations, SearchSettings())
    assert (result.visits[:, game.A :] == 0).all()
    for row in range(game.B):
        visits, value, q_values = SlowSearch(game, row).run(num_simulations)
        assert result.visits[row, : game.A].tolist() == visits
        np.testing.assert_allclose(result.value[row].item(), value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.q_values[row, : game.A].numpy(), q_values, rtol=1e-5, atol=1e-5)


def test_the_tree_alternates():
    game = StochasticGame(3, 3, 5, seed=2)
    tree = search(game.root(), game.model(), 60, SearchSettings()).tree
    for row in range(3):
        for node in range(1, 61):
            parent = int(tree.parents[row, node])
            assert int(tree.kinds[row, node]) == 1 - int(tree.kinds[row, parent])
            if tree.kinds[row, node] == 1:
                assert (tree.rewards[row, node], tree.discounts[row, node]) == (0.0, 1.0)


def test_outcomes_are_visited_by_their_probability_alone():
    """One action, outcomes of 0.7, 0.2 and 0.1 whose worths differ by a thousand, 100 visits."""

    def decide(latent, action):
        return Afterstate(latent, torch.zeros(1), torch.tensor([[0.7, 0.2, 0.1]]).log())

    def happen(latent, outcome):
        return Step(latent, outcome.float() * 1000.0, torch.zeros(1), torch.zeros(1, 1), torch.zeros(1))

    root = stochastic_root(RootNode(torch.zeros(1, 2), torch.zeros(1, 1), torch.zeros(1)), 3)
    result = search(root, stochastic_model(decide, happen, 1, 3), 101, SearchSettings())
    chance = int(result.tree.children[0, 0, 0])
    assert result.tree.edge_visits[0, chance].tolist() == [70, 20, 10]
    # 100 outcomes and the afterstate's own evaluation.
    assert result.q_values[0, 0].item() == pytest.approx(40_000.0 / 101)


def test_sampled_chance_follows_the_probabilities():
    def decide(latent, action):
        return Afterstate(latent, torch.zeros(64), torch.tensor([[0.7, 0.2, 0.1]]).log().expand(64, -1))

    def happen(latent, outcome):
        return Step(latent, outcome.float(), torch.zeros(64), torch.zeros(64, 1), torch.zeros(64))

    root = stochastic_root(RootNode(torch.zeros(64, 2), torch.zeros(64, 1), torch.zeros(64)), 3)
    model = stochastic_model(decide, happen, 1, 3)
    tree = search(root, model, 201, SearchSettings(chance="sampled"), seed=3).tree
    shares = tree.edge_visits[:, 1].float().mean(0) / 200
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0.0)
    assert len({tuple(row) for row in tree.edge_visits[:, 1].tolist()}) > 30  # rows draw for themselves


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_by_mask_is_the_same(size):
    game = StochasticGame(*size, seed=5, discounts=(0.9, 0.0))
    apart = search(game.root(), game.model(by_mask=False), 40, SearchSettings())
    together = search(game.root(), game.model(by_mask=True), 40, SearchSettings())
    assert torch.equal(apart.visits, together.visits)
    assert torch.equal(apart.q_values, together.q_values)


def test_only_the_needed_function_runs():
    game = StochasticGame(6, 3, 4, seed=9)
    search(game.root(), game.model(), 50, SearchSettings())
    assert sum(num for _, num in game.calls) == 6 * 50
    assert all(num > 0 for _, num in game.calls)
    assert game.calls[0] == ("decision", 6)
    assert {kind for kind, _ in game.calls} == {"decision", "chance"}
    assert any(num < 6 for _, num in game.calls)
    game.calls.clear()
    search(game.root(), game.model(by_mask=True), 10, SearchSettings())
    assert game.calls == [("decision", 6), ("chance", 6)] * 10


def test_several_leaves_at_once():
    game = StochasticGame(3, 4, 4, seed=3)
    result = search(game.root(), game.model(), 60, SearchSettings(leaves_per_round=4))
    assert (result.visits.sum(1) == 60).all()


def test_a_state_without_legal_actions_gets_no_edge_beyond_them():
    """Two actions, four outcomes; logits of -inf only count as equal, but not those beyond the second."""

    def decide(latent, action):
        assert action.max() < 2
        return Afterstate(latent, torch.zeros(1), torch.zeros(1, 4))

    def happen(latent, outcome):
        return Step(latent, torch.zeros(1), torch.ones(1), torch.full((1, 2), -torch.inf), torch.zeros(1))

    root = stochastic_root(RootNode(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1)), 4)
    assert search(root, stochastic_model(decide, happen, 2, 4), 200, SearchSettings()).visits.sum() == 200


def test_a_root_without_legal_actions_is_refused():
    root = stochastic_root(RootNode(torch.zeros(1, 2), torch.full((1, 2), -torch.inf), torch.zeros(1)), 4)
    with pytest.raises(ValueError, match="no legal action"):
        search(root, lambda *_: None, 1, SearchSettings())


def test_sizes():
    assert num_edges(3, 5) == num_edges(5, 3) == 5
    root = stochastic_root(RootNode((), torch.tensor([[1.0, -torch.inf]]), torch.zeros(1)), 4)
    assert root.prior_logits.tolist() == [[1.0] + [-math.inf] * 3]
    assert root.latent.is_chance.tolist() == [False]
    with pytest.raises(ValueError, match="num_outcomes is 0"):
        stochastic_model(lambda *_: None, lambda *_: None, 2, 0)


def good_decide(latent, action):
    return Afterstate(latent, torch.zeros(len(action)), torch.zeros(len(action), 3))


def good_happen(latent, outcome):
    num = len(outcome)
    return Step(latent, torch.zeros(num), torch.ones(num), torch.zeros(num, 2), torch.zeros(num))


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        ("decide", lambda answer: answer.latent, "decision_step returned a Tensor; expected an Afterstate"),
        ("decide", lambda answer: answer._replace(value=torch.zeros(2, 1)), r"decision_step's value has .* \(2,\)"),
        ("decide", lambda answer: answer._replace(outcome_logits=torch.zeros(2, 2)), "decision_step's outcome_logits"),
        ("decide", lambda answer: answer._replace(latent=torch.zeros(2, 5)), "decision_step's latent has the shape"),
        ("decide", lambda answer: answer._replace(latent=answer.latent.double()), "dtype torch.float64; expected"),
        ("decide", lambda answer: answer._replace(latent={"a": answer.latent}), "decision_step's latent: the nested"),
        ("happen", lambda answer: answer.latent, "chance_step returned a Tensor; expected a Step"),
        ("happen", lambda answer: answer._replace(reward=torch.zeros(1)), "chance_step's reward has the shape"),
        ("happen", lambda answer: answer._replace(prior_logits=torch.zeros(2, 3)), "chance_step's prior_logits has"),
        ("happen", lambda answer: answer._replace(latent=answer.latent[:, :1]), "chance_step's latent has the shape"),
        ("happen", lambda answer: answer._replace(is_chance=torch.ones(2).bool()), "chance_step's is_chance is set"),
        ("happen", lambda answer: answer._replace(to_play=torch.ones(2).long()), "to_play and that of the root"),
    ],
)
def test_answers_that_cannot_be_used(which, change, message):
    functions = {"decide": good_decide, "happen": good_happen}
    good = functions[which]
    functions[which] = lambda latent, action: change(good(latent, action))
    root = stochastic_root(RootNode(torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2)), 3)
    with pytest.raises(ValueError, match=message):
        search(root, stochastic_model(functions["decide"], functions["happen"], 2, 3), 3, SearchSettings())


def test_puct_settings_reach_decision_nodes_only():
    game = StochasticGame(2, 3, 3, seed=4)
    settings = SearchSettings(root=Puct(c1=0.3, c2=50.0), interior=Puct(c1=0.3, c2=50.0))
    result = search(game.root(), game.model(), 70, settings)
    for row in range(2):
        visits, value, _ = SlowSearch(game, row, c1=0.3, c2=50.0).run(70)
        assert result.visits[row].tolist() == visits
        assert result.value[row].item() == pytest.approx(value, rel=1e-5, abs=1e-5)
