"""A search over candidates finds good actions among many, or among all real numbers."""

import math

import pytest
import torch

from alfish.mcts.proposals import ProposalSettings, count_candidates, take_candidates
from alfish.mcts.records import RootNode, Step
from alfish.mcts.root_policies import halving_winner, root_policy
from alfish.mcts.search import search
from alfish.mcts.search_policies import noisy_logits
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving
from alfish.mcts.subtree import reroot
from alfish.models.sampled_model import SampledLatent, SampledModel, keep_candidates
from alfish.ops.policy_losses import candidate_cross_entropy
from alfish.ops.sampled_box import SampledBox
from alfish.ops.sampled_policies import SampledChoices
from alfish.specs import BoundedTensorSpec

B = 4
PLAIN = SearchSettings()
GUMBEL = SearchSettings(SequentialHalving(), ImprovedPolicy())
# PUCT that tries every candidate before it looks at the values; with K = 16 and few simulations it does not otherwise.
EAGER = SearchSettings(Puct(unvisited_value=1.0), Puct(unvisited_value=1.0))
RULES = {"puct": EAGER, "gumbel": GUMBEL, "regularised": SearchSettings(RegularisedPolicy(sampled=False))}


class Bandit:
    """One step: the reward is a function of the action. The latent is the depth and the sum of the actions."""

    def __init__(self, parameters, reward, action_shape=()):
        self.parameters, self.reward, self.action_shape = parameters, reward, action_shape
        self.actions = []

    def root(self, observation):
        return RootNode(
            {"depth": torch.zeros(len(observation)), "sum": torch.zeros(len(observation), *self.action_shape)},
            self.parameters.expand(len(observation), -1),
            torch.zeros(len(observation)),
        )

    def step(self, latent, action):
        self.actions.append(action.clone())
        zeros = torch.zeros(len(action))
        following = {"depth": latent["depth"] + 1, "sum": latent["sum"] + action}
        return Step(following, self.reward(action), zeros, self.parameters.expand(len(action), -1), zeros)


def choices(num):
    return SampledChoices(BoundedTensorSpec((), torch.int64, 0, num - 1))


def box(minimum=-2.0, maximum=2.0, shape=(), **options):
    return SampledBox(BoundedTensorSpec(shape, torch.float32, minimum, maximum), **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def searched(sampled, num_simulations, settings=PLAIN, rows=B, **root_options):
    root = sampled.root(torch.zeros(rows, 1), **root_options)
    return root, search(root, sampled.step, num_simulations, settings)


@pytest.mark.parametrize("name", ["puct", "gumbel"])
def test_the_best_of_many_choices_is_the_most_visited_candidate(name):
    rewards = torch.linspace(0.0, 1.0, 1000)[torch.randperm(1000, generator=seeded())]
    bandit = Bandit(torch.zeros(1000), lambda action: rewards[action])
    sampled = SampledModel(bandit, choices(1000), ProposalSettings(16), seeded())
    root, result = searched(sampled, 80, RULES[name])
    candidates = root.latent.candidates
    assert candidates.shape == result.visits.shape == (B, 16)
    winner = halving_winner(result) if name == "gumbel" else result.visits.argmax(1)
    assert torch.equal(rewards[take_candidates(candidates, winner)], rewards[candidates].amax(1))
    assert (result.visits[count_candidates(candidates) == 0] == 0).all()
    assert torch.equal(torch.cat(bandit.actions).unique(), candidates.unique())  # each was tried, and nothing else


@pytest.mark.parametrize("name", RULES)
def test_a_search_over_candidates_moves_the_mean_towards_the_optimum(name):
    bandit = Bandit(torch.zeros(2), lambda action: -((action - 1.1) ** 2))
    sampled = SampledModel(bandit, box(), ProposalSettings(12), seeded())
    root, result = searched(sampled, 60, RULES[name], rows=64)
    policy = root_policy(result, ImprovedPolicy() if name == "gumbel" else "visits")
    before, after = root.latent.candidates.mean(1), (policy * root.latent.candidates).sum(1)
    assert before.mean().abs() < 0.2
    assert (after > before).float().mean() > 0.95
    assert after.mean() > 0.5


@pytest.mark.learn
def test_policy_iteration_with_the_candidates_loss_finds_the_optimum():
    # A linear-quadratic step: reward -(a1 - 1.1)^2 - (a2 + 2.3)^2. The second optimum lies beyond the bound of -2,
    # which then takes the half of the probability that it can.
    target = torch.tensor([1.1, -2.3])
    family = box(shape=(2,))
    parameters = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=0.05)
    bandit = Bandit(parameters, lambda action: -(action - target).square().sum(-1), (2,))
    sampled = SampledModel(bandit, family, ProposalSettings(8, root_noise_scale=2.0), seeded())
    for _ in range(150):
        with torch.no_grad():
            root, result = searched(sampled, 20, EAGER, rows=64)
        log_prob = family.log_prob(parameters, root.latent.candidates)
        optimizer.zero_grad()
        candidate_cross_entropy(result.visits / 20.0, log_prob).mean().backward()
        optimizer.step()
    drawn = family.sample(parameters.detach().unsqueeze(0), 2000, 1.0, seeded(1))[0]
    assert drawn[:, 0].median().item() == pytest.approx(1.1, abs=0.25)
    assert drawn[:, 1].median() < -1.8
    assert (drawn[:, 1] == -2.0).float().mean() > 0.3


def test_each_node_has_its_own_candidates_and_steps_by_them():
    bandit = Bandit(torch.zeros(6), lambda action: action.sum(-1), (3,))
    step = bandit.step
    bandit.step = lambda latent, action: step(latent, action)._replace(discount=torch.full((len(action),), 0.9))
    sampled = SampledModel(bandit, box(shape=(3,)), ProposalSettings(4), seeded())
    root = sampled.root(torch.zeros(B, 1))
    index = torch.tensor([3, 0, 1, 2])
    following = sampled.step(root.latent, index)
    expected = root.latent.candidates[torch.arange(B), index]
    torch.testing.assert_close(following.latent.latent["sum"], expected)
    torch.testing.assert_close(following.reward, expected.sum(-1))
    assert isinstance(following.latent, SampledLatent)
    assert following.latent.candidates.shape == (B, 4, 3)
    assert not torch.equal(following.latent.candidates, root.latent.candidates)
    again = sampled.step(following.latent, index)
    torch.testing.assert_close(
        again.latent.latent["sum"], expected + following.latent.candidates[torch.arange(B), index]
    )
    result = search(root, sampled.step, 30, PLAIN)
    assert (result.visits.sum(1) == 30).all()


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("num_candidates", [1, 3, 12])
def test_masks_hold_at_the_root_and_below(num_candidates, replacement):
    # Odd actions are illegal everywhere by the model's logits, and at the root the mask forbids 0 and 2 as well.
    parameters = torch.zeros(8).masked_fill(torch.arange(8) % 2 == 1, -math.inf)
    bandit = Bandit(parameters, lambda action: action.float())
    step = bandit.step
    bandit.step = lambda latent, action: step(latent, action)._replace(discount=torch.ones(len(action)))
    sampled = SampledModel(bandit, choices(8), ProposalSettings(num_candidates, replacement=replacement), seeded())
    mask = torch.ones(B, 8, dtype=torch.bool)
    mask[:, [0, 2]] = False
    root = sampled.root(torch.zeros(B, 1), legal_mask=mask)
    result = search(root, sampled.step, 25, EAGER)
    played = torch.stack(bandit.actions)
    assert (played % 2 == 0).all()
    assert (root.latent.candidates[result.visits > 0] >= 4).all()
    if num_candidates == 12 and not replacement:
        best = take_candidates(root.latent.candidates, result.visits.argmax(1))
        assert (best == 6).all()


def test_one_candidate_is_a_walk_by_the_policy():
    sampled = SampledModel(Bandit(torch.zeros(2), torch.sin), box(), ProposalSettings(1), seeded())
    root, result = searched(sampled, 5)
    assert result.visits.tolist() == [[5]] * B
    torch.testing.assert_close(result.q_values, root.latent.candidates.sin())


def test_a_wide_root_is_for_exploring_only():
    # A policy that is sure of 0, where the reward is at the bounds: noise on the prior leads the search there.
    settings = ProposalSettings(16, root_uniform_fraction=0.5)
    bandit = Bandit(torch.tensor([0.0, -50.0]), lambda action: action.abs())
    sampled = SampledModel(bandit, box(), settings, seeded())
    root = sampled.root(torch.zeros(B, 1))
    torch.manual_seed(0)
    noisy = root._replace(prior_logits=noisy_logits(root.prior_logits, None, 1.0, 0.5))
    result = search(noisy, sampled.step, 100, EAGER)
    assert (take_candidates(root.latent.candidates, result.visits.argmax(1)).abs() > 1.0).all()
    root, _ = searched(sampled, 1, explore=False)
    assert (root.latent.candidates.abs() < 0.7).all()


def test_several_leaves_at_once():
    bandit = Bandit(torch.zeros(2), lambda action: -((action - 1.1) ** 2))
    sampled = SampledModel(bandit, box(), ProposalSettings(8), seeded())
    root, result = searched(sampled, 40, SearchSettings(leaves_per_round=4))
    assert len(bandit.actions) == 10
    assert torch.isin(torch.cat(bandit.actions), root.latent.candidates).all()
    assert (result.visits.sum(1) == 40).all()


def test_a_retained_tree_keeps_its_candidates():
    bandit = Bandit(torch.zeros(2), lambda action: -(action**2))
    step = bandit.step
    bandit.step = lambda latent, action: step(latent, action)._replace(discount=torch.full((len(action),), 0.9))
    sampled = SampledModel(bandit, box(), ProposalSettings(4), seeded())
    root, result = searched(sampled, 40, EAGER)
    action = result.visits.argmax(1)
    action[1] = -1  # an episode that begins anew
    retained = reroot(result, action, 20)
    fresh = sampled.root(torch.zeros(B, 1))
    following = keep_candidates(fresh, retained)
    again = search(following, sampled.step, 20, EAGER, retained=retained)
    rows = torch.tensor([0, 2, 3])
    child = result.tree.children[rows, 0, action[rows]].long()
    old = result.latents.candidates[child, rows]
    assert torch.equal(following.latent.candidates[rows], old)
    assert torch.equal(again.latents.candidates[0], following.latent.candidates)
    assert torch.equal(following.latent.candidates[1], fresh.latent.candidates[1])
    torch.testing.assert_close(torch.softmax(following.prior_logits, 1), torch.full((B, 4), 0.25))
    # Every edge that was visited leads to what its candidate leads to: its reward is minus the square.
    tree = again.tree
    for row in range(B):
        for candidate, node in enumerate(tree.children[row, 0].tolist()):
            if node >= 0:
                expected = -(following.latent.candidates[row, candidate] ** 2)
                torch.testing.assert_close(tree.rewards[row, node], expected)


def test_the_same_seed_gives_the_same_search():
    def run(seed, from_global=False):
        torch.manual_seed(seed)
        generator = None if from_global else seeded(seed)
        sampled = SampledModel(Bandit(torch.zeros(2), torch.cos), box(), ProposalSettings(6), generator)
        root, result = searched(sampled, 20)
        return torch.cat((root.latent.candidates, result.visits, result.q_values), dim=1)

    for from_global in (False, True):
        assert torch.equal(run(1, from_global), run(1, from_global))
        assert not torch.equal(run(1, from_global), run(2, from_global))


def test_what_does_not_combine_is_named():
    bandit = Bandit(torch.zeros(2), torch.cos)
    with pytest.raises(ValueError, match="replacement is False, which needs one discrete action"):
        SampledModel(bandit, box(), ProposalSettings(4, replacement=False))
    with pytest.raises(ValueError, match="root_uniform_fraction is 0.5, but the actions have no bounds"):
        SampledModel(bandit, box(0.0, math.inf), ProposalSettings(4, root_uniform_fraction=0.5))
    with pytest.raises(ValueError, match=r"legal_mask has the shape \(4, 2\)"):
        searched(SampledModel(bandit, box(), ProposalSettings(4)), 1, legal_mask=torch.ones(B, 2).bool())
    bandit.has_chance_nodes = True
    with pytest.raises(ValueError, match="a Bandit, which has chance nodes"):
        SampledModel(bandit, box(), ProposalSettings(4))
