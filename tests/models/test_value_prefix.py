"""Value prefixes: the pieces, the learned model, and the search against one that keeps prefixes in its nodes."""

import functools
import math

import numpy as np
import pytest
import torch
from muzero_parts import ACTION, OBSERVATION, random_block, small_model, small_muzero, small_support

from alfish import nest
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.settings import SearchSettings
from alfish.models.search_model import SearchModel
from alfish.models.unroll import unroll
from alfish.models.value_prefix import advance_prefix, rewards_of_prefixes, start_prefix, value_prefixes
from alfish.models.value_prefix_mcts_model import ValuePrefixMCTSModel
from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding, ImagePrediction
from alfish.networks.value_prefix_network import RecurrentValuePrefix
from alfish.specs import TensorSpec

F = np.float32


def prefix_model(horizon=3, **options):
    """A ValuePrefixMCTSModel of small networks with outputs that are not 0."""
    model = ValuePrefixMCTSModel(
        OBSERVATION,
        ACTION,
        functools.partial(small_model, reward_support=None, **options),
        functools.partial(RecurrentValuePrefix, state_size=16, hidden_sizes=(16,)),
        small_support(4.0, 9),
        horizon,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def test_prefixes_by_hand():
    reward = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0], [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    expected = [[1.0, 3.0, 7.0, 8.0, 24.0, 56.0, 64.0], [0.0, 1.0, 1.0, 0.0, 1.0, 2.0, 0.0]]
    assert value_prefixes(reward, 3).tolist() == expected
    assert value_prefixes(reward, 1).tolist() == reward.tolist()
    assert value_prefixes(reward, 9).tolist() == reward.cumsum(1).tolist()
    assert value_prefixes(reward[:, :0], 3).shape == (2, 0)


def test_rewards_come_back_from_prefixes():
    reward = torch.randint(-3, 4, (4, 2, 7), generator=torch.Generator().manual_seed(0)).float()
    for horizon in (1, 2, 3, 7, 9):
        assert torch.equal(rewards_of_prefixes(value_prefixes(reward, horizon), horizon), reward)


def test_a_walk_by_hand():
    """Horizon 2, predicted prefixes 3, 5, 4, 7, 1: the rewards are 3, 2, 4, 3, 1."""
    latent = start_prefix(torch.zeros(1, 1), (torch.zeros(1, 2),))
    rewards, steps, kept = [], [], []
    for prefix in (3.0, 5.0, 4.0, 7.0, 1.0):
        latent, reward = advance_prefix(latent, torch.ones(1, 1), (torch.ones(1, 2),), torch.tensor([prefix]), 2)
        rewards.append(reward.item())
        steps.append(latent.steps_since_reset.item())
        kept.append((latent.prefix.item(), latent.reward_state[0].tolist()))
    assert rewards == [3.0, 2.0, 4.0, 3.0, 1.0]
    assert steps == [1, 0, 1, 0, 1]
    zero, one = [[0.0, 0.0]], [[1.0, 1.0]]
    assert kept == [(3.0, one), (0.0, zero), (4.0, one), (0.0, zero), (1.0, one)]


def test_rows_reset_at_their_own_step():
    latent = start_prefix(torch.zeros(3, 1), torch.zeros(3, 2))
    latent = latent._replace(prefix=torch.tensor([1.0, 0.0, 2.0]), steps_since_reset=torch.tensor([2, 0, 1]))
    new, reward = advance_prefix(latent, torch.ones(3, 1), torch.ones(3, 2), torch.tensor([5.0, 6.0, 7.0]), 3)
    assert reward.tolist() == [4.0, 6.0, 5.0]
    assert new.steps_since_reset.tolist() == [0, 1, 2]
    assert new.prefix.tolist() == [0.0, 6.0, 7.0]
    assert new.reward_state.tolist() == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
    assert new.latent.tolist() == [[1.0]] * 3


# ---- the search: a network of the prefix that both sides compute with the same roundings

STATES, ACTIONS = 5, 3


class PrefixGame:
    """B random games. The recurrent state is one number: `tanh`-like, a function of its past and the new edge."""

    def __init__(self, B, seed, discounts):
        rng = np.random.default_rng(seed)
        self.B = B
        self.next = rng.integers(0, STATES, (B, STATES, ACTIONS))
        self.push = rng.standard_normal((B, STATES, ACTIONS)).astype(F)
        self.discount = rng.choice(np.asarray(discounts, F), (B, STATES, ACTIONS))
        self.logits = (3 * rng.standard_normal((B, STATES, ACTIONS))).astype(F)
        self.value = (2 * rng.standard_normal((B, STATES))).astype(F)

    def prefix(self, index, state):
        """The next recurrent state and the prefix; float32 numbers or arrays of them."""
        state = state * F(0.5) + self.push[index]
        return state, state * F(1.5) - state * state * F(0.25)

    def root(self, horizon):
        rows = torch.arange(self.B)
        latent = start_prefix({"row": rows, "state": torch.zeros_like(rows)}, torch.zeros(self.B))
        return RootNode(latent, torch.from_numpy(self.logits[:, 0]), torch.from_numpy(self.value[:, 0])), (
            functools.partial(self.step, horizon)
        )

    def step(self, horizon, latent, action):
        index = (latent.latent["row"].numpy(), latent.latent["state"].numpy(), action.numpy())
        state = torch.from_numpy(self.next[index])
        reward_state, prefix = map(torch.from_numpy, self.prefix(index, latent.reward_state.numpy()))
        new, reward = advance_prefix(
            latent, {"row": latent.latent["row"], "state": state}, reward_state, prefix, horizon
        )
        rows = index[0], state.numpy()
        return Step(
            new,
            reward,
            torch.from_numpy(self.discount[index]),
            torch.from_numpy(self.logits[rows]),
            torch.from_numpy(self.value[rows]),
        )


class PrefixNode:
    """A node as EfficientZero keeps it: the prefix that led here, and whether the recurrent state was reset after."""

    def __init__(self, state, reward_state, prefix, is_reset, search_length, discount, logits, value):
        self.state, self.reward_state, self.prefix, self.is_reset = state, reward_state, prefix, is_reset
        self.search_length, self.discount = search_length, discount
        self.raw_value = value if discount != 0 else F(0)
        weights = np.exp(logits - logits.max())
        self.priors = weights / weights.sum()
        self.children = {}
        self.visits, self.value_sum = 0, F(0)


class EfficientZeroSearch:
    """One tree, slow; true rewards are made of prefixes where they are needed: in the backup and in the range of Q."""

    def __init__(self, game, row, horizon, c1=1.25, c2=19652.0, minimum_range=0.01):
        self.game, self.row, self.horizon = game, row, horizon
        self.c1, self.c2, self.minimum_range = c1, c2, minimum_range
        self.low, self.high = math.inf, -math.inf
        self.deepest = 0

    def true_reward(self, parent, node):
        return node.prefix if parent.is_reset else node.prefix - parent.prefix

    def q_value(self, parent, node):
        return self.true_reward(parent, node) + node.discount * (node.value_sum / F(node.visits))

    def choose(self, node):
        exploration = math.sqrt(node.visits) * (self.c1 + math.log((node.visits + self.c2 + 1) / self.c2))
        scores = []
        for action in range(ACTIONS):
            child = node.children.get(action)
            scaled = 0.0
            if child:
                scaled = (self.q_value(node, child) - self.low) / max(self.high - self.low, self.minimum_range)
            scores.append(scaled + exploration * node.priors[action] / ((child.visits if child else 0) + 1))
        return int(np.argmax(scores))

    def expand(self, parent, action):
        game, index = self.game, (self.row, parent.state, action)
        # The state after a reset is zeros, whatever the network had made of it.
        reward_state, prefix = game.prefix(index, F(0) if parent.is_reset else parent.reward_state)
        state, length = game.next[index], parent.search_length + 1
        child = PrefixNode(
            state,
            reward_state,
            prefix,
            length % self.horizon == 0,
            length,
            game.discount[index],
            game.logits[self.row, state],
            game.value[self.row, state],
        )
        parent.children[action] = child
        return child

    def run(self, num_simulations):
        game, row = self.game, self.row
        root = PrefixNode(0, F(0), F(0), False, 0, F(1), game.logits[row, 0], game.value[row, 0])
        root.visits, root.value_sum = 1, root.raw_value
        for _ in range(num_simulations):
            node, path = root, [root]
            while True:
                action = self.choose(node)
                is_new = action not in node.children
                node = self.expand(node, action) if is_new else node.children[action]
                path.append(node)
                if is_new or node.discount == 0:
                    break
            self.deepest = max(self.deepest, len(path) - 1)
            self.back_up(path)
        children = [root.children.get(action) for action in range(ACTIONS)]
        visits = [child.visits if child else 0 for child in children]
        return (
            visits,
            root.value_sum / F(root.visits),
            [self.q_value(root, child) if child else 0 for child in children],
        )

    def back_up(self, path):
        value = path[-1].raw_value
        for depth in range(len(path) - 1, -1, -1):
            node = path[depth]
            node.visits += 1
            node.value_sum = node.value_sum + value
            if depth > 0:
                q_value = self.q_value(path[depth - 1], node)
                self.low, self.high = min(self.low, q_value), max(self.high, q_value)
                value = self.true_reward(path[depth - 1], node) + node.discount * value


@pytest.mark.parametrize("discounts", [[0.95], [0.0, 0.95, 1.0], [-0.9]], ids=["goes_on", "ends", "two_players"])
@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_the_search_is_that_with_prefixes_in_its_nodes(horizon, discounts):
    game = PrefixGame(4, seed=horizon, discounts=discounts)
    root, model = game.root(horizon)
    result = search(root, model, 80, SearchSettings())
    deepest = 0
    for row in range(game.B):
        reference = EfficientZeroSearch(game, row, horizon)
        visits, value, q_values = reference.run(80)
        assert result.visits[row].tolist() == visits
        np.testing.assert_allclose(result.value[row].item(), value, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(result.q_values[row].numpy(), q_values, rtol=1e-5, atol=1e-5)
        deepest = max(deepest, reference.deepest)
        low, high = np.asarray(result.tree.value_range[row])
        np.testing.assert_allclose((low, high), (reference.low, reference.high), rtol=1e-5, atol=1e-5)
    if len(discounts) == 1:
        assert deepest > 2 * horizon, "no tree reached behind the second reset"


def test_a_horizon_that_is_ignored_would_be_seen():
    """The slow search with other resets gives other values, so that the test above can fail."""
    game = PrefixGame(1, seed=2, discounts=[0.95])
    values = {horizon: EfficientZeroSearch(game, 0, horizon).run(80)[1] for horizon in (1, 2, 3, 1000)}
    assert len({round(float(value), 3) for value in values.values()}) == 4


# ---- the learned model


def test_the_model_step_by_step():
    """Horizon 3, seven steps: the prefixes are those of an LSTM that begins anew with steps 4 and 7."""
    model = prefix_model(horizon=3, predict_game_over=True)
    search_model = SearchModel(model, 0.9)
    root = search_model.root(torch.randn(2, 4))
    assert [leaf.abs().sum().item() for leaf in nest.leaves(root.latent._replace(latent=()))] == [0.0] * 4
    latent, plain, state, before = root.latent, root.latent.latent, None, 0.0
    for step in range(7):
        action = torch.randint(2, (2,))
        answer = search_model.step(latent, action)
        if step % 3 == 0:
            state, before = model._value_prefix.initial_state(plain), 0.0
        plain = model._model.step(plain, action).latent
        logits, state = model._value_prefix(plain, state)
        prefix = model.reward_of(logits)
        prediction = model._model.predict(plain)
        torch.testing.assert_close(answer.reward, prefix - before)
        torch.testing.assert_close(answer.latent.latent, plain)
        torch.testing.assert_close(answer.value, model._model.value_of(prediction.value_logits))
        torch.testing.assert_close(answer.prior_logits, prediction.policy_logits)
        torch.testing.assert_close(answer.discount, 0.9 * torch.sigmoid(-prediction.game_over_logit))
        assert answer.reward.abs().min() > 0
        latent, before = answer.latent, prefix


def test_it_can_be_searched_and_unrolled():
    model = prefix_model(horizon=2)
    search_model = SearchModel(model, 0.9)
    observation = torch.randn(3, 4)
    result = search(search_model.root(observation), search_model.step, 12, SearchSettings())
    assert (result.visits.sum(1) == 12).all()
    action = torch.randint(2, (3, 5))
    unrolled = unroll(model, observation, action, gradient_scale=0.5)
    assert unrolled.reward_logits.shape == (3, 5, 9)
    assert unrolled.prediction.value_logits.shape == (3, 6, 11)
    latent, logits = model.encode(observation), []
    for k in range(5):
        dynamics = model.step(latent, action[:, k])
        latent = dynamics.latent
        logits.append(dynamics.reward_logits)
    torch.testing.assert_close(unrolled.reward_logits, torch.stack(logits, 1))


def test_the_loss_is_against_prefixes():
    model = prefix_model(horizon=2)
    logits, reward = torch.randn(3, 5, 9), torch.randint(-1, 2, (3, 5)).float()
    target = torch.stack(
        (reward[:, 0], reward[:, 0] + reward[:, 1], reward[:, 2], reward[:, 2] + reward[:, 3], reward[:, 4])
    )
    probabilities = model.reward_support.to_probabilities(target.T)
    torch.testing.assert_close(model.reward_loss(logits, reward), -(probabilities * logits.log_softmax(-1)).sum(-1))
    torch.testing.assert_close(model.value_loss(torch.randn(3, 11), torch.zeros(3)).shape, torch.Size([3]))


def test_the_rewards_of_an_unroll_are_those_of_its_steps():
    model = prefix_model(horizon=2)
    action = torch.randint(2, (3, 5))
    unrolled = unroll(model, torch.randn(3, 4), action, gradient_scale=0.5)
    rewards = []
    for k in range(5):
        # What the step before says of its latent is read off the unroll.
        latent = nest.map_structure(lambda leaf, k=k: leaf[:, k], unrolled.latent)
        rewards.append(model.step(latent, action[:, k]).reward)
    torch.testing.assert_close(model.rewards_of_unroll(unrolled.reward_logits), torch.stack(rewards, 1))
    assert torch.equal(model.state_of(latent), latent.latent)


def test_the_gradient_does_not_pass_a_reset():
    """With horizon 2 the fourth prefix depends on the recurrent state after step 3, and on none before the reset."""
    model = prefix_model(horizon=2)
    latent = model.encode(torch.randn(1, 4))
    states = []
    for _ in range(4):
        dynamics = model.step(latent._replace(latent=latent.latent.detach()), torch.zeros(1, dtype=torch.int64))
        states.append(dynamics.latent.reward_state[0])
        latent = dynamics.latent
    first, third = torch.autograd.grad(dynamics.reward_logits.sum(), (states[0], states[2]))
    assert first.abs().sum() == 0
    assert third.abs().sum() > 0
    assert not dynamics.reward.requires_grad


def test_the_muzero_learner_trains_it():
    make = functools.partial(
        ValuePrefixMCTSModel,
        model=functools.partial(small_model, reward_support=None),
        value_prefix_support=small_support(),
        horizon=2,
    )
    algorithm = small_muzero(model=make, num_unroll_steps=5, value_loss_weight=0.0, policy_loss_weight=0.0)
    inputs, targets = algorithm.preprocess_experience(*random_block(algorithm, length=8))
    inputs, targets = nest.map_structure(lambda leaf: leaf.flatten(0, 1), (inputs, targets))
    loss = algorithm.calc_loss(algorithm.train_step(inputs, (), targets).info)
    loss.loss.mean().backward()
    # A new model is uniform over the 11 bins, whatever the targets.
    known = ~(targets.beyond_episode_end & targets.is_partial.unsqueeze(-1))
    expected = math.log(11) * known[..., 1:].float().mean(-1)
    torch.testing.assert_close(loss.extra["loss/reward"], expected)
    head = algorithm.representation.model._value_prefix._head.output
    assert head.weight.grad.abs().sum() > 0


@pytest.mark.learn
def test_it_learns_prefixes_with_the_reward_loss():
    """Rewards that say the action: +1 or −1. After some steps, the search's rewards are those of the edges."""
    torch.manual_seed(0)
    model = prefix_model(horizon=3)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        observation, action = torch.randn(32, 4), torch.randint(2, (32, 5))
        loss = model.reward_loss(unroll(model, observation, action, 1.0).reward_logits, 2.0 * action - 1.0).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    search_model = SearchModel(model, 0.9)
    latent, wrong = search_model.root(torch.randn(16, 4)).latent, []
    for _ in range(7):
        action = torch.randint(2, (16,))
        with torch.no_grad():
            answer = search_model.step(latent, action)
        wrong.append((answer.reward - (2.0 * action - 1.0)).abs().mean().item())
        latent = answer.latent
    assert max(wrong) < 0.4, wrong  # 1 for a model that knows nothing


def test_a_latent_image():
    images = {
        "encoding_network": functools.partial(ImageEncoding, channels=4),
        "dynamics_network": ImageDynamics,
        "prediction_network": ImagePrediction,
        "reward_support": None,
    }
    model = ValuePrefixMCTSModel(
        TensorSpec((1, 20, 20)), ACTION, functools.partial(small_model, **images), RecurrentValuePrefix, small_support()
    ).eval()
    dynamics = model.step(model.encode(torch.rand(2, 1, 20, 20)), torch.tensor([0, 1]))
    assert dynamics.reward_logits.shape == (2, 11)
    torch.testing.assert_close(dynamics.reward, torch.zeros(2))  # a new model predicts no rewards


def test_errors():
    with pytest.raises(ValueError, match=r"predicts rewards; .* set SimpleMCTSModel\.reward_support = None"):
        ValuePrefixMCTSModel(OBSERVATION, ACTION, small_model, RecurrentValuePrefix, small_support())
    with pytest.raises(ValueError, match="horizon is 0; it must be at least 1"):
        prefix_model(horizon=0)
    with pytest.raises(ValueError, match="not of the shape"):
        RecurrentValuePrefix((3, 4), 5)
    with pytest.raises(ValueError, match="state_size is 0"):
        RecurrentValuePrefix((3,), 5, state_size=0)
