import math

import pytest
import torch

from alfish.ops.target_updates import TargetUpdate, update_target


def network(value: float) -> torch.nn.Module:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
        module[1].running_mean.fill_(value)
        module[1].num_batches_tracked.fill_(int(value))
    return module


def test_soft_update_by_hand():
    target, source = network(1.0), network(5.0)
    update_target(target, source, 0.25)
    assert all((parameter == 2.0).all() for parameter in target.parameters())
    # Buffers, of which one is an integer, are copied.
    assert (target[1].running_mean == 5.0).all()
    assert target[1].num_batches_tracked.item() == 5
    assert all((parameter == 5.0).all() for parameter in source.parameters())


def test_a_copy_is_exact_and_cures_nan():
    target, source = network(math.pi), network(math.e)
    with torch.no_grad():
        target[0].weight.fill_(math.nan)
    update_target(target, source, 1.0)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    source[0].weight.data.add_(1.0)
    assert not torch.equal(target[0].weight, source[0].weight)


def test_gradients_are_left_alone():
    target, source = network(1.0), network(5.0)
    update_target(target, source, 0.5)
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in target.parameters())


def test_period():
    target, source = network(1.0), network(5.0)
    update = TargetUpdate(tau=1.0, period=3)
    assert [update(target, source, updates) for updates in (1, 2)] == [False, False]
    assert (target[0].weight == 1.0).all()
    assert update(target, source, 3)
    assert (target[0].weight == 5.0).all()


def test_a_module_without_buffers_and_one_without_parameters():
    update_target(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), 0.5)
    update_target(torch.nn.Identity(), torch.nn.Identity(), 0.5)


def test_networks_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"target network has \['bias'\]"):
        update_target(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match=r"weight has the shape \(2, 2\)"):
        update_target(torch.nn.Linear(2, 2), torch.nn.Linear(1, 2))


@pytest.mark.parametrize("arguments", [{"tau": 0.0}, {"tau": 1.5}, {"period": 0}])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="TargetUpdate"):
        TargetUpdate(**arguments)
