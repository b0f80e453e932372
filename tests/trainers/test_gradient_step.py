"""Parameters that are stepped as one tensor: the same as each by itself, and the same in a checkpoint."""

import copy
import functools

import pytest
import torch

from alfish.trainers import gradient_step
from alfish.trainers.gradient_step import GradientStep
from alfish.trainers.state_checks import CheckpointMismatch

OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "fused Adam": functools.partial(torch.optim.Adam, fused=True, eps=1e-5),
    "AMSGrad": functools.partial(torch.optim.Adam, amsgrad=True),
    "AdamW": torch.optim.AdamW,
    "SGD": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "RMSprop": functools.partial(torch.optim.RMSprop, momentum=0.5, centered=True),
}


def make_network():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 17), torch.nn.Tanh(), torch.nn.Linear(17, 1))
    network.register_parameter("scale", torch.nn.Parameter(torch.tensor(1.5)))  # without axes, as a temperature is
    return network


def make_step(network, optimizer=torch.optim.Adam, max_norm=0.5):
    return GradientStep(optimizer, list(network.parameters()), 0.01, max_norm)


def make_separate(monkeypatch, *arguments, **settings):
    with monkeypatch.context() as patch:
        patch.setattr(gradient_step, "JOINABLE", ())
        step = make_step(*arguments, **settings)
    assert not step.is_joined
    return step


def take(step, network, k, learning_rate=0.01):
    """One update, the k-th; returns the norm."""
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(k))
    step.set_learning_rate(learning_rate)
    step.clear()
    (network(inputs) * network.scale - 1.0).square().mean().backward()
    norm = step.read_gradient()
    step.step()
    return norm


def close(a, b):
    for found, wanted in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def equal(a, b):
    return all(torch.equal(mine, other) for mine, other in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_clipping_every_bit_is_that_of_separate_steps(name, monkeypatch):
    joined_network, network = make_network(), make_network()
    joined = make_step(joined_network, OPTIMIZERS[name], None)
    separate = make_separate(monkeypatch, network, OPTIMIZERS[name], None)
    before = make_network()
    for k in range(20):
        rate = 0.01 * (1.0 - k / 40)
        norm, expected = take(joined, joined_network, k, rate), take(separate, network, k, rate)
        torch.testing.assert_close(norm, expected)
    assert joined.is_joined
    assert not equal(network, before)
    if name == "fused Adam":  # the last numbers of a tensor, fewer than a vector holds, are rounded otherwise
        close(joined_network, network)
        return
    assert equal(joined_network, network)
    state, expected_state = joined.state_dict()["optimizer"], separate.state_dict()["optimizer"]
    assert state["param_groups"] == expected_state["param_groups"]
    assert state["state"].keys() == expected_state["state"].keys()
    for k, entries in expected_state["state"].items():
        assert entries.keys() == state["state"][k].keys()
        for entry, value in entries.items():
            assert value is None or torch.equal(value, state["state"][k][entry])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_clipping_only_the_rounding_of_the_norm_differs(name, monkeypatch):
    joined_network, network = make_network(), make_network()
    joined = make_step(joined_network, OPTIMIZERS[name], 0.1)
    separate = make_separate(monkeypatch, network, OPTIMIZERS[name], 0.1)
    for k in range(20):
        norm, expected = take(joined, joined_network, k), take(separate, network, k)
        torch.testing.assert_close(norm, expected, rtol=1e-5, atol=0.0)
    close(joined_network, network)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("from_separate", [False, True])
def test_going_on_from_a_state(name, from_separate, monkeypatch):
    network = make_network()
    make = functools.partial(make_separate, monkeypatch) if from_separate else make_step
    step = make(network, OPTIMIZERS[name], None)
    for k in range(3):
        take(step, network, k)
    other_network = make_network()
    other = make_step(other_network, OPTIMIZERS[name], None)
    take(other, other_network, 99)  # which the loading must undo
    state = copy.deepcopy(step.state_dict())
    other.check_state_dict(state)
    other.load_state_dict(state)
    other_network.load_state_dict(network.state_dict())
    assert other.is_joined is not from_separate
    for k in range(3, 6):
        take(step, network, k)
        take(other, other_network, k)
    assert equal(network, other_network) or (name == "fused Adam" and from_separate)
    close(network, other_network)


def test_a_parameter_without_a_gradient_is_not_stepped(monkeypatch):
    joined_network, network = make_network(), make_network()
    joined, separate = make_step(joined_network), make_separate(monkeypatch, network)
    for each, step in ((joined_network, joined), (network, separate)):
        take(step, each, 0, 0.02)
        each.scale.requires_grad_(False)
        before = each.scale.clone()
        take(step, each, 1, 0.02)
        assert torch.equal(each.scale, before)
        each.scale.requires_grad_(True)
        take(step, each, 2, 0.02)
        assert not torch.equal(each.scale, before)
    assert not joined.is_joined
    close(joined_network, network)
    other = make_step(make_network())
    other.load_state_dict(copy.deepcopy(joined.state_dict()))
    assert not other.is_joined
    steps = [float(each["step"]) for each in other.state_dict()["optimizer"]["state"].values()]
    assert sorted(steps) == [2.0, 3.0, 3.0, 3.0, 3.0]


def test_copies_are_independent():
    network = make_network()
    step = make_step(network)
    take(step, network, 0)
    other = copy.deepcopy(network)
    saved = copy.deepcopy(network.state_dict())
    take(step, network, 1)
    assert not equal(network, other)
    network.load_state_dict(saved)
    assert equal(network, other)
    before = [each.clone() for each in other.parameters()]
    take(step, network, 2)  # what was loaded is what is stepped
    assert step.is_joined and not equal(network, other)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_parameters_that_got_other_memory_are_still_stepped():
    network = make_network()
    step = make_step(network)
    take(step, network, 0)
    network.to(torch.float64).to(torch.float32)
    before = copy.deepcopy(network)
    take(step, network, 1)
    assert not step.is_joined and not equal(network, before)


def test_a_second_one_of_the_same_parameters_leaves_the_first_its_memory():
    network = make_network()
    first = make_step(network)
    second = make_step(network)
    assert first.is_joined and not second.is_joined
    for step in (first, second):
        before = copy.deepcopy(network)
        take(step, network, 0)
        assert not equal(network, before)


def test_what_is_not_joined():
    assert not make_step(make_network(), torch.optim.Adadelta).is_joined
    one = torch.nn.Linear(2, 1, bias=False)
    assert not make_step(one).is_joined
    mixed = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1, dtype=torch.float64)])
    assert not make_step(mixed).is_joined
    strided = torch.nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
    assert not make_step(strided).is_joined


def test_a_state_of_other_parameters_is_refused():
    network = make_network()
    step = make_step(network)
    take(step, network, 0)
    other = make_step(torch.nn.Linear(3, 1))
    with pytest.raises(CheckpointMismatch, match=r"parameters \[2\] +parameters \[5\]"):
        other.check_state_dict(step.state_dict())
