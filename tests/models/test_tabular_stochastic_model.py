import gymnasium
import pytest
import torch
from risky_branch import END, LUCKY, RISKY, SAFE, START, UNLUCKY, VALUES, exact_model, model_of_actions, tables

from alfish.environments.simulators.tabular import make_tabular_simulator
from alfish.mcts.search import search
from alfish.mcts.search_policies import GumbelPolicy, PuctPolicy
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.models.tabular_stochastic_model import TabularStochasticModel

ROOT = torch.tensor([START])


def searched(model, num_simulations=400, **settings):
    return search(model.root(ROOT), model.step, num_simulations, SearchSettings(**settings))


@pytest.mark.parametrize("chance", ["balanced", "sampled"])
def test_the_search_finds_the_safe_arm(chance):
    result = searched(exact_model(), chance=chance)
    assert result.visits[0].argmax() == SAFE
    assert result.visits[0, SAFE] > 0.8 * result.visits.sum()
    assert result.q_values[0, SAFE].item() == pytest.approx(1.8, abs=0.1)
    # Less than 1.5, because the search also tries the worse action behind each outcome.
    assert 1.0 < result.q_values[0, RISKY].item() < 1.6


def test_a_model_of_actions_alone_is_fooled():
    result = searched(model_of_actions())
    assert result.visits[0].argmax() == RISKY
    assert result.q_values[0, RISKY].item() == pytest.approx(2.0, abs=0.1)


def test_chance_is_no_player():
    """With outcomes that the search may choose, as of actions, the risky arm is taken for 2."""
    model = exact_model()
    result = search(model.root(ROOT), lambda *asked: model.step(*asked)._replace(is_chance=None), 400, SearchSettings())
    assert result.visits[0].argmax() == RISKY


REGULARISED = RegularisedPolicy()
POLICIES = {
    "puct": PuctPolicy(),
    "parent": PuctPolicy(SearchSettings(Puct(unvisited_value="parent"), Puct(unvisited_value="parent"))),
    "regularised": PuctPolicy(SearchSettings(REGULARISED, REGULARISED), act=REGULARISED, learn=REGULARISED),
    "gumbel": GumbelPolicy(),
    "gumbel_node": GumbelPolicy(SearchSettings(SequentialHalving(), ImprovedPolicy(value_scale=1.0), "node")),
    "sampled_chance": PuctPolicy(SearchSettings(chance="sampled", tie_breaking="random")),
    "several_leaves": PuctPolicy(SearchSettings(leaves_per_round=4)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_way_of_choosing_finds_the_safe_arm(name):
    """Three outcomes, so that nodes have an edge that is no action."""
    torch.manual_seed(0)
    model = padded_model()
    for explore in (False, True):
        found = POLICIES[name](model.root(ROOT.expand(8)), model.step, 400, explore=explore)
        assert found.policy.shape == (8, 3)
        assert (found.policy[:, 2] == 0).all()
        assert (found.action < 2).all()
        if not explore:
            assert (found.action == SAFE).all()
            assert (found.policy[:, SAFE] > 0.5).all()


def padded_model():
    probability, *others = (torch.nn.functional.pad(table, (0, 1)) for table in tables())
    return TabularStochasticModel(probability, *others)


def test_steps_by_hand():
    model = exact_model(value=VALUES)
    root = model.root(torch.tensor([START, UNLUCKY]))
    assert root.value.tolist() == pytest.approx([1.8, 1.0])
    after = model.step(root.latent, torch.tensor([RISKY, 1]))
    assert after.value.tolist() == [1.5, 1.0]
    assert after.prior_logits.softmax(1).tolist() == [[0.5, 0.5], [1.0, 0.0]]
    step = model.step(after.latent, torch.tensor([1, 0]))
    assert step.latent.latent.state.tolist() == [UNLUCKY, END]
    assert step.reward.tolist() == [0.0, 1.0]
    assert step.discount.tolist() == [1.0, 0.0]
    assert step.value.tolist() == [1.0, 0.0]


def test_illegal_actions():
    legal = torch.ones(5, 2, dtype=torch.bool)
    legal[START, SAFE] = legal[LUCKY, 0] = False
    result = searched(exact_model(legal_mask=legal))
    assert result.visits[0].tolist() == [400, 0]
    assert result.q_values[0, RISKY].item() < 0.6  # 0 for lucky, 1 for unlucky


def test_frozen_lake():
    """With exact leaf values the search acts optimally wherever one action is clearly better than the others."""
    transitions = gymnasium.make("FrozenLake-v1").unwrapped.P
    values, action_values = value_iteration(transitions, 0.97)
    outcomes = make_tabular_simulator("FrozenLake-v1").outcomes
    discount = torch.where(outcomes.ends, 0.0, 0.97)
    model = TabularStochasticModel(
        outcomes.probability.float(), outcomes.next_state, outcomes.reward, discount, values.float()
    )
    best, second = action_values.sort(dim=1, descending=True).values[:, :2].T
    states = (best - second > 0.02).nonzero().squeeze(1)
    assert len(states) >= 6
    result = search(model.root(states), model.step, 300, SearchSettings())
    assert torch.equal(result.visits.argmax(1), action_values[states].argmax(1))
    for action in range(4):
        after = model.step(model.root(states).latent, torch.full_like(states, action))
        torch.testing.assert_close(after.value, action_values[states, action].float(), atol=1e-6, rtol=0.0)


def value_iteration(transitions, discount):
    values = torch.zeros(len(transitions), dtype=torch.float64)
    for _ in range(2000):
        table = [
            [sum(p * (r + (0 if over else discount * values[s])) for p, s, r, over in row) for row in actions.values()]
            for actions in transitions.values()
        ]
        table = torch.tensor(table, dtype=torch.float64)
        if torch.allclose(table.amax(1), values, atol=1e-9, rtol=0.0):
            break
        values = table.amax(1)
    return values, table


def test_errors():
    probability, next_state, reward, discount = tables()
    with pytest.raises(ValueError, match=r"reward has the shape \(5, 2\); expected \(5, 2, 2\)"):
        TabularStochasticModel(probability, next_state, reward[..., 0], discount)
    with pytest.raises(ValueError, match="add up to 1"):
        TabularStochasticModel(probability * 0.9, next_state, reward, discount)
    with pytest.raises(ValueError, match="outside 0 … 4"):
        TabularStochasticModel(probability, next_state + 1, reward, discount)
    with pytest.raises(ValueError, match=r"value has the shape \(4,\); expected \(5,\)"):
        exact_model(value=torch.zeros(4))
    with pytest.raises(ValueError, match=r"probability has the shape \(5,\)"):
        TabularStochasticModel(probability[:, 0, 0], next_state, reward, discount)
