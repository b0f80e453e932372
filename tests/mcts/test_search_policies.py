"""Root noise, temperature, targets."""

import math

import pytest
import torch

from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search_policies import noisy_logits, puct_policy, sample_action

B, A = 3, 4
MASK = torch.tensor([[True] * 4, [False, True, False, True], [False, False, True, False]])


def model(latent, action):
    zeros = torch.zeros(len(action))
    return Step(latent, action.float(), zeros, torch.zeros(len(action), A), zeros)


def root():
    return RootNode(torch.zeros(B, 1), torch.arange(A).float().expand(B, A), torch.ones(B))


def test_policy_is_the_share_of_visits_and_obeys_the_mask():
    output = puct_policy(root(), model, 20, PuctSettings(), MASK, temperature=1.0, noise_fraction=0.25)
    torch.testing.assert_close(output.policy, output.search.visits / 20)
    torch.testing.assert_close(output.policy.sum(1), torch.ones(B))
    assert (output.policy[~MASK] == 0).all()
    assert MASK[torch.arange(B), output.action].all()
    assert output.action[2] == 2
    assert output.policy[2].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert torch.equal(output.value, output.search.value)


def test_without_simulations_the_policy_is_the_masked_prior():
    output = puct_policy(root(), model, 0, PuctSettings(), MASK)
    torch.testing.assert_close(output.policy, torch.softmax(root().prior_logits.masked_fill(~MASK, -math.inf), 1))
    assert output.action.tolist() == [3, 3, 2]
    assert output.value.tolist() == [1.0] * B


def test_seed_decides_noise_and_action():
    def draw(seed):
        torch.manual_seed(seed)
        output = puct_policy(root(), model, 10, PuctSettings(), temperature=1.0, noise_fraction=0.5)
        return torch.cat((output.action.float(), torch.from_numpy(output.search.tree.priors[:, 0]).flatten()))

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
        puct_policy(root()._replace(prior_logits=logits), model, 3, PuctSettings(), noise_fraction=0.5)
    with pytest.raises(ValueError, match="row 2 has no legal action"):
        puct_policy(root(), model, 3, PuctSettings(), MASK & (MASK.sum(1, True) > 1), noise_fraction=0.5)


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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"noise_fraction": 1.5}, "noise_fraction is 1.5"),
        ({"noise_fraction": 0.5, "dirichlet_alpha": 0.0}, "dirichlet_alpha is 0.0"),
        ({"noise_fraction": 0.5, "legal_mask": MASK[:1]}, "legal_mask has the shape"),
    ],
)
def test_unusable_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        puct_policy(root(), model, 3, PuctSettings(), **wrong)
