"""Checks that the pieces of the replay buffer share."""

import pytest
import torch

from alfish.experience_replayers.checks import check_tensors


def test_only_the_first_tensor_that_differs_is_named():
    expected = [torch.zeros(3, 2) for _ in range(100)]
    check_tensors(list(expected), expected, "Ring")
    found = [*expected[:40], torch.zeros(1, 2), *expected[41:99], torch.zeros(0)]
    with pytest.raises(ValueError, match="Ring: the state's tensors are damaged: number 40 of 100 is ") as error:
        check_tensors(found, expected, "Ring")
    assert str(error.value).endswith("is torch.float32 (1, 2), expected torch.float32 (3, 2)")


@pytest.mark.parametrize(("found", "described"), [([torch.zeros(2)], "a list of 1"), ({}, "dict")])
def test_another_number_of_tensors_is_refused(found, described):
    with pytest.raises(ValueError, match=f"the state's tensors are {described}, expected a list of 2; it is damaged"):
        check_tensors(found, [torch.zeros(2)] * 2, "Ring")
