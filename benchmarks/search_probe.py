"""One search in a process of its own, for `search.py`: how long it takes to start, or how much memory it holds.

python benchmarks/search_probe.py start
python benchmarks/search_probe.py memory RULE B SIMULATIONS A LATENT

Prints one line of JSON.
"""

import time

_STARTED = time.perf_counter()

import json  # noqa: E402
import pathlib  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterable  # noqa: E402

import torch  # noqa: E402

_TORCH = time.perf_counter()

from alfish.mcts.search import search  # noqa: E402
from alfish.mcts.settings import ImprovedPolicy, SearchSettings, SequentialHalving  # noqa: E402

_IMPORTED = time.perf_counter()

# The models bring networks along, which a search does not need.
from search_models import FreeModel, Size, random_answers  # noqa: E402

_SMALL, _LARGE = Size(8, 50, 6), Size(2048, 10, 18)
RULES = {
    "PUCT": SearchSettings(),
    "Gumbel": SearchSettings(root=SequentialHalving(), interior=ImprovedPolicy(), value_range="node"),
}
"""What all sections measure. The Gumbel rules scale values within each node, as mctx and LightZero do."""


def start() -> dict[str, float]:
    """Seconds of the imports and of the first search of each kind."""
    result = {"torch": _TORCH - _STARTED, "alfish": _IMPORTED - _TORCH}
    for name, size, settings in (
        ("first search", _SMALL, RULES["PUCT"]),
        ("second search", _SMALL, RULES["PUCT"]),
        ("first Gumbel search", _SMALL, RULES["Gumbel"]),
        ("first large search", _LARGE, RULES["PUCT"]),
    ):
        model = FreeModel(random_answers(size, 0), 64)
        before = time.perf_counter()
        search(model.root, model, size.simulations, settings)
        result[name] = time.perf_counter() - before
    return result


def memory(rule: str, size: Size, latent: int) -> dict[str, float | None]:
    """Bytes of the tensors that a search returns, and by how much the process has grown while it holds them."""
    # The same number of trees, so that the code and the threads that they need are there.
    warm = FreeModel(random_answers(size._replace(simulations=1), 0), latent)
    search(warm.root, warm, 1, RULES[rule])
    model = FreeModel(random_answers(size, 0), latent)
    before = _resident_bytes()
    result = search(model.root, model, size.simulations, RULES[rule])
    after = _resident_bytes()
    growth = None if before is None or after is None else after - before
    return {"tree": _storage_bytes(result.tree), "latents": _storage_bytes([result.latents]), "resident": growth}


def _storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _resident_bytes() -> int | None:
    try:
        text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^VmRSS:\s*(\d+) kB$", text, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])


if __name__ == "__main__":
    kind, *numbers = sys.argv[1:]
    if kind == "start":
        print(json.dumps(start()))
    else:
        rule, *shape, latent = numbers
        print(json.dumps(memory(rule, Size(*map(int, shape)), int(latent))))
