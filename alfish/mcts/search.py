"""The loop of a batched tree search: select, evaluate, expand and back up.

    kernels (host):  root | 1 ends, 2 selects |           | 2 ends, 3 selects |           | ...
    model (device):                           | answer 2  |                   | answer 3  |

The host owns `edges` while a kernel runs and the model owns them while it runs; `answers` the other way round.
"""

from collections.abc import Callable

import numpy as np
import torch

from alfish import nest
from alfish.mcts.checks import check_root, check_root_numbers, check_step, raise_faults
from alfish.mcts.compiled import compiled_advance
from alfish.mcts.kernels import DISCOUNT, LOGITS, REWARD, VALUE
from alfish.mcts.records import Model, PuctSettings, RootNode, SearchResult, Step
from alfish.mcts.tree import new_tree


def search(
    root: RootNode,
    model: Model,
    num_simulations: int,
    settings: PuctSettings,
    legal_mask: torch.Tensor | None = None,
) -> SearchResult:
    """Runs `num_simulations` simulations of PUCT from each of B roots. Deterministic; no gradient.

    A simulation walks down to an edge without a node, asks the model for what is behind it, and adds the answer's value
    to all nodes on its way. An edge with discount 0 and an edge at the depth limit are ends too: if they have a node
    already, its stored value is added once more and the model's answer is not used.

    Rows do not see each other. The tree is in host memory: with a model on another device each simulation sends the
    edges up and waits for one transfer of the answers.

    Args:
        root: the roots, B at least 1, A at least 1.
        model: called `num_simulations` times, always with B rows.
        num_simulations: at least 0.
        settings: the rule of choice.
        legal_mask: `[B, A]` bool, True for the actions that the root may choose; None for all. It is joined with the
            logits of -inf. Below the root only the model's logits say what is legal.

    Raises:
        ValueError: a shape, a mask, the root or an answer of the model cannot be used. Whether the model's numbers are
            finite, and the discounts in range, is noted on the way and raised at the end.
    """
    num_trees, num_actions = check_root(root, num_simulations, legal_mask)
    device, num_nodes = root.prior_logits.device, num_simulations + 1
    tree, rule = new_tree(num_trees, num_nodes, num_actions, settings.known_range), settings.rule(num_nodes)
    pinned = device.type == "cuda"
    answers = torch.empty((num_trees, LOGITS + num_actions), pin_memory=pinned)
    edges = torch.empty((2, num_trees), dtype=torch.int64, pin_memory=pinned)
    host_answers, host_edges = answers.numpy(), edges.numpy()
    with torch.no_grad(), compiled_advance(num_trees, num_actions) as advance:
        _write_root(answers, root, legal_mask)
        latents = _LatentStore(root.latent, num_nodes)
        receive = _receiver(answers, device)
        parents, actions = edges
        for simulation in range(1, num_nodes):
            advance(tree, rule, host_answers, host_edges, simulation - 1)
            if device.type != "cpu":
                # The host writes `edges` again only after `receive`, which waits for the device.
                parents, actions = edges.to(device, non_blocking=True)
            step = model(latents.gather(parents), actions)
            if simulation == 1:
                check_step(step, root)
            latents.write(simulation, step.latent)
            receive(step)
        advance(tree, rule, host_answers, host_edges, num_simulations)
    raise_faults(tree)
    return SearchResult(
        visits=torch.from_numpy(tree.edge_visits[:, 0].copy()).to(device),
        value=torch.from_numpy(tree.value_sums[:, 0] / tree.visits[:, 0].astype(np.float32)).to(device),
        q_values=torch.from_numpy(tree.q_values[:, 0].copy()).to(device),
        tree=tree,
    )


class _LatentStore:
    """The latents of all nodes, `[N, B, ...]` per leaf: node i of all trees is one contiguous slice."""

    def __init__(self, latent: nest.Nest, num_nodes: int):
        leaves = [leaf.detach() for leaf in nest.leaves(latent)]
        buffers = [leaf.new_empty((num_nodes, *leaf.shape)) for leaf in leaves]
        self._structure = nest.structure(latent)
        self._is_tensor = isinstance(latent, torch.Tensor)
        self._flat = [buffer.view(-1, *buffer.shape[2:]) for buffer in buffers]
        # All slices at once: one call, where indexing would be a call per simulation.
        self._slots = [buffer.unbind(0) for buffer in buffers]
        self.write(0, latent)

    def gather(self, index: torch.Tensor) -> nest.Nest:
        """The latents at `index` `[B]` of the axis N * B, in new tensors."""
        if self._is_tensor:
            return torch.index_select(self._flat[0], 0, index)
        return nest.unflatten(self._structure, [torch.index_select(flat, 0, index) for flat in self._flat])

    def write(self, node: int, latent: nest.Nest) -> None:
        """Copies `latent` `[B, ...]` to the slice of `node`."""
        if self._is_tensor:
            self._slots[0][node].copy_(latent)
            return
        for slots, leaf in zip(self._slots, nest.leaves(latent), strict=True):
            slots[node].copy_(leaf)


def _receiver(answers: torch.Tensor, device: torch.device) -> Callable[[Step], None]:
    """A function that writes a Step's numbers to `answers` `[B, 3 + A]` on the host."""
    reward, discount, value = answers[:, REWARD], answers[:, DISCOUNT], answers[:, VALUE]
    logits = answers[:, LOGITS:]

    def copy(step: Step) -> None:
        reward.copy_(step.reward)
        discount.copy_(step.discount)
        value.copy_(step.value)
        logits.copy_(step.prior_logits)

    def download(step: Step) -> None:
        # Packed on the device, because each transfer waits for the device once.
        columns = torch.stack((step.reward, step.discount, step.value), dim=1)
        answers.copy_(torch.cat((columns, step.prior_logits), dim=1))

    return copy if device.type == "cpu" else download


def _write_root(answers: torch.Tensor, root: RootNode, legal_mask: torch.Tensor | None) -> None:
    """Writes the root as an answer, with illegal actions at -inf, and checks its numbers."""
    answers[:, REWARD], answers[:, DISCOUNT] = 0.0, 1.0
    answers[:, VALUE].copy_(root.value)
    answers[:, LOGITS:].copy_(root.prior_logits)
    logits = answers[:, LOGITS:].numpy()
    if legal_mask is not None:
        logits[~legal_mask.cpu().numpy()] = -np.inf
    check_root_numbers(answers[:, VALUE].numpy(), logits)
