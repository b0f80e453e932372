import numpy as np
import pytest
import torch

from alfish import specs
from alfish.experience_replayers.ring import Ring


def _window(start: int, num_rows: int, num_envs: int = 2, first_env: int = 0) -> dict[str, torch.Tensor]:
    number = 10 * torch.arange(start, start + num_rows)[:, None] + torch.arange(first_env, first_env + num_envs)
    return {"a": number, "b": (number.float()[..., None] + torch.tensor([0.0, 0.5])).contiguous()}


def _ring(length: int = 4, num_envs: int = 2) -> Ring:
    return Ring({"a": specs.TensorSpec((), torch.int64), "b": specs.TensorSpec((2,))}, num_envs, length)


def _bounds(ring: Ring) -> tuple[list[int], list[int], list[int]]:
    return ring.oldest.tolist(), ring.newest.tolist(), ring.num_stored.tolist()


def test_rows_survive_until_they_are_overwritten():
    ring = _ring(4)
    assert _bounds(ring) == ([0, 0], [-1, -1], [0, 0])
    ring.append(_window(0, 3))
    assert _bounds(ring) == ([0, 0], [2, 2], [3, 3])
    ring.append(_window(3, 3))
    assert _bounds(ring) == ([2, 2], [5, 5], [4, 4])
    gathered = ring.gather(np.array([[5, 2], [3, 4]]), np.array([[0], [1]]))
    assert gathered["a"].tolist() == [[50, 20], [31, 41]]
    assert gathered["b"].tolist() == [[[50.0, 50.5], [20.0, 20.5]], [[31.0, 31.5], [41.0, 41.5]]]


def test_a_window_as_long_as_the_ring_replaces_it():
    ring = _ring(4)
    ring.append(_window(0, 3))
    ring.append(_window(3, 4))
    assert ring.gather(np.arange(3, 7), np.zeros(4, np.int64))["a"].tolist() == [30, 40, 50, 60]


def test_blocks_of_environments_at_their_own_pace():
    ring = _ring(4, num_envs=3)
    ring.append(_window(0, 3, num_envs=1, first_env=2), first_env=2)
    before = ring.num_added
    ring.append(_window(0, 1, num_envs=2))
    ring.append(_window(3, 2, num_envs=1, first_env=2), first_env=2)
    assert before.tolist() == [0, 0, 3]  # what was handed out does not change
    assert ring.num_added.tolist() == [1, 1, 5]
    assert _bounds(ring) == ([0, 0, 1], [0, 0, 4], [1, 1, 4])
    rows = np.array([0, 0, 1, 2, 3, 4]), np.array([0, 1, 2, 2, 2, 2])
    assert ring.gather(*rows)["a"].tolist() == [0, 1, 12, 22, 32, 42]


def test_a_window_of_environments_that_are_not_in_step():
    ring = _ring(4, num_envs=3)
    ring.append(_window(0, 3, num_envs=1, first_env=1), first_env=1)
    # The next rows are 0 of environment 0, 3 of environment 1 (its window wraps) and 0 of environment 2.
    window = _window(0, 2, num_envs=3)
    window["a"] = torch.tensor([[0, 31, 2], [10, 41, 12]])
    ring.append(window)
    assert _bounds(ring) == ([0, 1, 0], [1, 4, 1], [2, 4, 2])
    rows = np.array([0, 1, 1, 2, 3, 4, 0, 1]), np.array([0, 0, 1, 1, 1, 1, 2, 2])
    assert ring.gather(*rows)["a"].tolist() == [0, 10, 11, 21, 31, 41, 2, 12]


def test_part_gathers_only_those_leaves():
    ring = _ring()
    ring.append(_window(0, 2))
    gathered = ring.gather(np.array([1]), np.array([1]), lambda rows: (rows["b"], ()))
    assert isinstance(gathered, tuple)
    assert gathered[0].tolist() == [[11.0, 11.5]]


def test_rows_are_copied_in_and_out():
    ring = _ring()
    window = _window(0, 2)
    ring.append(window)
    window["a"].zero_()
    rows = (np.array([1]), np.array([1]))
    ring.gather(*rows)["a"].zero_()
    assert ring.gather(*rows)["a"].tolist() == [11]


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float64, torch.complex64],
)
def test_every_dtype_comes_back_as_it_went_in(dtype: torch.dtype):
    ring = Ring(specs.TensorSpec((3,), dtype), 2, 4)
    # Transposed, so that the window is not contiguous.
    window = torch.tensor([0, 1, 1, 0, 1, 0, 2, 3, 5, 0, 7, 8]).reshape(3, 2, 2).to(dtype).permute(1, 2, 0)
    ring.append(window)
    gathered = ring.gather(np.array([[0, 0], [1, 1]]), np.array([0, 1]))
    assert gathered.dtype == dtype
    assert torch.equal(gathered, window)


def test_a_graph_does_not_enter_the_ring():
    ring = Ring(specs.TensorSpec(), 1, 2)
    ring.append(torch.ones(1, 1, requires_grad=True) * 3)
    gathered = ring.gather(np.array([0]), np.array([0]))
    assert gathered.tolist() == [3.0]
    assert not gathered.requires_grad


@pytest.mark.parametrize(
    ("position", "env_id", "message"),
    [
        ([1], [0], "position 1 of environment 0 is not stored; stored are 2 to 5"),
        ([3, 6], [0, 0], "position 6 of environment 0"),
        ([[3], [6]], [0, 1], "position 6 of environment 0"),
        ([5, 2], [1, 1], "position 5 of environment 1 is not stored; stored are 0 to 3"),
        ([3], [2], "env_id from 2 to 2 is not stored; stored are 0 to 1"),
        ([3], [-1], "env_id from -1"),
    ],
)
def test_rows_that_are_not_stored_are_refused(position: list, env_id: list[int], message: str):
    ring = _ring(4)
    ring.append(_window(0, 4))
    ring.append(_window(4, 2, num_envs=1))
    with pytest.raises(ValueError, match=message):
        ring.gather(np.array(position), np.array(env_id))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda window: {"a": window["a"]}, r"missing \['b'\]"),
        (lambda window: window | {"b": window["b"].double()}, r"'b' .* torch.float64.* expected .* torch.float32"),
        (lambda window: window | {"b": window["b"][..., :1]}, r"'b' has shape \(2, 2, 1\).* \(2, 2, 2\)"),
        (lambda window: window | {"b": window["b"][:1]}, "the same T and E everywhere"),
        (lambda window: window | {"a": window["a"][:, :1]}, r"'b' has shape \(2, 2, 2\).* \(2, 1, 2\)"),
        (lambda window: {key: leaf[:, :0] for key, leaf in window.items()}, "E=0 environments"),
        (lambda window: _window(0, 2, num_envs=3), "E=3 environments from environment 0 on; .* 0 to 1"),
        (lambda window: {key: leaf[:0] for key, leaf in window.items()}, "T=0 rows"),
        (lambda window: window | {"a": torch.tensor(1)}, r"'a' has shape \(\)"),
        (lambda window: {key: leaf.to("meta") for key, leaf in window.items()}, "on meta; expected"),
        (lambda window: _window(0, 5), "T=5 rows per environment; expected 1 to 4"),
    ],
)
def test_a_wrong_window_is_refused_and_adds_nothing(change, message: str):
    ring = _ring(4)
    with pytest.raises(ValueError, match=message):
        ring.append(change(_window(0, 2)))
    assert ring.num_added.tolist() == [0, 0]


@pytest.mark.parametrize("first_env", [-1, 1, 2])
def test_environments_that_there_are_not_are_refused(first_env: int):
    ring = _ring(4)
    with pytest.raises(ValueError, match=f"E=2 environments from environment {first_env} on; expected some"):
        ring.append(_window(0, 2), first_env)
    assert ring.num_added.tolist() == [0, 0]


@pytest.mark.parametrize(("name", "num_envs", "length"), [("num_envs", 0, 1), ("length", 1, 0)])
def test_an_empty_ring_is_refused(name: str, num_envs: int, length: int):
    with pytest.raises(ValueError, match=f"Ring.{name} is 0; it must be at least 1"):
        Ring(specs.TensorSpec(), num_envs, length)
