"""Windows in one block of shared memory."""

import pytest
import torch

from alfish import nest, specs
from alfish.data_structures import Experience, time_step_spec
from alfish.rollout.shared_windows import SharedWindows

OBSERVATION = {"image": specs.TensorSpec((2, 3), torch.uint8), "mask": specs.TensorSpec((5,), torch.bool)}
ROW = Experience(
    time_step_spec(OBSERVATION, specs.BoundedTensorSpec((), torch.int64, 0, 3)),
    specs.TensorSpec((), torch.int64),
    (specs.TensorSpec((7,), torch.float32), specs.TensorSpec((), torch.bfloat16)),
    (),
)


def test_windows_do_not_touch_each_other_and_others_see_them():
    pool = SharedWindows(ROW, 4, 3, 2, 3)
    assert pool.block.is_shared()
    assert len(pool.windows) == 3
    filled = []
    for number, window in enumerate(pool.windows):
        assert window.time_step.observation["image"].shape == (2 + 4 + 1, 3, 2, 3)
        assert window.rollout_info[0].shape == (4, 3, 7)
        assert window.state == ()
        generator = torch.Generator().manual_seed(number)
        for leaf in nest.leaves(window):
            leaf.copy_(torch.randint(0, 2, leaf.shape, generator=generator))
        filled.append(nest.map_structure(torch.clone, window))
    seen = SharedWindows(ROW, 4, 3, 2, 3, pool.block)
    for expected, window in zip(filled, seen.windows, strict=True):
        for leaf, found in zip(nest.leaves(expected), nest.leaves(window), strict=True):
            assert torch.equal(leaf, found)
            assert found.dtype == leaf.dtype


def test_other_rows_are_refused():
    pool = SharedWindows(ROW, 4, 3, 2, 3)
    with pytest.raises(ValueError, match="store other rows than the learner's"):
        SharedWindows(ROW._replace(state=specs.TensorSpec((64,))), 4, 3, 2, 3, pool.block)


def test_too_large_windows_are_refused():
    huge = ROW._replace(state=specs.TensorSpec((1 << 46,)))
    with pytest.raises(ValueError, match="of shared memory cannot be had .*make the windows smaller"):
        SharedWindows(huge, 4, 3, 2, 3)
