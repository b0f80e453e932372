import errno
import json
import logging as standard_logging
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from alfish.trainers import checkpoint_files
from alfish.trainers.checkpoint_store import CheckpointStore
from alfish.trainers.state_checks import CheckpointMismatch
from alfish.trainers.state_nests import LARGE_BYTES

LARGE = LARGE_BYTES // 4  # float32 elements


class Holder:
    """A component that keeps whatever state it is given."""

    def __init__(self, state: Any = None):
        self.state = state
        self.loads = 0

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state
        self.loads += 1


class CopyingHolder(Holder):
    copies_on_load = True


@pytest.fixture(autouse=True)
def _absl_to_caplog(caplog):
    caplog.set_level(standard_logging.WARNING, logger="absl")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def store(folder: pathlib.Path) -> CheckpointStore:
    return CheckpointStore(folder)


def counter(value: int) -> dict[str, Holder]:
    """A component with one number, and a tensor in a file of its own."""
    return {"counter": Holder({"value": value, "rows": torch.full((LARGE,), float(value))})}


def loaded_value(store: CheckpointStore) -> tuple[int | None, int]:
    components = counter(-1)
    step = store.load(components)
    state = components["counter"].state
    assert (state["rows"] == state["value"]).all()
    return step, state["value"]


def rewrite_manifest(checkpoint: pathlib.Path, **changes: Any) -> None:
    """As someone would who makes a manifest by hand and knows the format."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text()) | changes
    del content["sha256"]
    content["sha256"] = checkpoint_files._content_checksum(content)
    path.write_text(json.dumps(content))


def replace_file(checkpoint: pathlib.Path, name: str, data: bytes) -> None:
    """Puts other content in a checkpoint, with the right size and checksum in the manifest."""
    (checkpoint / name).unlink()
    stored = checkpoint_files.write_file(checkpoint / name, iter([memoryview(data)]))
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    for file in files:
        if file["name"] == name:
            file.update(num_bytes=stored.num_bytes, sha256=stored.sha256)
    rewrite_manifest(checkpoint, files=files)


def same(left: Any, right: Any) -> bool:
    """Equal bit for bit, types, dtypes and shapes included."""
    if isinstance(left, torch.Tensor):
        if (left.dtype, left.shape) != (right.dtype, right.shape):
            return False
        as_bytes = [tensor.resolve_conj().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)]
        return bool((as_bytes[0] == as_bytes[1]).all())
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or left != left)


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn),
]


@pytest.mark.parametrize("holder", [Holder, CopyingHolder])
def test_round_trip_is_bit_exact(store, holder):
    tensors = {}
    for dtype in DTYPES:
        random_bytes = torch.randint(0, 2 if dtype == torch.bool else 256, (LARGE_BYTES + 64,), dtype=torch.uint8)
        tensors[f"large {dtype}"] = random_bytes.view(dtype).reshape(2, -1)
        tensors[f"small {dtype}"] = random_bytes[:64].view(dtype)
    large = torch.arange(4 * LARGE, dtype=torch.float32).reshape(4, LARGE)
    state = {
        "tensors": tensors,
        "views": [
            large.T,
            large[1:3, ::2],
            large[0],
            torch.tensor(3.5),
            torch.zeros(0, 3),
        ],
        "conjugate": torch.complex(large, -large).conj(),
        "plain": {
            "none": None,
            "flag": True,
            "text": "ü",
            "raw": b"\x00\xff",
            "nan": float("nan"),
            "inf": float("-inf"),
        },
        "numbers": (0.1, 2**127 + 1, -(2**63), 1 - 2j, (), [], {}),
        1: {0: [torch.ones(LARGE), (torch.zeros(2, LARGE), "x")]},
    }
    store.save(5, {"all": holder(state)})
    target = holder()
    assert store.load({"all": target}) == 5
    assert same(state, target.state)


def test_files_are_what_the_manifest_says(store, folder):
    checkpoint = store.save(7, counter(1) | {"other": Holder({"deep": [0, torch.zeros(LARGE)]})})
    assert checkpoint == folder / "000000000007"
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert manifest["step"] == 7
    assert manifest["components"] == ["counter", "other"]
    assert [(file["name"], file["component"], file["path"]) for file in manifest["files"]] == [
        ("tensor_00000.npy", "counter", ["rows"]),
        ("tensor_00001.npy", "other", ["deep", 1]),
        ("state.pt", None, []),
    ]
    names = {file["name"] for file in manifest["files"]}
    assert {path.name for path in checkpoint.iterdir()} == names | {"manifest.json"}
    assert all((checkpoint / file["name"]).stat().st_size == file["num_bytes"] for file in manifest["files"])
    array = np.load(checkpoint / "tensor_00000.npy", allow_pickle=False)
    np.testing.assert_array_equal(array, np.ones(LARGE, np.float32))
    assert (checkpoint / "state.pt").stat().st_size < 10_000


def test_a_small_view_does_not_store_all_memory_behind_it(store):
    checkpoint = store.save(1, {"view": Holder(torch.zeros(10_000_000)[:10])})
    assert (checkpoint / "state.pt").stat().st_size < 10_000


def test_modules_and_optimizers_go_on_exactly(store):
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        module = torch.nn.Sequential(torch.nn.Linear(600, 600), torch.nn.BatchNorm1d(600), torch.nn.Linear(600, 1))
        return module, torch.optim.Adam(module.parameters(), lr=0.01)

    def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(torch.linspace(-1, 1, 1200).reshape(2, 600)).sum().backward()
        optimizer.step()

    module, optimizer = build()
    step(module, optimizer)
    checkpoint = store.save(1, {"module": module, "optimizer": optimizer})
    resumed_module, resumed_optimizer = build()
    assert store.load({"module": resumed_module, "optimizer": resumed_optimizer}) == 1
    shutil.rmtree(checkpoint)
    for _ in range(2):
        step(module, optimizer)
        step(resumed_module, resumed_optimizer)
    assert same(dict(module.state_dict()), dict(resumed_module.state_dict()))
    assert same(optimizer.state_dict(), resumed_optimizer.state_dict())
    assert resumed_module.state_dict()._metadata == module.state_dict()._metadata


def test_what_a_component_does_to_its_tensors_does_not_alter_the_checkpoint(store):
    for holder in (Holder, CopyingHolder):
        store.save(1, {"rows": holder(torch.zeros(LARGE))})
        target = holder()
        store.load({"rows": target})
        target.state.fill_(7.0)
        store.load({"rows": target})
        assert (target.state == 0).all()


def test_components_load_in_their_order(store):
    order = []

    class Noting(Holder):
        def load_state_dict(self, state: Any) -> None:
            order.append(state)

    names = ["random", "algorithm", "counter"]
    store.save(1, {name: Holder(name) for name in names})
    store.load({name: Noting() for name in reversed(names)})
    assert order == names[::-1]


def test_only_the_newest_stay(store, folder):
    for step in (1, 20, 300):
        store.save(step, counter(step))
    assert [path.name for path in store.step_folders()] == ["000000000020", "000000000300"]
    assert sorted(os.listdir(folder)) == ["000000000020", "000000000300"]
    assert store.newest_step() == 300
    assert loaded_value(store) == (300, 300)


def test_saved_twice_at_a_step_the_second_wins(store):
    store.save(5, counter(1))
    store.save(5, counter(2))
    assert loaded_value(store) == (5, 2)
    store.save(5, counter(3))
    assert loaded_value(store) == (5, 3)
    assert len(store.step_folders()) == 2


def test_saved_many_times_at_a_step_the_newest_stay(store, folder):
    for value in range(1, 6):
        store.save(5, counter(value))
        assert loaded_value(store) == (5, value)
    assert sorted(os.listdir(folder)) == ["000000000005-4", "000000000005-5"]
    store.save(6, counter(6))
    assert sorted(os.listdir(folder)) == ["000000000005-5", "000000000006"]


def test_nothing_to_load(store, folder):
    assert store.load(counter(0)) is None
    assert store.newest_step() is None
    assert store.step_folders() == []
    assert not folder.exists()


def test_an_older_step_than_the_newest_is_refused(store):
    store.save(10, counter(10))
    with pytest.raises(ValueError, match="step 5 in .* holds one of step 10"):
        store.save(5, counter(5))
    with pytest.raises(ValueError, match="step -1"):
        store.save(-1, counter(5))


def truncate(checkpoint: pathlib.Path, name: str) -> None:
    os.truncate(checkpoint / name, (checkpoint / name).stat().st_size // 2)


def flip(checkpoint: pathlib.Path, name: str) -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[len(data) // 2] ^= 0x10
    (checkpoint / name).write_bytes(data)


def remove(checkpoint: pathlib.Path, name: str) -> None:
    (checkpoint / name).unlink()


def link(checkpoint: pathlib.Path, name: str) -> None:
    (checkpoint / name).rename(checkpoint.parent / "elsewhere")
    (checkpoint / name).symlink_to(checkpoint.parent / "elsewhere")


@pytest.mark.parametrize("name", ["state.pt", "tensor_00000.npy", "manifest.json"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncate, ""), (flip, "not what was written"), (remove, "is missing"), (link, "is not a regular file")],
)
def test_a_damaged_file_sets_the_checkpoint_aside_and_the_one_before_is_loaded(
    store, folder, caplog, name, damage, reason
):
    store.save(1, counter(1))
    damage(store.save(2, counter(2)), name)
    if damage is truncate:
        reason = "not what was written" if name == "manifest.json" else "were written"
    assert loaded_value(store) == (1, 1)
    (record,) = caplog.records
    assert name in record.getMessage()
    assert reason in record.getMessage()
    assert (folder / "000000000002.bad").is_dir()
    assert store.newest_step() == 1
    # The run then comes to the same step again; a second bad one finds a name too.
    damage(store.save(2, counter(2)), name)
    (folder / "elsewhere").unlink(missing_ok=True)
    assert loaded_value(store) == (1, 1)
    assert (folder / "000000000002.bad-2").is_dir()


def test_only_damaged_ones_are_an_error_also_the_next_time(store):
    for step in (1, 2):
        truncate(store.save(step, counter(step)), "tensor_00000.npy")
    components = counter(0)
    with pytest.raises(ValueError, match=r"(?s)000000000002: tensor_00000.npy has .*000000000001: tensor_00000"):
        store.load(components)
    with pytest.raises(ValueError, match=r"(?s)000000000001.bad: set aside earlier.*000000000002.bad"):
        store.load(components)
    assert components["counter"].loads == 0


def test_a_folder_under_another_step_is_damaged(store, folder):
    store.save(1, counter(1)).rename(folder / "000000000009")
    with pytest.raises(ValueError, match="of step 1, which is not what its name says"):
        store.load(counter(0))


def test_leftovers_of_a_killed_save_are_not_loaded_and_go_with_the_next_save(store, folder):
    store.save(1, counter(1))
    half = folder / ".tmp-000000000002"
    shutil.copytree(folder / "000000000001", half)
    (half / "manifest.json").unlink()
    # Who only loads must not touch what a run may be writing at this moment.
    assert loaded_value(CheckpointStore(folder)) == (1, 1)
    assert half.is_dir()
    CheckpointStore(folder).save(2, counter(2))
    assert sorted(os.listdir(folder)) == ["000000000001", "000000000002"]


@pytest.mark.parametrize("files_that_fit", [0, 1, 2])
def test_a_full_disk_leaves_the_earlier_ones(store, folder, monkeypatch, files_that_fit):
    store.save(1, counter(1))
    written = []
    write_file = checkpoint_files.write_file

    def write_until_full(path, chunks):
        if len(written) == files_that_fit:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return write_file(path, chunks)

    monkeypatch.setattr(checkpoint_files, "write_file", write_until_full)
    with pytest.raises(OSError, match="step 2 could not be saved in .*: No space left on device") as caught:
        store.save(2, counter(2))
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(folder) == ["000000000001"]
    assert loaded_value(store) == (1, 1)


def test_an_interrupt_while_saving_leaves_nothing_behind(store, folder, monkeypatch):
    store.save(1, counter(1))

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint_files, "sync_folder", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(2, counter(2))
    assert os.listdir(folder) == ["000000000001"]


def test_a_reader_goes_on_to_the_next_when_the_run_deletes_what_it_reads(store, folder, monkeypatch):
    store.save(1, counter(1))
    verify = checkpoint_files.verify

    def verify_while_the_run_saves(checkpoint, file):
        if checkpoint.name == "000000000001":
            store.save(2, counter(2))
            store.save(3, counter(3))
        verify(checkpoint, file)

    monkeypatch.setattr("alfish.trainers.checkpoint_store.verify", verify_while_the_run_saves)
    assert loaded_value(CheckpointStore(folder)) == (3, 3)
    assert sorted(os.listdir(folder)) == ["000000000002", "000000000003"]


def test_unreadable_is_not_damaged(store, folder, monkeypatch):
    store.save(1, counter(1))

    def refuse(checkpoint, file):
        raise PermissionError(errno.EACCES, "Permission denied", file.name)

    monkeypatch.setattr("alfish.trainers.checkpoint_store.verify", refuse)
    with pytest.raises(PermissionError):
        store.load(counter(0))
    assert os.listdir(folder) == ["000000000001"]


def network(actions: int, hidden: int = 4, layers: int = 1) -> torch.nn.Module:
    sizes = [3, *[hidden] * layers, actions]
    return torch.nn.Sequential(*[torch.nn.Linear(n, m) for n, m in zip(sizes, sizes[1:], strict=False)])


def test_a_mismatch_is_a_table_and_nothing_is_loaded(store):
    store.save(1, {"counter": Holder(1), "policy": network(2)})
    counted, policy = Holder(0), network(6)
    before = {key: value.clone() for key, value in policy.state_dict().items()}
    with pytest.raises(CheckpointMismatch) as caught:
        store.load({"counter": counted, "policy": policy})
    assert str(caught.value).split("\n", 1)[1] == (
        "  key               expected  in the file\n"
        "  policy: 1.weight  (6, 4)    (2, 4)\n"
        "  policy: 1.bias    (6,)      (2,)\n"
        "Nothing was loaded. Use the configuration of the run that wrote it, or begin a new run in another folder."
    )
    assert counted.loads == 0
    assert same(before, dict(policy.state_dict()))
    assert store.newest_step() == 1  # it is good, so it is not set aside


def test_a_long_mismatch_is_cut_short(store):
    store.save(1, {"policy": network(2, layers=2)})
    with pytest.raises(CheckpointMismatch) as caught:
        store.load({"policy": network(2, hidden=5, layers=9)})
    lines = str(caught.value).split("\n")
    assert len(lines) == 14
    assert lines[-2] == "  and 10 more"
    assert "  policy: 3.weight  (5, 5)    missing" in lines
    with pytest.raises(CheckpointMismatch, match=r"policy: 2.bias +not expected +\(2,\)"):
        store.load({"policy": network(2, layers=1)})


def test_other_components_are_a_mismatch(store):
    store.save(1, {"counter": Holder(1), "replay": Holder(2)})
    components = {"counter": Holder(), "buffer": Holder()}
    with pytest.raises(CheckpointMismatch, match=r"(?s)buffer +a component +missing.*replay +not expected +a compo"):
        store.load(components)
    with pytest.raises(CheckpointMismatch, match=r"buffer +a component +missing"):
        store.load(components, on_missing="skip")
    assert components["counter"].loads == 0


def test_a_part_can_be_loaded_without_reading_the_rest(store):
    checkpoint = store.save(1, {"policy": network(2), "replay": Holder(torch.zeros(LARGE))})
    flip(checkpoint, "tensor_00000.npy")
    policy = network(2)
    assert store.load({"policy": policy}, on_missing="skip") == 1


def test_optimizers_are_compared_too(store):
    store.save(1, {"counter": Holder(1), "optimizer": torch.optim.Adam(network(2).parameters())})
    counted = Holder()
    other = torch.optim.Adam(network(2, layers=2).parameters())
    with pytest.raises(CheckpointMismatch, match=r"optimizer: param_groups +parameters \[6\] +parameters \[4\]"):
        store.load({"counter": counted, "optimizer": other})
    assert counted.loads == 0


def test_a_component_can_object_before_any_is_changed(store):
    class Objecting(Holder):
        def check_state_dict(self, state: Any) -> None:
            raise ValueError(f"capacity {state} is not mine")

    store.save(1, {"counter": Holder(1), "replay": Holder(100)})
    components = {"counter": Holder(), "replay": Objecting()}
    with pytest.raises(ValueError, match="capacity 100 is not mine"):
        store.load(components)
    assert components["counter"].loads == 0


def test_a_component_that_fails_to_load_is_named(store):
    class Failing(Holder):
        def load_state_dict(self, state: Any) -> None:
            raise KeyError("head")

    store.save(1, {"replay": Holder(1)})
    with pytest.raises(KeyError) as caught:
        store.load({"replay": Failing()})
    assert "'replay' did not take its state from the checkpoint of step 1" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1, np.zeros(3)]}, "replay.a.1 is a ndarray"),
        ({"a": np.float64(1)}, "replay.a is a float64"),
        ({"random": np.random.default_rng(0)}, "replay.random is a Generator"),
        ({(1, 2): 3}, r"key \(1, 2\)"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(store, folder, state, message):
    with pytest.raises(ValueError, match=message):
        store.save(1, {"replay": Holder(state)})
    assert os.listdir(folder) == []


HOSTILE_PICKLE = b"cposix\nmkdir\n(V{path}\ntR."


def test_code_in_a_state_is_refused(store, tmp_path):
    checkpoint = store.save(1, counter(1))
    proof = tmp_path / "proof"
    replace_file(checkpoint, "state.pt", HOSTILE_PICKLE.replace(b"{path}", os.fsencode(proof)))
    with pytest.raises(ValueError, match="state.pt is not a readable file of tensors and plain values"):
        store.load(counter(0))
    assert not proof.exists()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", HOSTILE_PICKLE),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", b"1234"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", b"1234"),
        npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", b"1234" * 4),
        npy("{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", b"1234"),
        npy("(" * 5000),
        HOSTILE_PICKLE,
        b"PK\x03\x04",
        b"",
    ],
)
def test_a_hostile_array_is_refused(store, content):
    checkpoint = store.save(1, counter(1))
    replace_file(checkpoint, "tensor_00000.npy", content)
    target = counter(0)
    with pytest.raises(ValueError, match="tensor_00000.npy does not hold a tensor"):
        store.load(target)
    assert target["counter"].loads == 0


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "a/b.npy", "..", "manifest.json", "", 3])
def test_a_path_out_of_the_folder_is_refused(store, name):
    checkpoint = store.save(1, counter(1))
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    files[0]["name"] = name
    rewrite_manifest(checkpoint, files=files)
    with pytest.raises(ValueError, match="manifest.json cannot be understood"):
        store.load(counter(0))


@pytest.mark.parametrize("path", [[], ["value"], ["nowhere"], ["rows", 0], [None], ["rows", "x"]])
def test_a_tensor_that_has_no_place_is_refused(store, path):
    checkpoint = store.save(1, counter(1))
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    files[0]["path"] = path
    rewrite_manifest(checkpoint, files=files)
    target = counter(0)
    with pytest.raises(ValueError, match="no checkpoint in .* can be loaded"):
        store.load(target)
    assert target["counter"].loads == 0


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b"{", b"[" * 100_000, b"\xff", b"{}"])
def test_a_manifest_that_is_none_is_refused(store, content):
    checkpoint = store.save(1, counter(1))
    (checkpoint / "manifest.json").write_bytes(content)
    with pytest.raises(ValueError, match="manifest.json is not what was written"):
        store.load(counter(0))


def test_a_checkpoint_of_a_newer_version_is_left_in_place(store):
    checkpoint = store.save(1, counter(1))
    rewrite_manifest(checkpoint, format_version=99)
    with pytest.raises(ValueError, match="format 99; this version of the library reads 1"):
        store.load(counter(0))
    assert checkpoint.is_dir()


def test_keep_is_checked(folder):
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointStore(folder, keep=0)
