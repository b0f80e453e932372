"""Random streams and counters."""

import pytest
import torch

from alfish.trainers.progress import Counters, crossed
from alfish.trainers.seeding import RandomStreams


def test_streams_depend_on_seed_and_name_only():
    first, second = RandomStreams(3), RandomStreams(3)
    second.generator("other").integers(100)
    assert first.generator("a").integers(2**40) == second.generator("a").integers(2**40)
    assert RandomStreams(3).generator("b").integers(2**40) != RandomStreams(3).generator("a").integers(2**40)
    assert RandomStreams(4).generator("a").integers(2**40) != RandomStreams(3).generator("a").integers(2**40)


def test_streams_seed_torch():
    RandomStreams(3)
    first = torch.rand(3)
    RandomStreams(3)
    assert torch.equal(first, torch.rand(3))
    RandomStreams(4)
    assert not torch.equal(first, torch.rand(3))


def test_streams_are_restored():
    streams = RandomStreams(5)
    streams.generator("a").integers(10)
    state = streams.state_dict()
    expected = streams.generator("a").integers(2**40), torch.rand(3)
    other = RandomStreams(6)
    other.load_state_dict(state)
    assert other.generator("a").integers(2**40) == expected[0]
    assert torch.equal(torch.rand(3), expected[1])


def test_negative_seed():
    with pytest.raises(ValueError, match="seed is -1"):
        RandomStreams(-1)


def test_counters_round_trip():
    counters = Counters(total_env_steps=100)
    counters.add(iterations=1, env_steps=50)
    other = Counters(total_env_steps=100)
    other.load_state_dict(counters.state_dict())
    assert other.progress() == counters.progress()
    assert other.progress().fraction == 0.5
    other.add(env_steps=90)
    assert other.progress().fraction == 1.0


@pytest.mark.parametrize(
    ("before", "after", "expected"), [(0, 9, False), (0, 10, True), (9, 10, True), (10, 19, False), (9, 31, True)]
)
def test_crossed(before, after, expected):
    assert crossed(10, before, after) is expected


def test_never_crossed():
    assert not crossed(None, 0, 100)
