"""What is drawn, and that the corrected prior weighs it as the policy would."""

import math

import pytest
import torch

from alfish.mcts.proposals import (
    ProposalSettings,
    count_candidates,
    propose,
    propose_different,
    spread_policy,
    take_candidates,
)
from alfish.ops.sampled_box import SampledBox
from alfish.ops.sampled_policies import SampledChoices
from alfish.specs import BoundedTensorSpec

ROWS = 30_000
PROBABILITIES = torch.tensor([0.5, 0.02, 0.0, 0.3, 0.08, 0.1])
CHOICES = SampledChoices(BoundedTensorSpec((), torch.int64, 0, 5))
BOX = SampledBox(BoundedTensorSpec((2,), torch.float32, (-2.0, 0.0), (2.0, 1.0)))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits(rows=1):
    return PROBABILITIES.log().expand(rows, -1)


SETTINGS = [
    ProposalSettings(4),
    ProposalSettings(1, temperature=2.0),
    ProposalSettings(9, temperature=0.5),
    ProposalSettings(4, root_uniform_fraction=0.5),
    ProposalSettings(3, root_uniform_fraction=1.0),
    ProposalSettings(4, root_noise_scale=3.0),
    ProposalSettings(5, temperature=1.5, root_noise_scale=2.0, root_noise_fraction=0.4, root_uniform_fraction=0.2),
]
DIFFERENT = [
    ProposalSettings(2, replacement=False),
    ProposalSettings(1, temperature=3.0, replacement=False),
    ProposalSettings(3, root_uniform_fraction=0.4, root_noise_scale=2.0, replacement=False),
]


@pytest.mark.parametrize("settings", SETTINGS + DIFFERENT, ids=repr)
def test_the_corrected_prior_has_the_expectations_of_the_policy(settings):
    # E[sum_k prior_k f(a_k)] = sum_a pi(a) f(a) for every f: for each action's indicator, the probabilities themselves.
    proposals = propose(CHOICES, logits(ROWS), settings, True, seeded())
    weight = spread_policy(proposals.prior_logits.exp(), proposals.candidates, 6)
    error = 5.0 * weight.std(0) / ROWS**0.5
    assert ((weight.mean(0) - PROBABILITIES).abs() <= error + 1e-6).all()
    assert error.max() < 0.06


@pytest.mark.parametrize("settings", SETTINGS[:3] + SETTINGS[3:4] + SETTINGS[5:], ids=repr)
def test_the_corrected_prior_has_the_expectations_of_a_box(settings):
    # A mean near one bound, so that it is often drawn, and functions that see bounds, means and products.
    parameters = torch.tensor([1.0, -0.4, 0.3, -0.5]).expand(ROWS, -1)
    proposals = propose(BOX, parameters, settings, True, seeded(1))

    def functions(action):
        unit = BOX.as_vector(action)
        first, second = unit.unbind(-1)
        return torch.stack((torch.ones_like(first), first, second, first * second, first**2, (first == 1.0).float()))

    reference = functions(BOX.sample(parameters[:1], 400_000, 1.0, seeded(2))).mean((1, 2))
    weighted = (functions(proposals.candidates) * proposals.prior_logits.exp()).sum(2)
    error = 5.0 * weighted.std(1) / ROWS**0.5 + 0.01
    assert ((weighted.mean(1) - reference).abs() <= error).all()
    assert reference[-1] > 0.1


def test_drawn_from_the_policy_the_prior_is_the_share_of_the_draws():
    proposals = propose(CHOICES, logits(200), ProposalSettings(8), True, seeded())
    counts = count_candidates(proposals.candidates)
    torch.testing.assert_close(proposals.prior_logits.exp(), counts / 8.0)
    assert (counts.sum(1) == 8).all()
    assert (counts == 0).any()  # repeated ones
    box = propose(BOX, torch.zeros(3, 4), ProposalSettings(5), False, seeded())
    torch.testing.assert_close(torch.softmax(box.prior_logits, 1), torch.full((3, 5), 0.2))


def test_a_temperature_by_hand():
    # beta = pi^(1/2) / Z, so beta-hat / beta pi = count / K * Z * sqrt(pi).
    proposals = propose(CHOICES, logits(50), ProposalSettings(6, temperature=2.0), False, seeded())
    counts = count_candidates(proposals.candidates)
    expected = counts / 6.0 * PROBABILITIES.sqrt().sum() * PROBABILITIES[proposals.candidates].sqrt()
    torch.testing.assert_close(proposals.prior_logits.exp(), expected)


def test_a_uniform_share_by_hand():
    # 4 draws, 2 of them uniform over the 5 legal actions: beta = pi / 2 + 1/10.
    proposals = propose(CHOICES, logits(50), ProposalSettings(4, root_uniform_fraction=0.5), True, seeded())
    probabilities = PROBABILITIES[proposals.candidates]
    expected = count_candidates(proposals.candidates) / 4.0 / (0.5 * probabilities + 0.1) * probabilities
    torch.testing.assert_close(proposals.prior_logits.exp(), expected)
    assert (proposals.prior_logits.exp() <= 4.0 / 2.0 + 1e-5).all()  # K over the draws from pi, at most


@pytest.mark.parametrize("replacement", [True, False])
def test_the_prior_can_be_what_was_drawn(replacement):
    settings = ProposalSettings(3, root_uniform_fraction=0.7, prior="drawn", replacement=replacement)
    proposals = propose(CHOICES, logits(ROWS), settings, True, seeded())
    weight = spread_policy(proposals.prior_logits.exp(), proposals.candidates, 6)
    # Two of three draws are uniform over the five legal actions.
    mixture = PROBABILITIES / 3.0 + (PROBABILITIES > 0) * 2.0 / 15.0
    torch.testing.assert_close(weight.mean(0), mixture, atol=0.012, rtol=0)
    if replacement:
        torch.testing.assert_close(proposals.prior_logits.exp(), count_candidates(proposals.candidates) / 3.0)


def test_the_wider_shares_are_for_the_root():
    settings = ProposalSettings(4, root_uniform_fraction=0.5, root_noise_scale=2.0)
    below = propose(BOX, torch.zeros(1, 4), settings, False, seeded())
    plain = propose(BOX, torch.zeros(1, 4), ProposalSettings(4), True, seeded())
    assert torch.equal(below.candidates, plain.candidates)
    assert torch.equal(below.prior_logits, plain.prior_logits)


def test_candidates_are_counted_where_they_come_first():
    assert count_candidates(torch.tensor([[3, 1, 3, 3], [0, 1, 2, 3]])).tolist() == [[3, 1, 0, 0], [1, 1, 1, 1]]
    vectors = torch.tensor([[[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]]])
    assert count_candidates(vectors).tolist() == [[2, 1, 0]]


@pytest.mark.parametrize("shape", [(50, 7), (50, 7, 1), (50, 6, 2)])
def test_counts_of_random_candidates(shape):
    candidates = torch.randint(3, shape, generator=torch.Generator().manual_seed(0)).float()
    for row, counts in zip(candidates.tolist(), count_candidates(candidates).tolist(), strict=True):
        assert counts == [0 if each in row[:place] else row.count(each) for place, each in enumerate(row)]


def test_draws_on_a_bound_are_one_candidate():
    # Means on both upper bounds: a quarter of the draws are the corner.
    parameters = torch.tensor([[50.0, 50.0, -50.0, -50.0]]).expand(200, -1)
    candidates, prior_logits = propose(BOX, parameters, ProposalSettings(8), False, seeded())
    corner = (candidates == torch.tensor([2.0, 1.0])).all(2)
    assert corner.float().mean().item() == pytest.approx(0.25, abs=0.04)
    first = corner & (corner.cumsum(1) == 1)
    torch.testing.assert_close(prior_logits.exp()[first], (corner.sum(1) / 8.0)[first.any(1)])
    assert (prior_logits[corner & ~first] == -math.inf).all()
    torch.testing.assert_close(prior_logits.exp()[~corner], torch.full((int((~corner).sum()),), 0.125))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("num_candidates", [1, 3, 20])
def test_masks_and_fewer_legal_actions_than_candidates(num_candidates, replacement):
    settings = ProposalSettings(num_candidates, root_uniform_fraction=0.3, replacement=replacement)
    legal = torch.tensor(
        [[True] * 6, [False, True, False, False, False, True], [False, False, False, True] + [False] * 2]
    )
    parameters = torch.zeros(3, 6).masked_fill(~legal, -math.inf)
    proposals = propose(CHOICES, parameters, settings, True, seeded())
    assert proposals.candidates.shape == proposals.prior_logits.shape == (3, num_candidates)
    possible = proposals.prior_logits > -math.inf
    assert possible.any(1).all()
    assert (legal.gather(1, proposals.candidates) | ~possible).all()
    for row in range(3):
        kept = proposals.candidates[row][possible[row]].tolist()
        assert len(kept) == len(set(kept)) <= legal[row].sum()
    assert possible[2].sum() == 1


def test_all_legal_actions_without_replacement_are_the_policy_itself():
    legal = 5
    for num_candidates in (legal, legal + 1, 12):
        settings = ProposalSettings(num_candidates, temperature=3.0, replacement=False)
        proposals = propose(CHOICES, logits(4), settings, True, seeded())
        weight = spread_policy(proposals.prior_logits.exp(), proposals.candidates, 6)
        torch.testing.assert_close(weight, PROBABILITIES.expand(4, -1))


def test_without_replacement_candidates_differ_and_come_as_in_a_race():
    log_policy = logits(ROWS)
    candidates, prior_logits = propose_different(log_policy, log_policy, 3, seeded())
    assert (prior_logits > -math.inf).all()
    assert (count_candidates(candidates) == 1).all()
    share = torch.bincount(candidates[:, 0], minlength=6) / ROWS
    torch.testing.assert_close(share, PROBABILITIES, atol=0.01, rtol=0)
    # The second is drawn from what the first left: P(0 then 3) = 0.5 * 0.3 / 0.5.
    assert ((candidates[:, 0] == 0) & (candidates[:, 1] == 3)).float().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("replacement", [True, False])
def test_rows_that_a_search_must_name(replacement):
    parameters = torch.tensor([[math.nan] + [0.0] * 5, [-math.inf] * 6, [0.0] * 6])
    _, prior_logits = propose(CHOICES, parameters, ProposalSettings(4, replacement=replacement), True, seeded())
    assert prior_logits[0].isnan().any()
    assert (prior_logits[1] == -math.inf).all()
    assert (prior_logits[2] > -math.inf).any()
    box = propose(BOX, torch.tensor([[math.nan, 0.0, 0.0, 0.0]]), ProposalSettings(4), True, seeded())
    assert box.prior_logits.isnan().all()


@pytest.mark.parametrize("settings", [ProposalSettings(5, root_uniform_fraction=0.4), DIFFERENT[0]], ids=repr)
def test_a_seed_reproduces_the_draws(settings):
    policy, parameters = (CHOICES, torch.zeros(20, 6)) if not settings.replacement else (BOX, torch.zeros(20, 4))
    state = torch.get_rng_state()
    first, again, other = (propose(policy, parameters, settings, True, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.candidates, again.candidates)
    assert torch.equal(first.prior_logits, again.prior_logits)
    assert not torch.equal(first.candidates, other.candidates)
    torch.manual_seed(3)
    from_global = propose(policy, parameters, settings, True)
    torch.manual_seed(3)
    assert torch.equal(propose(policy, parameters, settings, True).candidates, from_global.candidates)


def test_shares_of_the_root():
    assert ProposalSettings(8, 2.0).shares(True) == ((8, 2.0),)
    assert ProposalSettings(8, root_noise_scale=3.0).shares(True) == ((4, 1.0), (4, 9.0))
    assert ProposalSettings(8, root_noise_scale=3.0).shares(False) == ((8, 1.0),)
    assert ProposalSettings(8, root_uniform_fraction=0.01).shares(True) == ((7, 1.0), (1, math.inf))
    assert ProposalSettings(2, root_uniform_fraction=1.0).shares(True) == ((2, math.inf),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"root_noise_scale": 0.5}, "root_noise_scale is 0.5"),
        ({"root_noise_fraction": 0.0}, "root_noise_fraction is 0.0"),
        ({"root_uniform_fraction": 1.5}, "root_uniform_fraction is 1.5"),
        ({"prior": "raw"}, "prior is 'raw'"),
        ({"num_candidates": 1, "root_noise_scale": 2.0, "root_uniform_fraction": 0.1}, "num_candidates is 1, fewer"),
    ],
)
def test_settings_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=rf"ProposalSettings\.{message}"):
        ProposalSettings(**({"num_candidates": 4} | options))


def test_candidates_and_policies_are_mapped_back():
    candidates = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    assert take_candidates(candidates, torch.tensor([1, 0])).tolist() == [[3.0, 4.0], [5.0, 6.0]]
    policy = torch.tensor([[0.25, 0.75, 0.0]])
    assert spread_policy(policy, torch.tensor([[4, 1, 4]]), 5).tolist() == [[0.0, 0.75, 0.0, 0.0, 0.25]]
