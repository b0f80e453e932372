"""Masks of legal actions: read from the observation, refused where they cannot be."""

import pytest
import torch

from alfish import specs
from alfish.algorithms.legal_masks import LegalMask, mask_if_any
from alfish.data_structures import StepType, time_step_spec
from alfish.specs import BoundedTensorSpec, TensorSpec

ACTION = BoundedTensorSpec((), torch.int64, 0, 2)
OBSERVATION = {"board": TensorSpec((4,)), "legal": BoundedTensorSpec((3,), torch.int8, 0, 1)}


def rows(mask, step_type, env_id=None):
    """Rows with the mask `[..., 3]` and the step types `[...]`."""
    step_type = torch.tensor(step_type, dtype=torch.uint8)
    row = specs.zeros(time_step_spec(OBSERVATION, ACTION), tuple(step_type.shape))
    row.observation["legal"] = torch.tensor(mask, dtype=torch.int8)
    row = row._replace(step_type=step_type)
    return row if env_id is None else row._replace(env_id=torch.tensor(env_id, dtype=torch.int32))


def legal_mask(key="legal", observation=OBSERVATION, action=ACTION):
    return LegalMask(key, observation, action, "MyAlgorithm")


def test_nonzero_entries_are_legal():
    mask = legal_mask().read(rows([[1, 0, 0], [0, -1, 2]], [StepType.FIRST, StepType.MID]))
    assert mask.tolist() == [[True, False, False], [False, True, True]]


def test_a_last_row_that_allows_nothing_allows_all_with_and_without_a_time_axis():
    block = rows([[[0, 0, 1], [0, 0, 0]], [[0, 1, 0], [1, 0, 0]]], [[StepType.MID, StepType.LAST]] * 2)
    expected = [[[False, False, True], [True] * 3], [[False, True, False], [True, False, False]]]
    assert legal_mask().read(block).tolist() == expected


def test_without_a_key_there_is_no_mask():
    mask = LegalMask(None, TensorSpec((4,)), TensorSpec((2,)), "MyAlgorithm")
    row = rows([[0, 0, 0]], [StepType.MID])
    assert mask.read(row) is None
    assert mask.checked(row) is None
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert mask_if_any(logits, None) is logits


def test_masked_logits_give_illegal_actions_no_probability():
    logits = torch.tensor([[0.0, 100.0, 0.0]])
    probabilities = torch.softmax(mask_if_any(logits, torch.tensor([[True, False, True]])), dim=-1)
    assert probabilities.tolist() == [[0.5, 0.0, 0.5]]


def test_a_row_without_a_legal_action_names_its_environment():
    mask = legal_mask()
    good = rows([[1, 0, 0], [0, 0, 0]], [StepType.FIRST, StepType.LAST], [7, 8])
    assert mask.checked(good).tolist() == [[True, False, False], [True, True, True]]
    bad = rows([[1, 0, 0], [0, 0, 0]], [StepType.FIRST, StepType.MID], [7, 8])
    with pytest.raises(
        ValueError, match=r"^environment 8: .*\['legal'\] allows no action; .*MyAlgorithm.legal_mask_key = None$"
    ):
        mask.checked(bad)
    with pytest.raises(ValueError, match=r"^environment 1: "):
        mask.check(mask.read(bad))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "mask"}, r"MyAlgorithm.legal_mask_key is 'mask'; expected a key of the observation, \{"),
        ({"observation": TensorSpec((3,))}, "is 'legal'; expected a key of the observation, TensorSpec"),
        ({"action": BoundedTensorSpec((2,), torch.float32, -1, 1)}, "only one discrete choice can be masked"),
        (
            {"action": BoundedTensorSpec((2,), torch.int64, 0, 2)},
            r"only one discrete choice can be masked, .*; flatten .*, or set MyAlgorithm.legal_mask_key = None",
        ),
        ({"action": {"move": ACTION}}, "only one discrete choice can be masked"),
        ({"action": BoundedTensorSpec((), torch.int64, 0, 4)}, r"shape=\(3,\).*expected the shape \(5,\)"),
        ({"observation": {"legal": (TensorSpec((3,)),)}}, r"whose spec is \(.*expected the shape \(3,\)"),
    ],
)
def test_what_cannot_be_masked_is_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        legal_mask(**arguments)
