"""The section of the search benchmark that needs a GPU: where the trees are, and what that costs beside the network."""

import argparse
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import common
import torch
from interleaving import time_in_turns
from search_models import Size, atari_model, bare_calls, work_of

from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.cuda_search import device_search, load_kernels
from alfish.mcts.search import search

SIZES = tuple(Size(B, 50, 6) for B in (64, 128, 256, 512, 1024))

HOST, DEVICE, GRAPH = "trees on the host", "trees on the GPU", "one CUDA graph"
BARE, BARE_GRAPH = "bare calls", "bare calls, one CUDA graph"

_TREE_KERNEL = "advance_trees"
"""Part of the names of the kernels of `alfish.mcts.cuda_kernels`, however the compiler decorates them."""
_PROFILED = 5


class Device(NamedTuple):
    """Where a contestant runs.

    Attributes:
        name: for torch.
        wait: until all work there has ended.
    """

    name: str
    wait: Callable[[], object]


def gpu(report: common.Report, arguments: argparse.Namespace) -> None:
    """Searches with the networks of muzero_atari.gin in bfloat16."""
    if not torch.cuda.is_available():
        report.finish([], ["left out: torch sees no GPU"])
        return
    device = Device("cuda", torch.cuda.synchronize)
    details: dict[str, Any] = {}
    rows = [_measure(size, device, arguments, details) for size in SIZES]
    notes = [
        "evaluations: simulations of all trees, each one call of the network for one row; 1000 of them per second",
        f"{HOST}: one download and one upload per simulation; {DEVICE}: kernels beside the network, enqueued one by "
        f"one; {GRAPH}: captured once, no wait inside",
        f"{BARE}: as many calls of the network as a search makes, without a search",
        "share: the time of the tree kernels in the time of all kernels of a graph, by torch's profiler",
        "the networks of muzero_atari.gin in bfloat16, latents of 64 × 6 × 6; in turns, medians",
    ]
    if load_kernels() is None:
        notes.append("trees on the GPU left out: the package numba-cuda is missing or cannot use this GPU")
    report.finish(rows, notes, details)


def _measure(size: Size, device: Device, arguments: argparse.Namespace, details: dict[str, Any]) -> dict[str, Any]:
    calls = contestants(size, device, arguments.seed)
    times = time_in_turns(calls, arguments.rounds, arguments.seconds)
    row: dict[str, Any] = {"B × simulations × A": str(size)}
    for name in (HOST, DEVICE, GRAPH, BARE, BARE_GRAPH):
        seconds = times.median(name)
        row[name] = None if seconds is None else size.B * size.simulations / seconds / 1e3
    for title, above, below in (
        ("host / graph", HOST, GRAPH),
        ("graph / bare graph", GRAPH, BARE_GRAPH),
        ("host / bare", HOST, BARE),
    ):
        ratio = times.ratio(above, below)
        row[title] = None if ratio is None else ratio.median
    row["tree kernels' share"] = tree_kernels_share(calls[GRAPH]) if GRAPH in calls else None
    details[str(size)] = times.rounds
    return row


def contestants(size: Size, device: Device, seed: int) -> Mapping[str, Callable[[], object]]:
    """Each a call that returns when the device has done the work. All search with the same network."""
    root, model = atari_model(size.B, size.A, seed, device.name, low_precision=True)
    searches: dict[str, Callable[[], Any]] = {HOST: functools.partial(search, root, model, size.simulations)}
    if load_kernels() is not None:
        searches[DEVICE] = functools.partial(device_search, root, model, size.simulations)
        searches[GRAPH] = functools.partial(SearchGraphs().search, root, model, size.simulations)
    for name, one in searches.items():
        work = work_of(one())
        if not (work.visits.sum(axis=1) == size.simulations).all():
            raise RuntimeError(f"{name} made {work.visits.sum(axis=1)} simulations at {size}; the comparison is off")
    bare = functools.partial(bare_calls, root, model, size.simulations)
    calls: dict[str, Callable[[], Any]] = {**searches, BARE: bare}
    if device.name == "cuda":
        calls[BARE_GRAPH] = _captured(bare)
    return {name: functools.partial(_then_wait, call, device.wait) for name, call in calls.items()}


def _then_wait(call: Callable[[], object], wait: Callable[[], object]) -> None:
    call()
    wait()


def _captured(call: Callable[[], object]) -> Callable[[], None]:
    """The same as one launch of a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def tree_kernels_share(call: Callable[[], object]) -> float | None:
    """The time of the tree kernels over the time of all kernels; None if the profiler saw none of them."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(_PROFILED):
            call()
    times = {event.key: event.self_device_time_total for event in profile.key_averages()}
    tree = sum(time for name, time in times.items() if _TREE_KERNEL in name)
    return tree / sum(times.values()) if tree > 0 else None
