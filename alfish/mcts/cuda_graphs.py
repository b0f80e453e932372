"""Whole searches as CUDA graphs: one launch for all simulations, and no wait for the host within."""

import logging
from collections.abc import Callable, Hashable

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.mcts.checks import check_arguments
from alfish.mcts.cuda_search import (
    DeviceSearch,
    RootInputs,
    current_device,
    load_kernels,
    raise_device_faults,
    room_for,
    root_inputs,
)
from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult
from alfish.mcts.search import search
from alfish.mcts.settings import SearchSettings
from alfish.mcts.tree import Tree, node_records

WARM_UP_ROUNDS = 3
"""Rounds before a capture, in which kernels are compiled and libraries allocate what they keep."""

_DEFAULT_SETTINGS = SearchSettings()
_logger = logging.getLogger(__name__)


@gin.configurable
class SearchGraphs:
    """Searches on a GPU, each kind captured once as a CUDA graph and replayed from then on.

        search 1 (B, S, …):  warm up, capture, replay        search 2 of the same kind:  copy the inputs in, replay

    One graph serves the searches that agree in the model, B, S, A, the settings, the latent's structure, shapes and
    types, and autocast. A graph holds the memory of its trees, latents and of the model's activations until `clear`, or
    until `max_graphs` others were used since. Not for several threads or streams at once.

    What a graph replays is what the model did when it was captured, on the same addresses. So:

    - the model may not wait for the device (`.item()`, `nonzero`, copies from pageable memory) and may not decide
      anything from the numbers that it sees;
    - its weights are updated in place, as optimisers and `load_state_dict` do; `clear` after they were replaced, and
      after `train()` or `eval()` changed what it does;
    - the same model is given each time, not a new lambda or partial, which would be captured anew.

    Args:
        max_graphs: how many graphs are kept, at least 1. Self-play, evaluation and reanalysis take one each.

    Raises:
        ValueError: `max_graphs` is below 1.
    """

    def __init__(self, max_graphs: int = 8):
        check_at_least("SearchGraphs.max_graphs", max_graphs, 1)
        self._max_graphs = max_graphs
        self._graphs: dict[Hashable, _Graph] = {}
        self._has_evicted = False

    def search(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        settings: SearchSettings = _DEFAULT_SETTINGS,
        legal_mask: torch.Tensor | None = None,
        gumbel: torch.Tensor | None = None,
        seed: int = 0,
        retained: RetainedTrees | None = None,
    ) -> SearchResult:
        """`search.search`, as a graph if the root is on a GPU, else the same as that.

        With a graph nothing here waits for the device. So numbers that cannot be used are raised by a later call, as
        soon as they have come down, or by `raise_faults`. Retained trees of one to two, three to four, five to eight …
        nodes share a graph each.

        Returns:
            A result. `latents` is the graph's own memory, which the next search of the same kind overwrites; all else
            is the caller's.

        Raises:
            ValueError: as of `search.search`, or an earlier search met numbers that cannot be used, or the model cannot
                be told from others (it is not hashable).
        """
        if root.prior_logits.device.type != "cuda" or load_kernels() is None:
            return search(root, model, num_simulations, settings, legal_mask, gumbel, seed, retained)
        return self._replayed(root, model, num_simulations, settings, legal_mask, gumbel, seed, retained)

    def _replayed(
        self,
        root: RootNode,
        model: Model,
        num_simulations: int,
        settings: SearchSettings,
        legal_mask: torch.Tensor | None,
        gumbel: torch.Tensor | None,
        seed: int,
        retained: RetainedTrees | None,
    ) -> SearchResult:
        self.raise_faults(wait=False)
        check_arguments(root, num_simulations, settings, legal_mask, gumbel, retained)
        room = room_for(retained, num_simulations, rounded=True)
        # Not in inference mode: it could not be left and the memory still be written.
        with current_device(root.prior_logits.device), torch.inference_mode(False), torch.no_grad():
            inputs = root_inputs(root, legal_mask, gumbel, seed)
            key = (_kind(root, inputs, model, num_simulations, settings), room)
            graph = self._graphs.pop(key, None)
            if graph is None:
                self._make_room()
                graph = _Graph(
                    DeviceSearch(nest.map_structure(torch.clone, inputs), num_simulations, settings, room), model, root
                )
            self._graphs[key] = graph  # The one used last is the last.
            return graph.replay(inputs, retained)

    def raise_faults(self, wait: bool = True) -> None:
        """Raises if an earlier search met numbers that cannot be used.

        Args:
            wait: whether to wait for the searches that still run; False looks at those that have ended.

        Raises:
            ValueError: there were such numbers. They are raised once.
        """
        for graph in self._graphs.values():
            graph.raise_faults(wait)

    def clear(self) -> None:
        """Gives the graphs and their memory up; later searches capture anew."""
        self._graphs.clear()

    def _make_room(self) -> None:
        if len(self._graphs) < self._max_graphs:
            return
        self._graphs.pop(next(iter(self._graphs))).raise_faults(wait=True)
        if not self._has_evicted:
            self._has_evicted = True
            _logger.warning(
                "more than %d kinds of search take turns, and each turn is captured anew, which is slow. Give the same"
                " model object each time, and fewer batch sizes; or raise SearchGraphs.max_graphs",
                self._max_graphs,
            )


def _kind(root: RootNode, inputs: RootInputs, model: Model, num_simulations: int, settings: SearchSettings) -> Hashable:
    """What two searches must agree in to share a graph."""
    device = inputs.logits.device
    leaves = tuple((tuple(leaf.shape), leaf.dtype) for leaf in nest.leaves(inputs.latent))
    autocast = (torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"))
    shape = (device, tuple(inputs.logits.shape), root.to_play is None, nest.structure(inputs.latent), leaves)
    key = (model, num_simulations, settings, shape, autocast)
    try:
        hash(key)
    except TypeError as error:
        raise ValueError(
            f"the model {type(model).__name__} or the settings are not hashable, so a graph cannot be found again;"
            " expected a function, a bound method or a torch module"
        ) from error
    return key


class _Graph:
    """One captured kind of search, and the memory that it works in."""

    def __init__(self, memory: DeviceSearch, model: Model, root: RootNode):
        self._memory = memory
        self._notes = _FaultNotes(memory.tree.faults)

        def run(num_rounds: int | None = None) -> None:
            memory.run(model, root, num_rounds)  # of the root only the structure is read

        memory.begin(None)
        self._replay = _captured(run, memory.tree.faults.device)

    def replay(self, inputs: RootInputs, retained: RetainedTrees | None) -> SearchResult:
        """Copies what is new to where the graph reads it, launches it, and copies the trees out; waits for nothing."""
        for kept, new in zip(nest.leaves(self._memory.inputs), nest.leaves(inputs), strict=True):
            kept.copy_(new)
        self._memory.begin(retained)
        self._replay()
        result = self._memory.result()
        self._notes.add(result.tree.faults)
        return result._replace(tree=_copied(result.tree))

    def raise_faults(self, wait: bool) -> None:
        """Raises what earlier searches met, unless it was raised before."""
        faults = self._notes.take(wait)
        if faults is not None:
            raise_device_faults(self._memory.tree._replace(faults=faults))


def _captured(run: Callable[[int | None], None], device: torch.device) -> Callable[[], None]:
    """Captures `run(None)`, all rounds of a search, after some rounds of warming up; returns what replays it."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run(WARM_UP_ROUNDS)
    torch.cuda.current_stream().wait_stream(stream)
    # Weights that autocast has cast before would stay as they were then.
    torch.clear_autocast_cache()
    graph = torch.cuda.CUDAGraph()
    try:
        # Other threads may do what a capture forbids: pin memory, say.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            run(None)
    except RuntimeError as error:
        error.add_note(
            "A search could not be captured as a CUDA graph. Does the model wait for the device (.item(), nonzero,"
            " copies from the host)? Search without SearchGraphs, or change the model."
        )
        raise
    finally:
        torch.clear_autocast_cache()
    return graph.replay


class _FaultNotes:
    """The first fault of each row since the last one was raised; comes down to the host while other work goes on.

    `_first` is on the device, `_host` its last copy, which is complete when `_arrival` has happened.
    """

    def __init__(self, faults: torch.Tensor):
        self._first = torch.zeros_like(faults)
        self._host = torch.zeros(faults.shape, pin_memory=faults.is_cuda)
        self._arrival = torch.cuda.Event()

    def add(self, faults: torch.Tensor) -> None:
        self._first.copy_(torch.where(self._first[:, :1] == 0, faults, self._first))
        self._host.copy_(self._first, non_blocking=True)
        self._arrival.record()

    def take(self, wait: bool) -> torch.Tensor | None:
        """The faults `[B, 3]` that have come down and were not taken before; None if there are none."""
        if wait:
            self._arrival.synchronize()
        if not self._arrival.query() or not self._host.any():
            return None
        faults = self._host.clone()
        self._host.zero_()
        self._first.zero_()
        return faults


def _copied(tree: Tree) -> Tree:
    """The same in other memory."""
    records = node_records(tree).clone()
    views = {torch.int32: records, torch.float32: records.view(torch.float32)}
    shared = tree.visits.untyped_storage().data_ptr()
    return Tree(
        *(
            views[field.dtype].as_strided(field.shape, field.stride(), field.storage_offset())
            if field.untyped_storage().data_ptr() == shared
            else field.clone()
            for field in tree
        )
    )
