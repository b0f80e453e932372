"""Going on with the tree behind the action that was taken."""

import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.mcts.records import RetainedTrees, SearchResult
from alfish.mcts.tree import DECISION, NO_PARENT, Tree, new_tree, node_records


def reroot(
    result: SearchResult, action: torch.Tensor, num_simulations: int, max_nodes: int | None = None
) -> RetainedTrees:
    """The trees below one action of each root, for the next search.

    Args:
        result: of the search before. It is left as it is.
        action: `[B]`, what was done in each row; -1 begins it anew, as after the end of an episode. A row whose action
            was not visited, ends the game, or leads to a chance node, whose outcome is not known here, begins
            anew too.
        num_simulations: of the next search.
        max_nodes: a row of which more nodes are left begins anew; None for any number. Where moves are forced,
            all nodes are left each time, and trees would grow for ever.

    Returns:
        Trees with room for the nodes that are left and the next simulations. The statistics of nodes and edges are
        kept; the range of values is that of the edges that are left. Rows with fewer nodes than others have empty
        slots.

    Raises:
        ValueError: an action is not one of the root's, or `num_simulations` is negative.
    """
    check_at_least("num_simulations", num_simulations, 0)
    if max_nodes is not None:
        check_at_least("max_nodes", max_nodes, 1)
    tree, settings = result.tree, result.settings
    num_trees, _, num_actions = tree.priors.shape
    action = _checked(action, num_trees, num_actions).to(tree.children.device)
    kept = _below(result, action)
    if max_nodes is not None:
        kept &= kept.sum(1, keepdim=True) <= max_nodes
    place = torch.where(kept, kept.cumsum(1) - 1, NO_PARENT)  # of each old node; a child comes after its parent
    num_nodes = max(int(kept.sum(1).max()), 1)
    old = torch.zeros((num_trees, num_nodes + 1), dtype=torch.int64, device=place.device)
    # Nodes that are not kept all write to the last place, which is then cut off.
    order = torch.arange(kept.shape[1], device=place.device).expand_as(place)
    old.scatter_(1, torch.where(kept, place, num_nodes), order)
    old = old[:, :num_nodes]
    filled = torch.arange(num_nodes, device=place.device) < kept.sum(1, keepdim=True)
    new = new_tree(
        num_trees,
        num_nodes + num_simulations,
        num_actions,
        settings.known_range,
        settings.needs_logits,
        tree.priors.device,
    )
    records, moved = node_records(new)[:, :num_nodes], node_records(tree)
    moved = torch.gather(moved, 1, old.unsqueeze(2).expand(-1, -1, moved.shape[2]))
    records.copy_(torch.where(filled.unsqueeze(2), moved, records))
    _renumber(new.parents[:, :num_nodes], place, filled)
    _renumber(new.children[:, :num_nodes], place, filled)
    new.parents[:, 0] = NO_PARENT
    new.rewards[:, 0], new.discounts[:, 0], new.actions[:, 0] = 0.0, 1.0, 0
    _widen_range(new)
    rows = torch.arange(num_trees, device=old.device)
    latents = nest.map_structure(lambda leaf: leaf[old.T.to(leaf.device), rows.to(leaf.device)], result.latents)
    return RetainedTrees(new, latents, num_nodes, int(new.visits.max()))


def _widen_range(tree: Tree) -> None:
    """Widens the range of values to that of all edges."""
    visited = (tree.children >= 0) & (tree.visits > 0).unsqueeze(2)
    low = torch.where(visited, tree.q_values, torch.inf).amin((1, 2))
    high = torch.where(visited, tree.q_values, -torch.inf).amax((1, 2))
    tree.value_range[:, 0] = torch.minimum(tree.value_range[:, 0], low)
    tree.value_range[:, 1] = torch.maximum(tree.value_range[:, 1], high)


def _checked(action: torch.Tensor, num_trees: int, num_actions: int) -> torch.Tensor:
    if action.shape != (num_trees,) or action.dtype.is_floating_point:
        raise ValueError(
            f"action has the shape {tuple(action.shape)} and dtype {action.dtype}; expected whole numbers of the shape"
            f" ({num_trees},)"
        )
    action = action.long()
    if ((action < -1) | (action >= num_actions)).any():
        raise ValueError(
            f"action holds {action.tolist()}; expected numbers from 0 to {num_actions - 1}, or -1 to begin anew"
        )
    return action


def _below(result: SearchResult, action: torch.Tensor) -> torch.Tensor:
    """Which nodes `[B, N]` are behind the root's action, itself included."""
    tree = result.tree
    child = tree.children[:, 0].gather(1, action.clamp(min=0).unsqueeze(1)).long()
    usable = (action >= 0).unsqueeze(1) & (child >= 0)
    child = child.clamp(min=0)
    usable &= (tree.discounts.gather(1, child) != 0) & (tree.kinds.gather(1, child) == DECISION)
    kept = torch.zeros_like(tree.visits, dtype=torch.bool).scatter_(1, child, usable)
    ancestor = tree.parents.clamp(min=0).long()
    # Each pass looks twice as far up, so log2(N) passes reach the root. Empty slots hang on
    # the root, which is not kept.
    for _ in range(max(tree.visits.shape[1] - 1, 1).bit_length()):
        kept = kept | kept.gather(1, ancestor)
        ancestor = ancestor.gather(1, ancestor)
    return kept & (tree.visits > 0)


def _renumber(numbers: torch.Tensor, place: torch.Tensor, filled: torch.Tensor) -> None:
    """Turns old numbers of nodes into new ones, in place; negative ones and empty slots stay."""
    rows = numbers.flatten(1)
    renamed = place.gather(1, rows.clamp(min=0).long()).view_as(numbers).to(numbers.dtype)
    used = (numbers >= 0) & filled.view(*filled.shape, *[1] * (numbers.dim() - 2))
    numbers.copy_(torch.where(used, renamed, numbers))
