"""Root noise, temperature, targets."""

import math

import pytest
import torch

from alfish.mcts.records import RootNode, Step
from alfish.mcts.root_policies import root_policy
from alfish.mcts.search_policies import GumbelPolicy, PuctPolicy, noisy_logits, sample_action
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving

B, A = 3, 4
MASK = torch.tensor([[True] * 4, [False, True, False, True], [False, False, True, False]])


def model(latent, action):
    zeros = torch.zeros(len(action))
    return Step(latent, action.float(), zeros, torch.zeros(len(action), A), zeros)


def root():
    return RootNode(torch.zeros(B, 1), torch.arange(A).float().expand(B, A), torch.ones(B))


def test_policy_is_the_share_of_visits_and_obeys_the_mask():
    output = PuctPolicy()(root(), model, 20, MASK, 1.0, explore=True)
    torch.testing.assert_close(output.policy, output.search.visits / 20)
    torch.testing.assert_close(output.policy.sum(1), torch.ones(B))
    assert (output.policy[~MASK] == 0).all()
    assert MASK[torch.arange(B), output.action].all()
    assert output.action[2] == 2
    assert output.policy[2].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert torch.equal(output.value, output.search.value)


def test_without_simulations_the_policy_is_the_masked_prior():
    output = PuctPolicy()(root(), model, 0, MASK)
    torch.testing.assert_close(output.policy, torch.softmax(root().prior_logits.masked_fill(~MASK, -math.inf), 1))
    assert output.action.tolist() == [3, 3, 2]
    assert output.value.tolist() == [1.0] * B


def test_seed_decides_noise_and_action():
    def draw(seed):
        torch.manual_seed(seed)
        output = PuctPolicy(noise_fraction=0.5)(root(), model, 10, temperature=1.0, explore=True)
        return torch.cat((output.action.float(), output.search.tree.priors[:, 0].flatten()))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_noise_has_the_moments_of_a_dirichlet_over_the_legal_actions():
    torch.manual_seed(0)
    rows = 20_000
    mask = torch.tensor([True, False, True, True]).expand(rows, A)
    alpha, fraction = 0.5, 0.25
    mixed = torch.softmax(noisy_logits(torch.zeros(rows, A), mask, alpha, fraction), dim=1)
    assert (mixed[:, 1] == 0).all()
    noise = (mixed[:, [0, 2, 3]] - (1 - fraction) / 3) / fraction
    torch.testing.assert_close(noise.mean(0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)
    # Variance of a Dirichlet: p (1 - p) / (A alpha + 1) with p = 1 / A.
    torch.testing.assert_close(noise.var(0), torch.full((3,), (1 / 3) * (2 / 3) / (3 * alpha + 1)), atol=0.005, rtol=0)


@pytest.mark.parametrize("alpha", [1e-6, 0.3, 1e4])
@pytest.mark.parametrize("fraction", [0.0, 1e-3, 1.0])
def test_noise_keeps_legal_actions_legal(alpha, fraction):
    torch.manual_seed(0)
    logits = torch.tensor([[3.4e38, -3.4e38, 0.0], [-math.inf, 0.0, -1e4]])
    mixed = noisy_logits(logits, None, alpha, fraction)
    assert torch.equal(torch.isfinite(mixed), logits != -math.inf)


def test_search_still_names_the_row_that_noise_cannot_help():
    logits = root().prior_logits.clone()
    logits[1, 2] = math.nan
    with pytest.raises(ValueError, match="root.prior_logits of row 1"):
        PuctPolicy()(root()._replace(prior_logits=logits), model, 3, explore=True)
    with pytest.raises(ValueError, match="row 2 has no legal action"):
        PuctPolicy()(root(), model, 3, MASK & (MASK.sum(1, True) > 1), explore=True)


def test_temperature():
    policy = torch.tensor([[0.2, 0.4, 0.4, 0.0]])
    assert sample_action(policy, 0.0).tolist() == [1]
    torch.manual_seed(0)
    many = policy.expand(40_000, A)
    for temperature, weights in [(1.0, [1, 2, 2, 0]), (0.5, [1, 4, 4, 0]), (1e-30, [0, 1, 1, 0]), (1e30, [1, 1, 1, 0])]:
        share = torch.bincount(sample_action(many, temperature), minlength=A) / len(many)
        expected = torch.tensor(weights) / sum(weights)
        torch.testing.assert_close(share, expected, atol=0.015, rtol=0)
        assert share[3] == 0


def test_each_row_has_its_own_temperature():
    torch.manual_seed(0)
    many = torch.tensor([0.2, 0.5, 0.3, 0.0]).expand(40_000, A)
    temperature = torch.tensor([0.0, 1.0]).repeat(20_000)
    action = sample_action(many, temperature)
    assert (action[::2] == 1).all()
    share = torch.bincount(action[1::2], minlength=A) / 20_000
    torch.testing.assert_close(share, many[0], atol=0.015, rtol=0)


POLICIES = {
    "puct": PuctPolicy(),
    "improved": PuctPolicy(
        SearchSettings(ImprovedPolicy(), ImprovedPolicy()), act=ImprovedPolicy(), learn=ImprovedPolicy()
    ),
    "regularised": PuctPolicy(
        SearchSettings(RegularisedPolicy(), RegularisedPolicy()), act=RegularisedPolicy(), learn=RegularisedPolicy()
    ),
    "learn_only": PuctPolicy(learn=RegularisedPolicy()),
    "gumbel": GumbelPolicy(),
    "gumbel_over_puct": GumbelPolicy(SearchSettings(SequentialHalving(2), Puct())),
    "several_leaves": PuctPolicy(SearchSettings(leaves_per_round=4)),
    "several_leaves_gumbel": GumbelPolicy(SearchSettings(SequentialHalving(), ImprovedPolicy(), leaves_per_round=2)),
}


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_prefers_the_paying_action_and_obeys_masks(name, explore):
    torch.manual_seed(0)
    output = POLICIES[name](root(), model, 16, MASK, 1.0, explore)
    torch.testing.assert_close(output.policy.sum(1), torch.ones(B))
    assert (output.policy[~MASK] == 0).all()
    assert MASK[torch.arange(B), output.action].all()
    assert output.policy.argmax(1).tolist() == [3, 3, 2]
    assert output.search.visits.sum(1).tolist() == [16] * B


def test_gumbel_noise_explores_and_its_winner_follows_the_policy():
    """Without simulations the winner is a draw from the prior: the Gumbel-max trick."""
    torch.manual_seed(0)
    many = RootNode((), torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])).expand(20_000, A), torch.zeros(20_000))
    output = GumbelPolicy()(many, model, 0, explore=True)
    share = torch.bincount(output.action, minlength=A) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.015, rtol=0)
    assert (GumbelPolicy()(many, model, 0).action == 3).all()


def test_what_can_be_read_off_a_root_does_not_depend_on_the_rule_of_search():
    result = PuctPolicy()(root(), model, 12).search
    for policy in ("visits", ImprovedPolicy(), RegularisedPolicy()):
        torch.testing.assert_close(root_policy(result, policy).sum(1), torch.ones(B))
    with pytest.raises(ValueError, match="policy is 'best'; expected"):
        root_policy(result, "best")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PuctPolicy(noise_fraction=1.5), "PuctPolicy.noise_fraction is 1.5"),
        (lambda: PuctPolicy(dirichlet_alpha=0.0), "PuctPolicy.dirichlet_alpha is 0.0"),
        (lambda: PuctPolicy(act="best"), "PuctPolicy.act is 'best'"),
        (
            lambda: PuctPolicy(SearchSettings(SequentialHalving())),
            "PuctPolicy.settings is .*GumbelPolicy acts with that",
        ),
        (lambda: GumbelPolicy(SearchSettings()), "GumbelPolicy.settings is .*expected a root of SequentialHalving"),
        (lambda: GumbelPolicy(gumbel_scale=-1.0), "GumbelPolicy.gumbel_scale is -1.0"),
    ],
)
def test_unusable_policies_are_refused_when_they_are_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"temperature": torch.ones(2)}, "temperature has the shape"),
        ({"explore": True, "legal_mask": MASK[:1]}, "legal_mask has the shape"),
    ],
)
def test_unusable_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PuctPolicy()(root(), model, 3, **arguments)
