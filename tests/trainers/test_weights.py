"""Files of weights, and the weights of another run to begin with."""

import errno
import os

import pytest
import torch

from alfish.trainers import checkpoint_files
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.initial_weights import InitialWeights
from alfish.trainers.state_checks import CheckpointMismatch
from alfish.trainers.weight_files import read_run, read_weights, save_weights, take_weights

HOSTILE_PICKLE = b"cposix\nmkdir\n(V{path}\ntR."


def network(actions):
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, actions))


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def load_weights(path, module):
    take_weights(module, read_weights(path), str(path))


def test_weights_round_trip_and_replace(tmp_path):
    path = tmp_path / "best" / "weights.pt"
    first, second, target = network(2), network(2), network(2)
    save_weights(path, first)
    save_weights(path, second)
    load_weights(path, target)
    assert same(dict(second.state_dict()), dict(target.state_dict()))
    assert os.listdir(path.parent) == ["weights.pt"]


def test_weights_that_do_not_fit(tmp_path):
    save_weights(tmp_path / "weights.pt", network(2))
    target = network(3)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=r"1.weight +\(3, 4\) +\(2, 4\)"):
        load_weights(tmp_path / "weights.pt", target)
    assert same(before, dict(target.state_dict()))


def test_damaged_weights(tmp_path):
    path = tmp_path / "weights.pt"
    save_weights(path, network(2))
    data = path.read_bytes()
    for content in (data[: len(data) // 2], b"", HOSTILE_PICKLE.replace(b"{path}", os.fsencode(tmp_path / "proof"))):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="weights.pt is not a readable file") as error:
            load_weights(path, network(2))
        assert "weights_only" not in str(error.value)
    assert not (tmp_path / "proof").exists()
    with pytest.raises(ValueError, match="no file of weights"):
        load_weights(tmp_path / "nothing.pt", network(2))


def test_a_flipped_bit_in_a_weight_is_found(tmp_path):
    path = tmp_path / "weights.pt"
    module = network(2)
    torch.nn.init.constant_(module[0].weight, 1.2345)
    save_weights(path, module)
    data = path.read_bytes()
    position = data.index(module[0].weight.detach().numpy().tobytes())
    path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    target = network(2)
    with pytest.raises(ValueError, match="weights.pt is"):
        load_weights(path, target)
    assert not (target[0].weight == module[0].weight).any()


def test_other_torch_files_are_no_weights(tmp_path):
    torch.save({"weights": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        load_weights(tmp_path / "weights.pt", network(2))


def test_weights_on_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "weights.pt"
    good = network(2)
    save_weights(path, good)

    def fail(temporary, chunks):
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_files, "write_file", fail)
    with pytest.raises(OSError, match="weights could not be saved to .*: No space left"):
        save_weights(path, network(2))
    target = network(2)
    load_weights(path, target)
    assert same(dict(good.state_dict()), dict(target.state_dict()))
    assert os.listdir(tmp_path) == ["weights.pt"]


class Pair(torch.nn.Module):
    """Two networks, as an online and a target network."""

    def __init__(self, actions=2):
        super().__init__()
        self.online, self.target = network(actions), network(actions)


def test_the_best_weights_of_a_run_or_else_the_newest(tmp_path):
    older, newest, best = network(2), network(2), network(2)
    with pytest.raises(ValueError, match="holds no weights: the run was stopped before its first checkpoint"):
        read_run(tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(10, {"algorithm": older, "more": older})
    store.save(20, {"algorithm": newest, "more": older})
    weights, step = read_run(tmp_path)
    assert step == 20
    assert same(weights, newest.state_dict())
    save_weights(tmp_path / "best/weights.pt", best)
    weights, step = read_run(tmp_path)
    assert step is None
    assert same(weights, best.state_dict())


def test_initial_weights_are_those_of_the_other_run(tmp_path):
    other, own = network(2), network(2)
    save_weights(tmp_path / "best/weights.pt", other)
    InitialWeights(str(tmp_path))(own)
    assert same(own.state_dict(), other.state_dict())
    assert own[0].weight.data_ptr() != other[0].weight.data_ptr()


def test_initial_weights_of_a_part_go_into_several_parts(tmp_path):
    other, own = torch.nn.ModuleDict({"model": network(2), "head": network(5)}), Pair()
    save_weights(tmp_path / "weights.pt", other)
    InitialWeights(str(tmp_path / "weights.pt"), "model.", ("online.", "target."))(own)
    for part in (own.online, own.target):
        assert same(part.state_dict(), other["model"].state_dict())


def test_initial_weights_leave_the_rest_alone(tmp_path):
    other, own = Pair(), Pair()
    before = {name: value.clone() for name, value in own.target.state_dict().items()}
    save_weights(tmp_path / "weights.pt", other)
    InitialWeights(str(tmp_path / "weights.pt"), "online.")(own)
    assert same(own.online.state_dict(), other.online.state_dict())
    assert same(own.target.state_dict(), before)


@pytest.mark.parametrize(
    ("prefix", "into_prefix", "message"),
    [
        (
            "policy.",
            None,
            r"prefix is 'policy.', but no weight in .* expected one of 'online.', 'online.0.', .*'target.",
        ),
        ("online.", "policy.", r"into_prefix is 'policy.', but no weight of this run .* expected one of 'online.'"),
        ("online.0.", "online.", r"online.1.bias +\(3,\) +missing"),
        ("", "online.", r"online.online.0.bias +not expected +\(4,\)"),
        ("online.", None, r"online.1.weight +\(3, 4\) +\(2, 4\)"),
    ],
)
def test_initial_weights_that_do_not_fit_change_nothing(tmp_path, prefix, into_prefix, message):
    save_weights(tmp_path / "weights.pt", Pair(actions=2))
    own = Pair(actions=3)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        InitialWeights(str(tmp_path / "weights.pt"), prefix, into_prefix)(own)
    assert same(own.state_dict(), before)


def test_initial_weights_need_a_file(tmp_path):
    message = (
        r"^InitialWeights\.path is '.*nothing.pt': there is no file of weights at .*; set InitialWeights\.path to the"
    )
    with pytest.raises(ValueError, match=message):
        InitialWeights(str(tmp_path / "nothing.pt"))(network(2))
