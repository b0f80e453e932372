"""The loop of a batched tree search: select, evaluate, expand and back up.

    kernels:  root | 1 ends, 2 selects |           | 2 ends, 3 selects |           | ...
    model:                             | answer 2  |                   | answer 3  |

The model's answers belong to the model until it returns, then to the kernels until the next call of it; the latents
and actions that it is given belong to it while it runs.
"""

import torch

from alfish.mcts.checks import (
    check_gumbel,
    check_retained,
    check_root,
    check_root_numbers,
    check_rounds,
    check_step,
    raise_faults,
)
from alfish.mcts.exchange import DeviceExchange, HostExchange
from alfish.mcts.host import compiled_advance
from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult
from alfish.mcts.settings import SearchSettings, kernel_rule
from alfish.mcts.tree import Tree, new_tree


def search(
    root: RootNode,
    model: Model,
    num_simulations: int,
    settings: SearchSettings = SearchSettings(),
    legal_mask: torch.Tensor | None = None,
    gumbel: torch.Tensor | None = None,
    seed: int = 0,
    retained: RetainedTrees | None = None,
) -> SearchResult:
    """Runs `num_simulations` simulations from each of B roots. No gradient; the same seed gives the same trees.

    A simulation walks down to an edge without a node, asks the model for what is behind it, and adds the answer's value
    to all nodes on its way. An edge with discount 0 and an edge at the depth limit are ends too: if they have a node
    already, its stored value is added once more and the model's answer is not used.

    Rows do not see each other. With a model on another device than the CPU the tree is still in host memory: each round
    sends the edges up and waits for one transfer of the answers.

    Args:
        root: the roots, B at least 1, A at least 1.
        model: called once for each round of `settings.leaves_per_round` simulations.
        num_simulations: at least 0.
        settings: how actions are chosen.
        legal_mask: `[B, A]` bool, True for the actions that the root may choose; None for all. It is joined with the
            logits of -inf. Below the root only the model's logits say what is legal.
        gumbel: `[B, A]`, noise that `SequentialHalving` adds to the root's logits; None for none.
        seed: of the search's own random choices (`SearchSettings.is_random`).
        retained: trees of an earlier search to go on with (`subtree.reroot`). The root is evaluated anew from `root`; its
            retained statistics are those of its edges that are still legal. They are used up: retain them once.

    Raises:
        ValueError: a shape, a mask, the root or an answer of the model cannot be used. Whether the model's numbers are
            finite, and the discounts in range, is noted on the way and raised at the end.
    """
    num_trees, num_actions = check_root(root, num_simulations, legal_mask)
    check_rounds(num_simulations, settings.leaves_per_round)
    check_gumbel(gumbel, settings, root)
    device = root.prior_logits.device
    first, leaves = 1, settings.leaves_per_round
    if retained is not None:
        check_retained(retained, settings, root, num_simulations)
        first = retained.num_nodes
    num_nodes, rows = first + num_simulations, num_trees * leaves
    max_visits = num_simulations + 1 + (0 if retained is None else retained.max_visits)
    # Rounded up, so that retained trees of all sizes share a few rules.
    rule_visits = num_simulations + 1 if retained is None else 1 << max_visits.bit_length()
    rule = kernel_rule(settings, num_nodes, num_simulations, rule_visits, torch.device("cpu"))
    tree = retained.tree if retained is not None else _new_tree(num_trees, num_nodes, num_actions, settings)
    _write_noise(tree, gumbel, seed)
    exchange_type = HostExchange if device.type == "cpu" else DeviceExchange
    exchange = exchange_type(root, tree, rule, rows)
    with torch.no_grad(), compiled_advance(exchange.table) as advance:
        check_root_numbers(*exchange.write_root(root, legal_mask))
        if retained is not None:
            exchange.write_retained(retained)
        node = 0
        for next_node in range(first, num_nodes, leaves):
            advance(node, True)
            node = next_node
            step = model(*exchange.questions())
            if node == first:
                check_step(step, root, rows)
            exchange.receive(step, node)
        advance(node, False)
    raise_faults(tree)
    return SearchResult(
        visits=tree.edge_visits[:, 0].to(device, copy=True),
        value=tree.values[:, 0].to(device, copy=True),
        q_values=tree.q_values[:, 0].to(device, copy=True),
        tree=tree,
        latents=exchange.latents(),
        settings=settings,
        rule=rule,
    )


def _new_tree(num_trees: int, num_nodes: int, num_actions: int, settings: SearchSettings) -> Tree:
    return new_tree(num_trees, num_nodes, num_actions, settings.known_range, settings.needs_logits)


def _write_noise(tree: Tree, gumbel: torch.Tensor | None, seed: int) -> None:
    if gumbel is not None:
        tree.gumbels.copy_(gumbel)
    # Neighbouring seeds and rows are far apart once hashed.
    counters = torch.arange(tree.seeds.shape[0], dtype=torch.int64)
    tree.seeds.copy_((counters * 0x9E3779B9 + seed * 0x85EBCA6B) & 0xFFFFFFFF)
