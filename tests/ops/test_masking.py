import math

import pytest
import torch

from alfish.ops.masking import (
    mask_logits,
    masked_explained_variance,
    masked_explained_variances,
    masked_mean,
    masked_means,
    masked_normalize,
)


def test_masked_mean_by_hand():
    values = torch.tensor([[1.0, math.nan], [3.0, 100.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, False]])
    mean = masked_mean(values, mask)
    mean.backward()
    assert mean.item() == 2.0
    torch.testing.assert_close(values.grad, torch.tensor([[0.5, 0.0], [0.5, 0.0]]))


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.tensor([5.0]), torch.tensor([False])).item() == 0.0


def test_several_means_at_once():
    mask = torch.tensor([[True, False], [True, False]])
    values = {"b": torch.tensor([[1.0, math.nan], [3.0, 0.0]], requires_grad=True), "a": torch.ones(2, 2)}
    means = masked_means(values, mask)
    assert list(means) == ["b", "a"]
    assert {name: mean.item() for name, mean in means.items()} == {"b": 2.0, "a": 1.0}
    assert not means["b"].requires_grad


def test_masked_normalize_by_hand():
    values = torch.tensor([1.0, 2.0, 3.0, math.nan, 1000.0])
    mask = torch.tensor([True, True, True, False, False])
    # mean 2, unbiased standard deviation 1
    torch.testing.assert_close(masked_normalize(values, mask), torch.tensor([-1.0, 0.0, 1.0, 0.0, 0.0]))


def test_masked_normalize_of_one_value_and_of_equal_values_is_zero():
    assert masked_normalize(torch.tensor([7.0]), torch.tensor([True])).tolist() == [0.0]
    assert masked_normalize(torch.full((4,), 7.0), torch.ones(4, dtype=torch.bool)).tolist() == [0.0] * 4


def test_explained_variance_by_hand():
    target = torch.tensor([[1.0, 3.0], [5.0, math.nan]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_explained_variance(target, target, mask).item() == 1.0
    assert masked_explained_variance(torch.full((2, 2), 9.0), target, mask).item() == 0.0
    # errors 0, 1, 2: sum of squares about their mean 2; targets: 8
    assert masked_explained_variance(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), target, mask).item() == 0.75
    assert masked_explained_variance(torch.zeros(3), torch.ones(3), torch.ones(3, dtype=torch.bool)).item() == 0.0


def test_illegal_choices_have_probability_zero_and_no_gradient():
    logits = torch.tensor([[1.0, 5.0, 1.0]], requires_grad=True)
    log_probabilities = torch.log_softmax(mask_logits(logits, torch.tensor([[True, False, True]])), -1)
    torch.testing.assert_close(log_probabilities.exp(), torch.tensor([[0.5, 0.0, 0.5]]))
    entropy = -(log_probabilities.exp() * log_probabilities).sum()
    assert math.isclose(entropy.item(), math.log(2.0), rel_tol=1e-6)
    (entropy + log_probabilities[0, 0]).backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, 0.0, -0.5]]))


def test_a_row_without_a_legal_choice_is_uniform():
    masked = mask_logits(torch.tensor([1.0, 2.0]), torch.tensor([False, False]))
    torch.testing.assert_close(torch.softmax(masked, -1), torch.tensor([0.5, 0.5]))


def test_explained_variances_are_those_of_each_column():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 5, 3, 4, generator=generator)
    mask = torch.rand(5, 3, 4, generator=generator) < 0.6
    mask[..., 3] = False
    target[..., 2] = 7.0
    found = masked_explained_variances(prediction, target.masked_fill(~mask, math.nan), mask)
    expected = [masked_explained_variance(prediction[..., k], target[..., k], mask[..., k]) for k in range(4)]
    torch.testing.assert_close(found, torch.stack(expected))
    chosen = mask[..., 0]
    residual = (target - prediction)[..., 0][chosen].var() / target[..., 0][chosen].var()
    assert found[0].item() == pytest.approx(1.0 - residual.item(), rel=1e-4)
    assert found[2:].tolist() == [0.0, 0.0]
