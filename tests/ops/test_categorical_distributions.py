import math

import pytest
import torch

from alfish.ops.categorical_distributions import categorical_entropy, sample_categorical
from alfish.ops.distributions import make_action_distribution
from alfish.ops.masking import ILLEGAL_LOGIT, mask_logits
from alfish.specs import BoundedTensorSpec

FOUR = BoundedTensorSpec((), torch.int64, 0, 3)


def test_sampling_frequencies():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    counts = sample_categorical(probabilities.log().expand(20_000, 3)).bincount(minlength=3) / 20_000
    # Three standard deviations are 0.011.
    torch.testing.assert_close(counts, probabilities, atol=0.011, rtol=0.0)


def test_impossible_choices_are_never_drawn():
    torch.manual_seed(0)
    legal = torch.tensor([False, True, False, True])
    logits = mask_logits(torch.tensor([50.0, -3.0, 50.0, -3.0]), legal).expand(5000, 4)
    assert legal[sample_categorical(logits)].all()
    assert set(sample_categorical(logits).tolist()) == {1, 3}
    unnormalised = torch.tensor([0.0, -math.inf]).expand(5000, 2)
    assert (sample_categorical(unnormalised) == 0).all()


def test_entropy_by_hand():
    assert categorical_entropy(torch.tensor([0.25] * 4).log()).item() == pytest.approx(math.log(4.0))


def test_surplus_logits_get_no_gradient():
    distribution = make_action_distribution(BoundedTensorSpec((2,), torch.int64, 0, (0, 2)))
    parameters = torch.randn(4, 6, requires_grad=True)
    log_prob, entropy = distribution.evaluate(parameters, torch.tensor([[0, 1]] * 4))
    (log_prob + entropy).sum().backward()
    assert (parameters.grad[:, :3] == 0).all()  # one value: nothing to learn, and two surplus logits
    assert (parameters.grad[:, 3:] != 0).all()


def test_masked_logits_are_the_distribution_of_the_legal_choices():
    torch.manual_seed(0)
    distribution = make_action_distribution(FOUR)
    logits = torch.randn(2000, 4, requires_grad=True)
    legal = torch.tensor([True, False, True, False])
    masked = mask_logits(logits, legal)
    sample, log_prob = distribution.sample(masked)
    assert legal[sample].all() and legal[distribution.mode(masked)].all()
    evaluated, entropy = distribution.evaluate(masked, sample)
    alone = torch.distributions.Categorical(logits=logits[:, legal])
    torch.testing.assert_close(log_prob, alone.log_prob(sample // 2))
    torch.testing.assert_close(evaluated, alone.log_prob(sample // 2))
    torch.testing.assert_close(entropy, alone.entropy())
    (evaluated + entropy).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad[:, ~legal] == 0.0).all() and (logits.grad[:, legal] != 0.0).any()


def test_the_log_prob_of_an_illegal_choice_is_finite():
    distribution = make_action_distribution(FOUR)
    masked = mask_logits(torch.zeros(1, 4), torch.tensor([True, False, True, True]))
    log_prob, entropy = distribution.evaluate(masked, torch.tensor([1]))
    assert log_prob.item() == pytest.approx(ILLEGAL_LOGIT)
    assert entropy.item() == pytest.approx(math.log(3.0))


def test_one_legal_choice_is_certain():
    distribution = make_action_distribution(FOUR)
    logits = torch.randn(16, 4, requires_grad=True)
    masked = mask_logits(logits, torch.tensor([False, False, True, False]))
    sample, log_prob = distribution.sample(masked)
    assert (sample == 2).all() and (log_prob == 0.0).all()
    evaluated, entropy = distribution.evaluate(masked, sample)
    (evaluated + entropy).sum().backward()
    assert (entropy == 0.0).all() and (logits.grad == 0.0).all()


@pytest.mark.parametrize("spec", [FOUR, BoundedTensorSpec((2,), torch.int64, 0, (1, 3))])
def test_extreme_logits_give_finite_numbers_and_gradients(spec):
    distribution = make_action_distribution(spec)
    extreme = torch.tensor([1e30, -1e30, 0.0, 1e30]).repeat(distribution.num_parameters // 4)
    for logits in (extreme, -extreme, torch.full_like(extreme, 1e30), torch.full_like(extreme, -1e30)):
        logits = logits.expand(8, -1).clone().requires_grad_()
        sample, log_prob = distribution.sample(logits)
        evaluated, entropy = distribution.evaluate(logits, sample)
        (evaluated + entropy).sum().backward()
        assert torch.equal(log_prob, evaluated)
        assert log_prob.isfinite().all() and entropy.isfinite().all() and logits.grad.isfinite().all()
