import numpy as np
import pytest
import torch

from alfish import specs
from alfish.experience_replayers.ring import Ring


def _window(start: int, num_rows: int, num_envs: int = 2) -> dict[str, torch.Tensor]:
    number = 10 * torch.arange(start, start + num_rows)[:, None] + torch.arange(num_envs)
    return {"a": number, "b": (number.float()[..., None] + torch.tensor([0.0, 0.5])).contiguous()}


def _ring(length: int = 4) -> Ring:
    return Ring({"a": specs.TensorSpec((), torch.int64), "b": specs.TensorSpec((2,))}, 2, length)


def test_rows_survive_until_they_are_overwritten():
    ring = _ring(4)
    assert (ring.oldest, ring.newest, ring.num_stored) == (0, -1, 0)
    ring.append(_window(0, 3))
    assert (ring.oldest, ring.newest, ring.num_stored) == (0, 2, 3)
    ring.append(_window(3, 3))
    assert (ring.oldest, ring.newest, ring.num_stored) == (2, 5, 4)
    gathered = ring.gather(np.array([[5, 2], [3, 4]]), np.array([[0], [1]]))
    assert gathered["a"].tolist() == [[50, 20], [31, 41]]
    assert gathered["b"].tolist() == [[[50.0, 50.5], [20.0, 20.5]], [[31.0, 31.5], [41.0, 41.5]]]


def test_a_window_as_long_as_the_ring_replaces_it():
    ring = _ring(4)
    ring.append(_window(0, 3))
    ring.append(_window(3, 4))
    assert ring.gather(np.arange(3, 7), np.zeros(4, np.int64))["a"].tolist() == [30, 40, 50, 60]


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
        ([1], [0], "position from 1 to 1 is not stored; stored are 2 to 5"),
        ([3, 6], [0, 0], "position from 3 to 6"),
        ([3], [2], "env_id from 2 to 2 is not stored; stored are 0 to 1"),
        ([3], [-1], "env_id from -1"),
    ],
)
def test_rows_that_are_not_stored_are_refused(position: list[int], env_id: list[int], message: str):
    ring = _ring(4)
    ring.append(_window(0, 4))
    ring.append(_window(4, 2))
    with pytest.raises(ValueError, match=message):
        ring.gather(np.array(position), np.array(env_id))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda window: {"a": window["a"]}, r"missing \['b'\]"),
        (lambda window: window | {"b": window["b"].double()}, r"'b' .* torch.float64.* expected .* torch.float32"),
        (lambda window: window | {"b": window["b"][..., :1]}, r"'b' has shape \(2, 2, 1\).* \(2, 2, 2\)"),
        (lambda window: window | {"b": window["b"][:1]}, "the same T for every leaf"),
        (lambda window: {key: leaf[:, :1] for key, leaf in window.items()}, r"'a' has shape \(2, 1\).* \(2, 2\)"),
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
    assert ring.num_added == 0


@pytest.mark.parametrize(("name", "num_envs", "length"), [("num_envs", 0, 1), ("length", 1, 0)])
def test_an_empty_ring_is_refused(name: str, num_envs: int, length: int):
    with pytest.raises(ValueError, match=f"Ring.{name} is 0; it must be at least 1"):
        Ring(specs.TensorSpec(), num_envs, length)
