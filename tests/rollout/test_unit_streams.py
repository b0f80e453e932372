"""The random numbers of an acting unit: its own, whatever else draws."""

import numpy as np
import torch

from alfish.rollout.unit_streams import UnitStreams, unit_sequence

CPU = torch.device("cpu")


def make(seed=0, unit=0, restarts=0):
    return UnitStreams(unit_sequence(np.random.SeedSequence(seed, spawn_key=(5,)), unit, restarts), CPU)


def draw(streams):
    with streams.active():
        numbers = torch.rand(3).tolist()
    return [*numbers, streams.environment_seed()]


def test_units_and_restarts_have_numbers_of_their_own():
    drawn = [draw(make(*which)) for which in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0))]
    for column in zip(*drawn, strict=True):
        assert len(set(column)) == 4
    assert drawn[0] == draw(make())


def test_what_else_draws_changes_nothing():
    alone, beside = make(), make()
    expected = [draw(alone) for _ in range(3)]
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        found.append(draw(beside))
    assert found == expected


def test_outside_numbers_go_on_as_if_nothing_had_drawn():
    torch.manual_seed(4)
    expected = torch.rand(2).tolist()
    torch.manual_seed(4)
    found = [torch.rand(1).item()]
    draw(make())
    assert [*found, torch.rand(1).item()] == expected


def test_a_loop_that_raises_leaves_the_outside_alone():
    before = torch.get_rng_state()
    try:
        with make().active():
            torch.rand(3)
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_brings_the_numbers_back():
    streams, other = make(), make(seed=3)
    draw(streams)
    state = streams.state_dict()
    expected = [draw(streams) for _ in range(2)]
    other.load_state_dict(state)
    assert [draw(other) for _ in range(2)] == expected
    other.load_state_dict(state)
    assert draw(other) == expected[0]
