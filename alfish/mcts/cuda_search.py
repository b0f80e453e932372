"""A search whose trees stay on the device of the model, so that no round of it waits for the host.

    device:  root | select | latents, model, store | end, select | latents, model, store | ... | end
    host:    enqueues all of it; reads nothing

Everything is enqueued on torch's current stream: the kernels (`cuda_kernels.py`), the gathering of the parents'
latents, the model, and the storing of what it answers. Each owns the buffers while its turn in the stream lasts.
Whether the numbers can be used is noted on the device and read when the search has ended (`raise_device_faults`).

It runs the same kernels as the search on the host and finds the same trees, as far as the model gives the same numbers.
"""

import contextlib
import functools
import importlib
import logging
import types
from typing import NamedTuple

import torch

from alfish import nest
from alfish.mcts.checks import check_arguments, check_step, raise_faults
from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult, Step
from alfish.mcts.rule import Answers, Rule
from alfish.mcts.settings import SearchSettings, kernel_rule
from alfish.mcts.tree import Tree, clear_tree, new_tree, node_records, tree_seeds

FAULT_NO_ACTION = 100
"""In `Tree.faults`, beside the kinds of `rule.py`: no action of the root is legal."""

_DEFAULT_SETTINGS = SearchSettings()
_logger = logging.getLogger(__name__)


@functools.cache
def load_kernels() -> types.ModuleType | None:
    """The module `cuda_kernels`; None, with one warning, where kernels cannot run on the GPU."""
    try:
        kernels = importlib.import_module("alfish.mcts.cuda_kernels")
    except ImportError:
        kernels = None
    if kernels is not None and kernels.is_usable():
        return kernels
    _logger.warning(
        "the trees of searches on the GPU stay in host memory, which is slower: the package numba-cuda is missing or"
        ' finds no GPU. Install it with: pip install "alfish[cuda]"'
    )
    return None


def device_search(
    root: RootNode,
    model: Model,
    num_simulations: int,
    settings: SearchSettings = _DEFAULT_SETTINGS,
    legal_mask: torch.Tensor | None = None,
    gumbel: torch.Tensor | None = None,
    seed: int = 0,
    retained: RetainedTrees | None = None,
) -> SearchResult:
    """`search.search` with the trees on the device of the root. The host waits once, at the end, to read the faults.

    Arguments, results and errors are those of `search`. A `legal_mask` or `gumbel` in host memory is uploaded.
    """
    check_arguments(root, num_simulations, settings, legal_mask, gumbel, retained)
    # Not in inference mode, whose tensors only it may write: retained trees and graphs outlast it.
    with current_device(root.prior_logits.device), torch.inference_mode(False), torch.no_grad():
        inputs = root_inputs(root, legal_mask, gumbel, seed)
        memory = DeviceSearch(inputs, num_simulations, settings, room_for(retained, num_simulations))
        memory.begin(retained)
        memory.run(model, root)
        result = memory.result()
    raise_device_faults(result.tree)
    return result


def read_policy(tree: Tree, rule: Rule, kind: int) -> torch.Tensor:
    """`host.read_policy` for trees and a rule on a device."""
    kernels = load_kernels()
    assert kernels is not None
    with current_device(tree.visits.device):
        return kernels.read_policy(tree, rule, kind)


def current_device(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Makes a GPU torch's current device, which kernels go to."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class RootInputs(NamedTuple):
    """What B searches start from, on their device.

    Attributes:
        latent: nest of `[B, ...]`.
        value: `[B]` float32.
        logits: `[B, A]` float32, -inf at illegal actions.
        player: `[B]` float32.
        gumbel: `[B, A]` float32.
        seed: `[B]` int64 in [0, 2³²).
    """

    latent: nest.Nest
    value: torch.Tensor
    logits: torch.Tensor
    player: torch.Tensor
    gumbel: torch.Tensor
    seed: torch.Tensor


def root_inputs(root: RootNode, legal_mask: torch.Tensor | None, gumbel: torch.Tensor | None, seed: int) -> RootInputs:
    """The root as tensors of fixed types and shapes, whatever of it is missing."""
    device = root.prior_logits.device
    value = root.value.detach().to(device, torch.float32)
    logits = root.prior_logits.detach().float()
    if legal_mask is not None:
        logits = logits.masked_fill(~legal_mask.to(device), -torch.inf)
    return RootInputs(
        latent=nest.map_structure(torch.Tensor.detach, root.latent),
        value=value,
        logits=logits,
        player=torch.zeros_like(value) if root.to_play is None else root.to_play.to(device, torch.float32),
        gumbel=torch.zeros_like(logits) if gumbel is None else gumbel.to(device, torch.float32),
        seed=tree_seeds(len(value), seed, device),
    )


def raise_device_faults(tree: Tree) -> None:
    """Raises for the first row with a number that cannot be used. Waits for the device.

    Raises:
        ValueError: as of `search.search`; simulation 0 is the root.
    """
    faults = tree.faults.cpu()
    rows = (faults[:, 0] == FAULT_NO_ACTION).nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"row {rows[0]} has no legal action: legal_mask and the root.prior_logits above -inf have none in common."
            " Search only positions in which the game goes on"
        )
    raise_faults(tree._replace(faults=faults))


class Room(NamedTuple):
    """What trees must have room for beside the simulations of one search.

    Attributes:
        first: nodes that are there before the first simulation, at least 1.
        max_visits: the most visits of a node in the end.
        with_logits: whether nodes have logits even if no rule reads them, as the retained ones do.
    """

    first: int
    max_visits: int
    with_logits: bool


def room_for(retained: RetainedTrees | None, num_simulations: int, rounded: bool = False) -> Room:
    """The room that a search needs; rounded up, so that retained trees of many sizes need the same, if `rounded`."""
    if retained is None:
        return Room(1, num_simulations + 1, False)
    first = 1 << (retained.num_nodes - 1).bit_length() if rounded else retained.num_nodes
    max_visits = 1 << (num_simulations + 1 + retained.max_visits).bit_length()
    return Room(first, max_visits, retained.tree.logits.shape[2] > 0)


class DeviceSearch:
    """The memory of B searches of fixed sizes on a device, and what is done in it: `begin`, `run`, `result`.

    Args:
        inputs: what they start from; read by each run.
        num_simulations: S, whole rounds.
        settings: how actions are chosen.
        room: for the nodes of retained trees.

    Attributes:
        inputs: the same.
        tree: the trees.
        rule: the settings as the kernels read them.
    """

    def __init__(self, inputs: RootInputs, num_simulations: int, settings: SearchSettings, room: Room):
        device, (num_trees, num_actions) = inputs.logits.device, inputs.logits.shape
        num_nodes = room.first + num_simulations
        with_logits = settings.needs_logits or room.with_logits
        self.inputs, self._settings = inputs, settings
        self._first, self._leaves = room.first, settings.leaves_per_round
        self._rounds = range(self._first, num_nodes, self._leaves)
        self.tree = new_tree(num_trees, num_nodes, num_actions, settings.known_range, with_logits, device)
        self.rule = kernel_rule(settings, num_simulations, room.max_visits, device)
        self._rows = torch.Size((num_trees * self._leaves,))
        self._edges = torch.zeros((2, *self._rows), dtype=torch.int64, device=device)
        self._zeros = torch.zeros(self._rows, device=device)
        self._ones = torch.ones(self._rows, device=device)
        self._stores = [leaf.new_empty((num_nodes, *leaf.shape)) for leaf in nest.leaves(inputs.latent)]
        self._flat_stores = [store.flatten(0, 1) for store in self._stores]

    def begin(self, retained: RetainedTrees | None) -> None:
        """Empties the trees, or fills them with retained ones."""
        tree = self.tree
        clear_tree(tree, self._settings.known_range)
        if retained is not None:
            kept = slice(0, retained.num_nodes)
            node_records(tree)[:, kept].copy_(node_records(retained.tree)[:, kept])
            tree.value_range.copy_(retained.tree.value_range)
            for store, leaf in zip(self._stores, nest.leaves(retained.latents), strict=True):
                store[kept].copy_(leaf[kept])

    def run(self, model: Model, root: RootNode, num_rounds: int | None = None) -> None:
        """Enqueues the whole search, or its first rounds.

        Args:
            model: what it asks.
            root: whose structure and shapes the model's answers must have; its numbers are not read.
            num_rounds: how many; None for all.
        """
        kernels = load_kernels()
        assert kernels is not None
        inputs, tree = self.inputs, self.tree
        tree.gumbels.copy_(inputs.gumbel)
        tree.seeds.copy_(inputs.seed)
        tree.faults.zero_()
        tree.faults[:, 0] = (inputs.logits == -torch.inf).all(dim=1) * float(FAULT_NO_ACTION)
        for store, leaf in zip(self._stores, nest.leaves(inputs.latent), strict=True):
            store[0].copy_(leaf)
        advance = kernels.bind_advance(tree, self.rule, self._edges)
        answers = Answers(self._zeros, self._ones, inputs.value, inputs.logits, inputs.player, self._zeros)
        node, places, actions = 0, self._edges[0], self._edges[1]
        structure = nest.structure(inputs.latent)
        for next_node in self._rounds[:num_rounds]:
            advance(answers, node, True)
            node = next_node
            gathered = [torch.index_select(flat, 0, places) for flat in self._flat_stores]
            step = model(nest.unflatten(structure, gathered), actions)
            if node == self._first:
                check_step(step, root, self._rows[0])
            answers = self._receive(step, node)
        advance(answers, node, False)

    def _receive(self, step: Step, node: int) -> Answers:
        """Stores the new latents, and returns the rest as the kernels read it."""
        num_trees = len(self.inputs.value)
        for store, latent in zip(self._stores, nest.leaves(step.latent), strict=True):
            expected = (*self._rows, *store.shape[2:])
            if tuple(latent.shape) != expected:
                raise ValueError(f"the model's latent has the shape {tuple(latent.shape)}; expected {expected}")
            new = latent.unflatten(0, (num_trees, self._leaves)).transpose(0, 1)
            store[node : node + self._leaves].copy_(new)
        logits_shape = torch.Size((*self._rows, self.inputs.logits.shape[1]))
        return Answers(
            reward=self._floats("reward", step.reward, self._rows),
            discount=self._floats("discount", step.discount, self._rows),
            value=self._floats("value", step.value, self._rows),
            logits=self._floats("prior_logits", step.prior_logits, logits_shape),
            player=self._zeros if step.to_play is None else self._floats("to_play", step.to_play, self._rows),
            chance=self._zeros if step.is_chance is None else self._floats("is_chance", step.is_chance, self._rows),
        )

    def _floats(self, name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        # Addresses are handed to compiled code, so what is not exactly as expected is converted or refused.
        if tensor.shape != shape:
            raise ValueError(f"the model's {name} has the shape {tuple(tensor.shape)}; expected {tuple(shape)}")
        return tensor.to(self._zeros.device, torch.float32)

    def result(self) -> SearchResult:
        """What the last run found. `tree` and `latents` are this object's own memory."""
        tree = self.tree
        return SearchResult(
            visits=tree.edge_visits[:, 0].clone(),
            value=tree.values[:, 0].clone(),
            q_values=tree.q_values[:, 0].clone(),
            tree=tree,
            latents=nest.unflatten(nest.structure(self.inputs.latent), self._stores),
            settings=self._settings,
            rule=self.rule,
        )
