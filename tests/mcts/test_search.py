"""The search: threads, rows, a tree by hand, its inputs and errors. The oracle has files of its own."""

import copy
import functools
import math

import pytest
import torch
from random_game import RandomGame

from alfish.mcts.records import RootNode, Step
from alfish.mcts.root_policies import root_policy
from alfish.mcts.search import search
from alfish.mcts.settings import Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.subtree import reroot
from alfish.mcts.tree import Tree


def puct(unvisited_value=0.0, c1=1.25, c2=19652.0, **shared):
    """PUCT at the root and below."""
    rule = Puct(c1, c2, unvisited_value)
    return SearchSettings(rule, rule, **shared)


def test_threads_give_the_same_result(monkeypatch):
    model = RandomGame(16, 4, [0.9, 0.0], seed=8)
    serial = search(model.root(), model, 25, puct())
    threads = torch.get_num_threads()
    monkeypatch.setattr("alfish.mcts.host.PARALLEL_EDGES", 1)
    try:
        torch.set_num_threads(2)
        parallel = search(model.root(), model, 25, puct())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(serial.value, parallel.value)
    assert torch.equal(serial.q_values, parallel.q_values)
    assert torch.equal(serial.visits, parallel.visits)


def test_rows_do_not_see_each_other():
    model = RandomGame(5, 4, [0.9, 0.0], seed=3)
    whole = search(model.root(), model, 30, puct())
    for row in range(5):
        root = RootNode(
            {name: leaf[row : row + 1] for name, leaf in model.root().latent.items()},
            model.root().prior_logits[row : row + 1],
            model.root().value[row : row + 1],
        )
        alone = search(root, model, 30, puct())
        assert torch.equal(alone.visits[0], whole.visits[row])
        assert torch.equal(alone.value[0], whole.value[row])


def test_is_deterministic_and_draws_nothing():
    model = RandomGame(3, 4, [0.9], seed=4)
    state = torch.get_rng_state()
    first, second = (search(model.root(), model, 30, puct()) for _ in range(2))
    assert torch.equal(first.visits, second.visits)
    assert torch.equal(first.q_values, second.q_values)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("discounts", [[0.9], [0.0, 0.9]])
def test_tree_is_consistent(discounts):
    model = RandomGame(3, 4, discounts, seed=6)
    tree = search(model.root(), model, 40, puct(max_depth=4)).tree
    for row in range(3):
        for node in range(41):
            if tree.visits[row, node] == 0:
                assert tree.parents[row, node] == -1
                continue
            inside = tree.edge_visits[row, node].sum()
            stops = tree.visits[row, node] - inside
            assert stops >= 1
            children = tree.children[row, node]
            for action in (children >= 0).nonzero().flatten().tolist():
                child = children[action]
                assert (tree.parents[row, child], tree.actions[row, child]) == (node, action)
                assert tree.edge_visits[row, node, action] == tree.visits[row, child]
        assert tree.visits[row, 0] == 41


def test_a_search_by_hand():
    """Two actions, rewards 0 and 1, every edge ends: priors 0.5; exploration(n) ≈ 1.25 √n.

    n = 1: scores 0.625, 0.625 → action 0, Q 0. n = 2: 0 + 0.88/2, 0.88 → action 1, Q 1; scaled Q is 0 and 1.
    n = 3: 0.54, 1.54 → action 1. n = 4: 0.625, 1 + 1.25/3 → action 1. Value: (4 + 0 + 1 + 1 + 1) / 5 = 1.4.
    """

    def model(latent, action):
        ones = torch.ones(1)
        return Step(latent, action.float(), 0 * ones, torch.zeros(1, 2), 7 * ones)

    root = RootNode(torch.zeros(1, 3), torch.zeros(1, 2), torch.tensor([4.0]))
    result = search(root, model, 4, puct())
    assert result.visits.tolist() == [[1, 3]]
    assert result.q_values.tolist() == [[0.0, 1.0]]
    assert result.value.item() == pytest.approx(1.4)


def constant_model(logits, reward=0.0, discount=0.9, value=0.0):
    def model(latent, action):
        B = len(action)
        answer = torch.tensor(logits, dtype=torch.float32).expand(B, -1)
        return Step(latent, *(torch.full((B,), float(x)) for x in (reward, discount)), answer, torch.full((B,), value))

    return model, RootNode((), torch.tensor([logits]), torch.tensor([float(value)]))


BIG = 3.4e38


@pytest.mark.parametrize(
    "logits", [[BIG, -BIG, 0.0], [-BIG] * 3, [BIG] * 3, [-math.inf, -BIG, 1.0], [0.0, -200.0, 0.0]]
)
@pytest.mark.parametrize("unvisited", [0.0, "parent", "siblings"])
@pytest.mark.parametrize("value", [0.0, -1e30, 1e36])
def test_extreme_numbers(logits, unvisited, value):
    model, root = constant_model(logits, value=value)
    result = search(root, model, 50, puct(unvisited_value=unvisited))
    assert torch.isfinite(result.value).all()
    assert result.visits.sum() == 50
    illegal = torch.tensor(logits) == -math.inf
    assert (result.visits[0][illegal] == 0).all()
    assert torch.isfinite(result.tree.priors).all()
    torch.testing.assert_close(
        result.tree.priors.sum(-1)[result.tree.visits > 0],
        torch.ones(len(result.tree.visits[result.tree.visits > 0])),
        rtol=1e-6,
        atol=0,
    )


def test_equal_scores_take_the_lowest_action():
    model, root = constant_model([0.0] * 4, discount=0.0)
    assert search(root, model, 6, puct()).visits.tolist() == [[2, 2, 1, 1]]


def test_illegal_actions_below_the_root_are_not_taken_whatever_unvisited_actions_are_worth():
    model, root = constant_model([0.0, -math.inf, 0.0])
    tree = search(root, model, 50, puct(unvisited_value=100.0)).tree
    assert (tree.edge_visits[:, :, 1] == 0).all()


def test_a_node_without_legal_actions_below_the_root_treats_all_as_legal_and_equal():
    model, root = constant_model([-math.inf] * 2)
    root = root._replace(prior_logits=torch.zeros(1, 2))
    tree = search(root, model, 20, puct()).tree
    assert (tree.priors == 0.5).all()


def test_no_simulations():
    def model(latent, action):
        raise AssertionError("not called")

    result = search(constant_model([0.0, 1.0], value=2.5)[1], model, 0, puct())
    assert result.visits.tolist() == [[0, 0]]
    assert result.value.tolist() == [2.5]


def test_other_dtypes_layouts_and_gradients_are_accepted():
    weight = torch.nn.Parameter(torch.ones(()))
    latent = torch.zeros(2, 4, 3).permute(0, 2, 1) * weight

    def model(latent, action):
        assert latent.shape == (2, 3, 4)
        wide = torch.zeros(3, 2).t() * weight
        return Step(latent + 1, wide[:, 0].double(), wide[:, 1], wide.bfloat16(), wide[:, 2])

    result = search(RootNode(latent, torch.zeros(2, 3), torch.zeros(2)), model, 5, puct())
    assert not result.value.requires_grad
    assert result.visits.sum() == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": math.nan}, "reward is nan in simulation 1 of row 0; expected a finite number"),
        ({"value": math.inf}, "value is inf in simulation 1"),
        ({"discount": 1.5}, r"discount is 1.5 in simulation 1 of row 0; expected a number in \[-1, 1\]"),
        ({"discount": math.nan}, "discount is nan"),
        ({"logits": [0.0, math.nan]}, "prior_logits is nan in simulation 1"),
        ({"logits": [math.inf, 0.0]}, "prior_logits is inf"),
        (
            {"reward": 1.6e38, "discount": 1.0},
            "the value backed up is .* in simulation 3 of row 0; expected one within",
        ),
    ],
)
def test_unusable_answers_are_named(change, message):
    model, root = constant_model(**{"logits": [0.0, 0.0], **change})
    root = root._replace(prior_logits=torch.zeros(1, 2), value=torch.zeros(1))
    with pytest.raises(ValueError, match=message):
        search(root, model, 40, puct(max_depth=2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prior_logits": torch.zeros(3)}, r"prior_logits has the shape \(3,\)"),
        ({"prior_logits": torch.zeros(0, 3)}, "both at least 1"),
        ({"value": torch.zeros(2, 1)}, r"root.value has the shape \(2, 1\); expected \(2,\)"),
        ({"value": torch.tensor([0.0, math.nan])}, "root.value is nan in row 1"),
        ({"prior_logits": torch.tensor([[0.0, 0.0], [0.0, math.nan]])}, "root.prior_logits of row 1"),
        ({"prior_logits": torch.tensor([[0.0, 0.0], [-math.inf] * 2])}, "row 1 has no legal action"),
        ({"latent": {"x": torch.zeros(3, 1)}}, "root.latent x has the shape"),
        ({"latent": {"x": torch.zeros(2, 1, device="meta")}}, "root.latent x is on meta; expected cpu"),
    ],
)
def test_unusable_roots_are_named(change, message):
    root = RootNode(torch.zeros(2, 1), torch.zeros(2, 2), torch.zeros(2))._replace(**change)
    with pytest.raises(ValueError, match=message):
        search(root, constant_model([0.0, 0.0])[0], 3, puct())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.tensor([[True, True], [False, False]]), "row 1 has no legal action"),
        (torch.ones(2, 3, dtype=torch.bool), "legal_mask has the shape"),
        (torch.ones(2, 2), "expected torch.bool"),
    ],
)
def test_unusable_masks_are_named(mask, message):
    root = RootNode((), torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match=message):
        search(root, constant_model([0.0, 0.0])[0], 3, puct(), mask)


@pytest.mark.parametrize("num_simulations", [-1, 2.0, True])
def test_unusable_numbers_of_simulations_are_named(num_simulations):
    model, root = constant_model([0.0, 0.0])
    with pytest.raises(ValueError, match="num_simulations is"):
        search(root, model, num_simulations, puct())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": torch.zeros(1)}, r"the model's reward has the shape \(1,\); expected \(2,\)"),
        ({"prior_logits": torch.zeros(1, 2)}, "the model's prior_logits"),
        ({"latent": torch.zeros(1, 1)}, "the model's latent"),
        ({"latent": {"x": torch.zeros(2, 1)}}, "nested structure"),
    ],
)
def test_wrong_shapes_of_answers_are_named(change, message):
    zeros = torch.zeros(2)
    step = Step(torch.zeros(2, 1), zeros, zeros, torch.zeros(2, 2), zeros)._replace(**change)
    with pytest.raises(ValueError, match=message):
        search(RootNode(torch.zeros(2, 1), torch.zeros(2, 2), zeros), lambda *_: step, 3, puct())


def test_a_later_answer_with_fewer_tensors_is_named():
    zeros, leaf = torch.zeros(2), torch.zeros(2, 1)
    latents = iter([(leaf, leaf), (leaf,)])
    root = RootNode((leaf, leaf), torch.zeros(2, 2), zeros)
    with pytest.raises(ValueError, match="latent is now .*; expected .*, as in its first answer"):
        search(root, lambda *_: Step(next(latents), zeros, zeros, torch.zeros(2, 2), zeros), 3, puct())


def test_retained_trees_are_gone_on_with_once():
    model, root = constant_model([0.0, 0.0])
    result = search(root, model, 8, puct())
    retained = reroot(result, result.visits.argmax(1), 8)
    search(root, model, 8, puct(), retained=retained)
    with pytest.raises(ValueError, match="gone on with before; expected new ones from reroot"):
        search(root, model, 8, puct(), retained=retained)


@pytest.mark.parametrize(
    ("record", "wrong"),
    [
        (Puct, {"c1": -1.0}),
        (Puct, {"c2": 0.0}),
        (Puct, {"unvisited_value": "mean"}),
        (Puct, {"unvisited_value": math.nan}),
        (RegularisedPolicy, {"c1": 0.0}),
        (SequentialHalving, {"max_considered": 0}),
        (SequentialHalving, {"value_scale": -0.1}),
        (SearchSettings, {"value_range": (1.0, 0.0)}),
        (SearchSettings, {"value_range": (-math.inf, 1.0)}),
        (SearchSettings, {"value_range": "leaf"}),
        (SearchSettings, {"minimum_range": 0.0}),
        (SearchSettings, {"max_depth": 0}),
        (SearchSettings, {"leaves_per_round": 0}),
        (SearchSettings, {"tie_breaking": "first"}),
        (SearchSettings, {"chance": "even"}),
        (SearchSettings, {"interior": SequentialHalving()}),
        (SearchSettings, {"root": "puct"}),
    ],
)
def test_unusable_settings_are_named(record, wrong):
    with pytest.raises(ValueError, match=rf"{record.__name__}.{next(iter(wrong))} is .*; expected"):
        record(**wrong)


def test_answers_may_be_views_of_the_latents_that_were_given():
    """The kernels fetch the next latents while they still read the answers."""

    def model(latent, action, copies):
        reward = latent[:1, 0].expand(4)
        following = latent.flip(0)
        if copies:
            reward, following = reward.clone(), (following + 1.0).clone() - 1.0
        return Step(following, reward, torch.full((4,), 0.9), following[:, :3], following[:, 0])

    torch.manual_seed(0)
    root = RootNode(torch.randn(4, 5), torch.randn(4, 3), torch.randn(4))
    views = search(root, functools.partial(model, copies=False), 30)
    copied = search(root, functools.partial(model, copies=True), 30)
    assert torch.equal(views.visits, copied.visits)
    torch.testing.assert_close(views.value, copied.value)


def plain(latent, action):
    zeros = torch.zeros(len(action), dtype=torch.float32)
    return Step(latent, action.float(), zeros + 0.9, torch.zeros((len(action), 3), dtype=torch.float32), zeros)


def plain_root(B=3):
    zeros = torch.zeros(B, dtype=torch.float32)
    return RootNode(zeros, torch.zeros((B, 3), dtype=torch.float32), zeros)


def test_a_model_may_change_the_actions_that_it_was_given():
    def changing(latent, action):
        step = plain(latent, action.clone())
        action.mul_(10**9)
        return step

    assert torch.equal(search(plain_root(), changing, 20).q_values, search(plain_root(), plain, 20).q_values)


def test_what_torch_makes_by_default_does_not_matter():
    expected = search(plain_root(), plain, 20)
    torch.set_default_dtype(torch.float64)
    try:
        found = search(plain_root(), plain, 20)
        assert torch.equal(root_policy(found, "visits"), root_policy(expected, "visits"))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.q_values, expected.q_values)


@pytest.mark.parametrize("shape", [(1,), (), (3, 1), (7,)])
def test_a_wrong_shape_of_the_roots_players_is_named(shape):
    root = plain_root()._replace(to_play=torch.zeros(shape))
    with pytest.raises(ValueError, match=r"root.to_play has the shape .*; expected \(3,\)"):
        search(root, plain, 3)


def test_players_that_vanish_in_the_middle_are_named():
    calls = iter(range(100))

    def forgetful(latent, action):
        players = torch.zeros(3) if next(calls) == 0 else None
        return plain(latent, action)._replace(to_play=players)

    with pytest.raises(ValueError, match="to_play came or went in the middle of a search"):
        search(plain_root()._replace(to_play=torch.zeros(3)), forgetful, 5)


def test_latents_that_do_not_fit_into_the_roots_type_are_named():
    def adding(latent, action):
        return plain(latent, action)._replace(latent=latent + 0.5)

    with pytest.raises(ValueError, match="latent  ?has the dtype torch.float32; expected torch.int64"):
        search(plain_root()._replace(latent=torch.zeros(3, dtype=torch.int64)), adding, 3)


def test_a_tree_that_was_copied_field_by_field_is_refused():
    result = search(plain_root(), plain, 5)
    copied = result._replace(tree=Tree(*(field.clone() for field in result.tree)))
    with pytest.raises(ValueError, match="are not views of one buffer in host memory"):
        root_policy(copied, "visits")
    assert torch.equal(root_policy(copy.deepcopy(result), "visits"), root_policy(result, "visits"))


def test_a_negated_view_is_refused():
    def negated(latent, action):
        return plain(latent, action)._replace(reward=torch.ones(3, dtype=torch.complex64).conj().imag)

    with pytest.raises(ValueError, match="the model's reward is a lazily negated or conjugated view"):
        search(plain_root(), negated, 3)
