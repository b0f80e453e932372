"""What is shown of an episode: for each move, the nodes of its tree that are worth showing."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from alfish.mcts.records import SearchResult
from alfish.mcts.tree import CHANCE, ILLEGAL
from alfish.viewers.edge_scores import edge_scores, score_formulas
from alfish.viewers.tree_arrays import TreeArrays, tree_arrays

LISTED_UNVISITED = 16
"""Unvisited actions of a node that are listed, at most; the others are counted."""
ALWAYS_LISTED = 4
"""Unvisited actions that are listed also of a node with fewer visits than that."""


EdgeLabel = Callable[[int, int], str]
"""From a node's number in the tree and an action to what the action is called there."""


class UnvisitedEdge(NamedTuple):
    """A legal action that no simulation took; the label is empty where the action's number says it all."""

    action: int
    prior: float
    score: float
    label: str = ""


class ShownTree(NamedTuple):
    """The M shown nodes of one tree: the root first, parents before their children, siblings by their visits.

    Numbers that belong to the edge into a node are NaN for the root.

    Attributes:
        parents: `[M]`, where in this record the parent is; -1 for the root.
        depths: `[M]`, edges from the root.
        actions: `[M]`, of the edge into the node; -1 for the root.
        visits: `[M]`.
        q_values: `[M]`, of the edge, in the view of who chooses at its parent: reward + discount · value.
        priors: `[M]`, of the edge.
        scores: `[M]`, of the edge (`edge_scores`).
        rewards: `[M]`, of the edge.
        discounts: `[M]`, of the edge: 0 ends the game, a negative one changes the player.
        values: `[M]`, mean return of the node, in the view of who moves there.
        raw_values: `[M]`, the model's own value of the node.
        views: `[M]`, 1 where the root's player moves (or chance does for him), -1 where the other one does.
        players: `[M]`, the number of who moves there, if the model tells.
        is_chance: `[M]` bool, chance nodes.
        labels: of the edges, `""` for the root; None where the actions' numbers say it all.
        unvisited: for the nodes that have them, by place: the most probable unvisited actions, in order of their prior.
        other_unvisited: for nodes with more of them, by place: their number and the sum of their priors.
        illegal: for the decision nodes that have them, by place: actions that may not be taken.
        left_out: by place: the number of children that are not shown, and their visits.
        value_range: the smallest and the largest Q-value of the tree.
        num_nodes: of the whole tree.
        depth: of the whole tree.
    """

    parents: np.ndarray
    depths: np.ndarray
    actions: np.ndarray
    visits: np.ndarray
    q_values: np.ndarray
    priors: np.ndarray
    scores: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray
    values: np.ndarray
    raw_values: np.ndarray
    views: np.ndarray
    players: np.ndarray
    is_chance: np.ndarray
    labels: Sequence[str] | None
    unvisited: Mapping[int, Sequence[UnvisitedEdge]]
    other_unvisited: Mapping[int, tuple[int, float]]
    illegal: Mapping[int, Sequence[int]]
    left_out: Mapping[int, tuple[int, int]]
    value_range: tuple[float, float]
    num_nodes: int
    depth: int


class Move(NamedTuple):
    """One move of an episode.

    Attributes:
        number: from 1.
        tree: of the search before it.
        action: the root's edge that was played.
        reward: that the environment gave for it.
        reward_before: sum of the episode's rewards before this move.
        picture: a PNG file of what was seen, or None.
        observation: what was seen, as text; empty if it is too long.
    """

    number: int
    tree: ShownTree
    action: int
    reward: float
    reward_before: float
    picture: bytes | None = None
    observation: str = ""


class Episode(NamedTuple):
    """What the moves have in common.

    Attributes:
        title: the environment.
        facts: what else there is to say: weights, simulations, seed.
        action_names: of the actions, from 0; a missing name is the action's number.
        formulas: what the score means at the `"root"`, at `"interior"` nodes and at `"chance"` nodes.
        minimum_range: differences of Q below it count little (`SearchSettings.minimum_range`).
    """

    title: str
    facts: Sequence[str]
    action_names: Sequence[str]
    formulas: Mapping[str, str]
    minimum_range: float = 0.01


def edge_name(tree: ShownTree, parent: int, action: int, label: str, names: Sequence[str]) -> str:
    """What an edge is called: by its label, as an outcome of chance, by the action's name, or by its number.

    Args:
        tree: of the edge.
        parent: the place of the node that it leaves.
        action: of the edge.
        label: of the edge; empty for none.
        names: of the actions, from 0.
    """
    if label:
        return label
    if tree.is_chance[parent]:
        return f"outcome {action}"
    return names[action] if action < len(names) else str(action)


def played_name(move: Move, names: Sequence[str]) -> str:
    """What the action that was played is called."""
    tree = move.tree
    labels = {edge.action: edge.label for edge in tree.unvisited.get(0, ())}
    if tree.labels is not None:
        labels |= {int(tree.actions[i]): tree.labels[i] for i in range(1, len(tree.parents)) if tree.parents[i] == 0}
    return edge_name(tree, 0, move.action, labels.get(move.action, ""), names)


def shown_tree(
    result: SearchResult,
    row: int = 0,
    min_visits: int = 1,
    max_depth: int | None = None,
    num_actions: int | None = None,
    label: EdgeLabel | None = None,
) -> ShownTree:
    """Picks the nodes of one tree of a search.

    Args:
        result: of the search.
        row: which of its B trees.
        min_visits: nodes with fewer are left out, and so is what is behind them; the root never is.
        max_depth: edges from the root, at most; None for no limit.
        num_actions: how many of the A edges of a decision node are actions, legal or not; the others exist for chance
            nodes, which may have more. None for all.
        label: what an action is called where its number means something else in every node, as that of a proposed
            action does.
    """
    tree = tree_arrays(result.tree, row)
    scores = edge_scores(tree, result.settings)
    nodes, parents, depths, left_out = _pick(tree, min_visits, max_depth)
    behind, actions = np.asarray(nodes[1:], np.int64), tree.actions[nodes]
    above = np.asarray(nodes, np.int64)[np.asarray(parents[1:], np.int64)]
    edges = above, actions[1:]
    views = np.ones(len(nodes), np.int64)
    for place in range(1, len(nodes)):
        views[place] = views[parents[place]] * (-1 if tree.discounts[nodes[place]] < 0 else 1)
    unvisited, others, illegal = _edges_without_nodes(tree, scores, nodes, num_actions, label)
    labels = None if label is None else ["", *map(label, above.tolist(), actions[1:].tolist())]
    low, high = (float(bound) for bound in tree.value_range)
    return ShownTree(
        parents=np.asarray(parents),
        depths=np.asarray(depths),
        actions=np.concatenate(([-1], actions[1:])),
        visits=tree.visits[nodes],
        q_values=_behind_root(tree.q_values[edges]),
        priors=_behind_root(tree.priors[edges]),
        scores=_behind_root(scores[edges]),
        rewards=_behind_root(tree.rewards[behind]),
        discounts=_behind_root(tree.discounts[behind]),
        values=tree.values[nodes],
        raw_values=tree.raw_values[nodes],
        views=views,
        players=tree.players[nodes],
        is_chance=tree.kinds[nodes] == CHANCE,
        labels=labels,
        unvisited=unvisited,
        other_unvisited=others,
        illegal=illegal,
        left_out=left_out,
        value_range=(low, high),
        num_nodes=int((tree.visits > 0).sum()),
        depth=_depth(tree),
    )


def formulas_of(result: SearchResult) -> dict[str, str]:
    """What the scores of a search mean (`score_formulas`)."""
    return score_formulas(result.settings)


def _behind_root(numbers: np.ndarray) -> np.ndarray:
    """The numbers of the edges into all shown nodes but the root, with a NaN for it."""
    return np.concatenate(([np.nan], numbers))


def _pick(
    tree: TreeArrays, min_visits: int, max_depth: int | None
) -> tuple[list[int], list[int], list[int], dict[int, tuple[int, int]]]:
    """The nodes to show, the places of their parents, their depths, and by place what is left out."""
    nodes, parents, depths = [0], [-1], [0]
    left_out: dict[int, tuple[int, int]] = {}
    children, edge_visits = tree.children, tree.edge_visits
    place = 0
    while place < len(nodes):
        node = nodes[place]
        visited = np.flatnonzero(children[node] >= 0)
        visited = visited[np.argsort(-edge_visits[node, visited], kind="stable")]
        deep_enough = max_depth is not None and depths[place] >= max_depth
        shown = [] if deep_enough else [action for action in visited if edge_visits[node, action] >= min_visits]
        nodes += [int(children[node, action]) for action in shown]
        parents += [place] * len(shown)
        depths += [depths[place] + 1] * len(shown)
        if len(shown) < len(visited):
            rest = edge_visits[node, visited[len(shown) :]]
            left_out[place] = len(rest), int(rest.sum())
        place += 1
    return nodes, parents, depths, left_out


def _edges_without_nodes(
    tree: TreeArrays, scores: np.ndarray, nodes: Sequence[int], num_actions: int | None, label: EdgeLabel | None
) -> tuple[dict[int, list[UnvisitedEdge]], dict[int, tuple[int, float]], dict[int, list[int]]]:
    """By place: the unvisited edges to list, the others, and the illegal ones.

    Of a node that no simulation has gone beyond they say nothing, but of the root they are all there is without
    simulations.
    """
    unvisited: dict[int, list[UnvisitedEdge]] = {}
    others: dict[int, tuple[int, float]] = {}
    illegal: dict[int, list[int]] = {}
    for place, node in enumerate(nodes):
        children, priors = tree.children[node], tree.priors[node]
        if place and not (children >= 0).any():
            continue
        forbidden = np.flatnonzero(children[:num_actions] == ILLEGAL)
        if forbidden.size and tree.kinds[node] != CHANCE:
            illegal[place] = forbidden.tolist()
        actions = np.flatnonzero((children < 0) & (children != ILLEGAL))
        actions = actions[np.argsort(-priors[actions], kind="stable")]
        # As many as the node has visits: there are many nodes with few, and few of their actions could be next.
        limit = min(max(int(tree.visits[node]), ALWAYS_LISTED), LISTED_UNVISITED)
        listed, rest = actions[:limit].tolist(), actions[limit:]
        if listed:
            unvisited[place] = [
                UnvisitedEdge(edge, float(priors[edge]), float(scores[node, edge]), label(node, edge) if label else "")
                for edge in listed
            ]
        if rest.size:
            others[place] = len(rest), float(priors[rest].sum())
    return unvisited, others, illegal


def _depth(tree: TreeArrays) -> int:
    """Edges from the root to the deepest node."""
    level, depth = np.array([0]), 0
    while True:
        below = tree.children[level]
        level = below[below >= 0]
        if not level.size:
            return depth
        depth += 1
