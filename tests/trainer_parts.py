"""What tests of whole trainers share: closing them, and comparing all that they hold."""

import torch

from alfish import nest

_OPEN = []


def closed_after_test(trainer):
    """The trainer, which is closed when the test is over."""
    _OPEN.append(trainer)
    return trainer


def close_trainers():
    """Called by `conftest.py` after each test."""
    while _OPEN:
        _OPEN.pop().close()


def everything(trainer):
    """Names and values of all that a checkpoint of the trainer would hold."""
    components = {name: part.state_dict() for name, part in trainer._components().items() if name != "summaries"}
    return nest.leaves_with_paths(components)


def assert_same(first, second):
    """Asserts that two trainers hold the same, bit for bit."""
    for (path, leaf), (_, found) in zip(everything(first), everything(second), strict=True):
        same = torch.equal(leaf, found) if isinstance(leaf, torch.Tensor) else leaf == found
        assert same, path
