"""Weights in a flat block: what goes in comes out, in a module of its own."""

import pytest
import torch

from alfish.rollout.shared_memory import carve
from alfish.rollout.weights_snapshot import WeightsSnapshot
from alfish.specs import TensorSpec


class Network(torch.nn.Module):
    """Parameters and buffers of several dtypes and shapes, one of them tied, one not persistent, one empty."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layer = torch.nn.Linear(3, 5)
        self.tied = self.layer
        self.norm = torch.nn.BatchNorm1d(3)
        self.narrow = torch.nn.Parameter(torch.randn(7, generator=generator).bfloat16())
        self.register_buffer("flag", torch.tensor(seed % 2 == 0))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("constant", torch.tensor(float(seed)), persistent=False)
        with torch.no_grad():
            for tensor in (self.layer.weight, self.layer.bias, self.norm.running_mean):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            self.norm.num_batches_tracked += seed


def same(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, found) for (name, value), (other, found) in pairs)


@pytest.fixture(params=["as on the CPU", "as on a GPU"])
def snapshot_of(request):
    def make(*arguments):
        snapshot = WeightsSnapshot(*arguments)
        if request.param == "as on a GPU":  # through one flat tensor of the device
            snapshot._flat = torch.empty_like(snapshot.block[0])
            layout = [TensorSpec(tuple(tensor.shape), tensor.dtype) for tensor in snapshot._tensors()]
            snapshot._on_device = carve(snapshot._flat, layout)
        return snapshot

    return make


def test_slots_hold_versions(snapshot_of):
    network, other = Network(1), Network(2)
    written = snapshot_of(network, 2)
    written.write(0)
    first = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        network.layer.weight += 1
        network.norm.num_batches_tracked += 1
    written.write(1)
    read = snapshot_of(other, 2, written.block)
    read.read(1)
    assert same(network, other)
    read.read(0)
    assert all(torch.equal(value, first[name]) for name, value in other.state_dict().items())
    assert other.constant == 2


def test_a_parameter_that_was_replaced_is_read_and_written(snapshot_of):
    network, other = Network(1), Network(2)
    snapshot = snapshot_of(network)
    network.narrow = torch.nn.Parameter(torch.full((7,), 4.0).bfloat16())
    snapshot.write(0)
    snapshot_of(other, 1, snapshot.block).read(0)
    assert other.narrow.eq(4).all()


def test_a_module_without_tensors_is_served():
    module = torch.nn.Identity()
    snapshot = WeightsSnapshot(module, 3)
    snapshot.write(2)
    WeightsSnapshot(module, 3, snapshot.block).read(2)


def test_other_modules_and_other_states_are_refused():
    block = WeightsSnapshot(torch.nn.Linear(3, 5), 2).block
    with pytest.raises(ValueError, match=r"is not one of 2 versions of this Linear, \d+ bytes each"):
        WeightsSnapshot(torch.nn.Linear(3, 50), 2, block)

    class Extra(torch.nn.Linear):
        def get_extra_state(self):
            return {"steps": 3}

    with pytest.raises(ValueError, match="Extra keeps '_extra_state', a dict, in its state; only tensors"):
        WeightsSnapshot(Extra(3, 5))
