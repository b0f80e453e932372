"""What every test starts from: an empty gin configuration, one torch thread, untouched random streams."""

from collections.abc import Iterator

import gin
import hypothesis
import pytest
import torch
from trainer_parts import close_trainers

# One thread: sums are then made in one order on every machine.
torch.set_num_threads(1)
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _independent_of_other_tests() -> Iterator[None]:
    """Undoes what a test changes in gin and in torch's generator, so that the order of tests does not matter."""
    with torch.random.fork_rng(devices=[]):
        yield
    gin.clear_config()


@pytest.fixture(autouse=True)
def _trainers_are_closed():
    yield
    close_trainers()
