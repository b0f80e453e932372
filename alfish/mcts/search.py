"""The loop of a batched tree search: select, evaluate, expand and back up.

    kernels:  root | 1 ends, 2 selects |           | 2 ends, 3 selects |           | ...
    model:                             | answer 2  |                   | answer 3  |

The model's answers belong to the model until it returns, then to the kernels until the next call of it; the latents
and actions that it is given belong to it while it runs.
"""

import torch

from alfish.mcts.checks import check_arguments, check_root_numbers, check_step, raise_faults
from alfish.mcts.exchange import DeviceExchange, HostExchange
from alfish.mcts.host import compiled_advance
from alfish.mcts.records import Model, RetainedTrees, RootNode, SearchResult
from alfish.mcts.rule import Rule
from alfish.mcts.settings import SearchSettings, kernel_rule
from alfish.mcts.tree import Tree, new_tree, tree_seeds

_DEFAULT_SETTINGS = SearchSettings()


def search(
    root: RootNode,
    model: Model,
    num_simulations: int,
    settings: SearchSettings = _DEFAULT_SETTINGS,
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
    sends the edges up and waits for one transfer of the answers. `cuda_graphs.SearchGraphs` keeps it on the device.

    Args:
        root: the roots, B at least 1, A at least 1.
        model: called once for each round of `settings.leaves_per_round` simulations.
        num_simulations: at least 0.
        settings: how actions are chosen.
        legal_mask: `[B, A]` bool, True for the actions that the root may choose; None for all. It is joined with the
            logits of -inf. Below the root only the model's logits say what is legal.
        gumbel: `[B, A]`, noise that `SequentialHalving` adds to the root's logits; None for none.
        seed: of the search's own random choices (`SearchSettings.is_random`).
        retained: trees of an earlier search to go on with (`subtree.reroot`). The root is evaluated anew from `root`;
            its retained statistics are those of its edges that are still legal. They are used up: retain them once.

    Raises:
        ValueError: a shape, a mask, the root or an answer of the model cannot be used. Whether the model's numbers are
            finite, and the discounts in range, is noted on the way and raised at the end.
    """
    check_arguments(root, num_simulations, settings, legal_mask, gumbel, retained)
    num_trees, leaves = len(root.value), settings.leaves_per_round
    first = 1 if retained is None else retained.num_nodes
    tree, rule = _prepared(root, num_simulations, settings, gumbel, seed, retained)
    exchange_type = HostExchange if root.prior_logits.device.type == "cpu" else DeviceExchange
    exchange = exchange_type(root, tree, rule, num_trees * leaves)
    with torch.no_grad(), compiled_advance(exchange.table) as advance:
        check_root_numbers(*exchange.write_root(root, legal_mask))
        if retained is not None:
            exchange.write_retained(retained)
        node = 0
        for next_node in range(first, first + num_simulations, leaves):
            advance(node, True)
            node = next_node
            step = model(*exchange.questions())
            if node == first:
                check_step(step, root, num_trees * leaves)
            exchange.receive(step, node)
        advance(node, False)
    raise_faults(tree)
    visits, value, q_values = (
        field[:, 0].clone().to(root.value.device) for field in (tree.edge_visits, tree.values, tree.q_values)
    )
    return SearchResult(visits, value, q_values, tree, exchange.latents(), settings, rule)


def _check_goes_on(retained: RetainedTrees) -> None:
    """Checks that a search in host memory can go on with these trees."""
    visits = retained.tree.visits
    if visits.device.type != "cpu":
        raise ValueError(
            f"the retained trees are on {visits.device}; expected trees of a search like this one, in host memory. Go"
            " on with them by the search that made them"
        )
    # They have no room for a second search, which would go round in circles.
    if visits[:, retained.num_nodes :].any() or visits.max() > retained.max_visits:
        raise ValueError("the retained trees were gone on with before; expected new ones from reroot")


def _prepared(
    root: RootNode,
    num_simulations: int,
    settings: SearchSettings,
    gumbel: torch.Tensor | None,
    seed: int,
    retained: RetainedTrees | None,
) -> tuple[Tree, Rule]:
    """The trees before their roots are evaluated, and the rule."""
    num_trees, num_actions = root.prior_logits.shape
    if retained is None:
        num_nodes, max_visits = num_simulations + 1, num_simulations + 1
        tree = new_tree(num_trees, num_nodes, num_actions, settings.known_range, settings.needs_logits)
    else:
        _check_goes_on(retained)
        tree, num_nodes = retained.tree, retained.num_nodes + num_simulations
        # Rounded up, so that retained trees of all sizes share a few rules.
        max_visits = 1 << (num_simulations + 1 + retained.max_visits).bit_length()
    if gumbel is not None:
        tree.gumbels.copy_(gumbel)
    tree.seeds.copy_(tree_seeds(num_trees, seed, "cpu"))
    return tree, kernel_rule(settings, num_simulations, max_visits, torch.device("cpu"))
