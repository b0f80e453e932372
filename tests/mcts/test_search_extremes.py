"""Extreme numbers and shapes, for every rule: nothing becomes NaN, and what makes no sense is named."""

import math

import pytest
import torch
from oracle import Halving, Improved, Puct, Regularised, Settings
from search_cases import DRAWN_RULES, RULES, engine_rule, engine_settings

from alfish.mcts.records import RootNode, Step
from alfish.mcts.root_policies import halving_winner, root_policy
from alfish.mcts.search import search
from alfish.mcts.settings import ImprovedPolicy
from alfish.mcts.settings import Puct as PuctRule

BIG = 3.4e38
EVERY_RULE = RULES | DRAWN_RULES
READINGS = ["visits", engine_rule(Improved()), engine_rule(Regularised())]
SIMULATIONS = 24

every_rule = pytest.mark.parametrize("name", EVERY_RULE)


def constant_model(logits, reward=0.0, discount=0.9, value=0.0, is_chance=None):
    """The same answer everywhere; the latent is empty."""

    def model(latent, action):
        numbers = [torch.full(action.shape, float(number)) for number in (reward, discount, value)]
        reward_, discount_, value_ = numbers
        chance = None if is_chance is None else torch.full(action.shape, is_chance)
        return Step(latent, reward_, discount_, torch.tensor(logits).expand(len(action), -1), value_, None, chance)

    return model


def root_of(logits, value=0.0):
    return RootNode((), torch.tensor(logits), torch.full((len(logits),), float(value)))


def run(name, root, model, num_simulations=SIMULATIONS, legal_mask=None):
    """A search whose every number was looked at."""
    settings = EVERY_RULE[name]
    noise = None
    if isinstance(settings.root, Halving):
        generator = torch.Generator().manual_seed(0)
        noise = -torch.empty(root.prior_logits.shape).exponential_(generator=generator).log()
    result = search(root, model, num_simulations, engine_settings(settings), legal_mask, noise)
    legal = root.prior_logits > -math.inf
    if legal_mask is not None:
        legal &= legal_mask
    assert (result.visits.sum(1) == num_simulations).all()
    assert (result.visits[~legal] == 0).all()
    exists = result.tree.visits > 0
    for field in ("values", "raw_values", "rewards", "discounts", "priors", "q_values"):
        assert torch.isfinite(getattr(result.tree, field)[exists]).all(), field
    for reading in READINGS:
        policy = root_policy(result, reading)
        assert torch.isfinite(policy).all()
        torch.testing.assert_close(policy.sum(1), torch.ones(len(policy)))
        assert (policy[~legal] == 0).all()
    if isinstance(settings.root, Halving):
        assert legal.gather(1, halving_winner(result).unsqueeze(1)).all()
    return result


@every_rule
def test_logits(name):
    rows = [
        [[BIG, -BIG, 0.0], [-BIG, -BIG, -BIG], [BIG, BIG, BIG], [-math.inf, -BIG, 1.0]],
        [[0.0, -200.0, 0.0], [-math.inf, -math.inf, 5.0], [0.0, -BIG, BIG], [1e30, 0.0, -math.inf]],
    ]
    for logits in rows:
        for below in (logits[0], logits[3]):
            run(name, root_of(logits), constant_model(below, reward=0.5))


@every_rule
def test_a_visited_action_with_a_prior_of_zero(name):
    """Its legal neighbours end the game with the least value, so that it is visited where a rule can do that at all."""

    def model(latent, action):
        good = (action == 1).float()
        zeros = torch.zeros(action.shape)
        return Step(latent, good, 0.9 * good, torch.tensor([0.0, -300.0, 0.0]).expand(len(action), -1), zeros)

    result = run(name, root_of([[0.0, -300.0, 0.0]] * 2), model)
    assert (result.tree.priors[:, 0, 1] == 0).all()
    if isinstance(EVERY_RULE[name].root, Puct) and EVERY_RULE[name].root.unvisited == 0.5:
        assert (result.visits[:, 1] > 0).all()


@every_rule
def test_values(name):
    """Each row has values of another size; 1.5e37 is a tenth of what one may be, and they are added up."""
    numbers = torch.tensor([1e-45, -1e-30, 1e30, -1.5e37])

    def model(latent, action):
        number = numbers.repeat_interleave(len(action) // 4) * (2.0 * action - 3.0) / 3
        return Step(latent, number, torch.full(action.shape, 0.9), torch.zeros(len(action), 4), number)

    run(name, RootNode((), torch.zeros(4, 4), numbers), model)


@every_rule
@pytest.mark.parametrize("value", [0.0, 3.0, -1e30])
def test_all_values_equal(name, value):
    """The smallest and the largest value are the same, and so are all scores."""
    result = run(name, root_of([[0.0] * 3] * 2, value), constant_model([0.0] * 3, discount=1.0, value=value))
    assert torch.equal(result.value, torch.full((2,), value))


@pytest.mark.parametrize("bounds", [(0.0, 0.0), (5.0, 5.0), (-1e38, 1e38)])
@pytest.mark.parametrize("name", ["paper", "parent", "gumbel", "regularised", "sampled", "leaves_gumbel"])
def test_known_bounds_that_are_equal_or_huge(name, bounds, monkeypatch):
    monkeypatch.setitem(EVERY_RULE, name, EVERY_RULE[name]._replace(value_range=bounds))
    run(name, root_of([[0.0, 1.0, 2.0]] * 2), constant_model([0.0, 1.0, 2.0], reward=0.1))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(Puct(1e9, 1e-9, 1e9), Puct(1e9, 1e-9, -1e9)),
        Settings(Puct(0.0, 1e30, 0.0), Puct(0.0, 1e-9, "siblings")),
        Settings(Halving(10**6, 1e9, 1e9), Improved(1e9, 1e9)),
        Settings(Improved(0.0, 0.0), Improved(0.0, 1e9)),
        Settings(Regularised(1e9, 1e-9, -1e9), Regularised(1e-30, 1e30, 1e9)),
        Settings(Regularised(1e9, 1.0, sampled=True), Regularised(1e-30, 1e30, sampled=True)),
        Settings(minimum_range=1e-37),
        Settings(Improved(1e9, 1e9), Improved(1e9, 1e9), value_range="node", minimum_range=1e37),
    ],
    ids=str,
)
def test_settings(settings, monkeypatch):
    """The largest and smallest ones that are accepted."""
    monkeypatch.setitem(EVERY_RULE, "here", settings)
    run("here", root_of([[0.0, -3.0, 2.0], [0.5, -BIG, -math.inf]]), constant_model([0.0, -BIG, 1.0], 1.0, 0.9, 3.0))
    run("here", root_of([[0.0] * 3]), constant_model([0.0] * 3, 1e30, -0.9, -1e30))


@pytest.mark.parametrize("name", ["c1", "c2", "unvisited_value", "visit_offset", "value_scale"])
def test_settings_that_would_overflow_are_named(name):
    kind = ImprovedPolicy if name in ("visit_offset", "value_scale") else PuctRule
    with pytest.raises(ValueError, match=f"{name} is .*; expected"):
        kind(**{name: 1e-300 if name == "c2" else 3e38})


@every_rule
def test_no_simulations(name):
    def model(latent, action):
        raise AssertionError("not called")

    result = run(name, root_of([[0.0, 1.0, -math.inf], [0.0, 0.0, 0.0]], 2.5), model, num_simulations=0)
    assert result.value.tolist() == [2.5, 2.5]
    assert (result.q_values == 0).all()
    torch.testing.assert_close(root_policy(result, "visits")[0], torch.softmax(torch.tensor([0.0, 1.0, -math.inf]), 0))


@every_rule
def test_more_simulations_than_nodes(name):
    """Every edge ends the game, so there is a node for each of two actions and no more."""
    model = constant_model([0.0, 0.0], reward=1.0, discount=0.0, value=math.pi)
    result = run(name, root_of([[0.0, 0.0]] * 2), model, num_simulations=48)
    assert (result.tree.visits > 0).sum(1).max() <= 3
    assert result.value.tolist() == pytest.approx([48 / 49] * 2)


@every_rule
def test_one_legal_action(name):
    """At the root by the mask and by the logits, and below it."""
    logits, mask = [[0.0, -math.inf, 0.0], [-math.inf, 2.0, -math.inf]], torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    result = run(name, root_of(logits), constant_model([-math.inf, -math.inf, 0.0]), legal_mask=mask)
    assert result.visits.tolist() == [[SIMULATIONS, 0, 0], [0, SIMULATIONS, 0]]


@every_rule
def test_one_action_at_all(name):
    assert run(name, root_of([[0.3]]), constant_model([0.0])).visits.tolist() == [[SIMULATIONS]]


@every_rule
def test_nothing_legal_below_the_root_means_everything(name):
    result = run(name, root_of([[0.0, 0.0]]), constant_model([-math.inf, -math.inf], reward=0.1))
    assert (result.tree.priors[result.tree.visits > 0] == 0.5).all()


@every_rule
def test_nothing_legal_at_the_root_is_named(name):
    root = root_of([[0.0, -math.inf], [-math.inf, 0.0]])
    with pytest.raises(ValueError, match="row 1 has no legal action"):
        run(name, root, constant_model([0.0, 0.0]), legal_mask=torch.tensor([[True, True], [True, False]]))


@pytest.mark.parametrize("name", ["paper", "sampled", "leaves_gumbel"])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"reward": math.nan}, "reward is nan in simulation 1 of row 0; expected a finite number"),
        ({"reward": math.inf}, "reward is inf"),
        ({"value": math.nan}, "value is nan"),
        ({"discount": math.nan}, "discount is nan"),
        ({"discount": -1.5}, "discount is -1.5"),
        ({"logits": [math.nan, 0.0]}, "prior_logits is nan"),
        ({"logits": [0.0, math.inf]}, "prior_logits is inf"),
        ({"value": 1.6e38, "reward": 1.6e38, "discount": 1.0}, "the value backed up is"),
    ],
    ids=str,
)
def test_unusable_numbers_of_the_model_are_named(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        run(name, root_of([[0.0, 0.0]]), constant_model(**({"logits": [0.0, 0.0]} | wrong)))


@pytest.mark.parametrize("chance", ["balanced", "sampled"])
@pytest.mark.parametrize(
    ("logits", "possible"),
    [([BIG, -BIG, 0.0], [0]), ([-math.inf, -BIG, -200.0], [2]), ([-math.inf] * 3, [0, 1, 2]), ([BIG] * 3, [0, 1, 2])],
    ids=str,
)
def test_chance_nodes_with_extreme_probabilities(chance, logits, possible, monkeypatch):
    monkeypatch.setitem(EVERY_RULE, "here", EVERY_RULE["paper"]._replace(chance=chance))
    result = run("here", root_of([[0.0] * 3] * 2), constant_model(logits, is_chance=True))
    assert result.tree.edge_visits[:, 1:].sum((0, 1)).nonzero().flatten().tolist() == possible
