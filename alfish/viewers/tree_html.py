"""An episode's trees as one HTML page that needs nothing else: no server, no network, no other file.

The folder `tree_page` holds its parts. The data are put between them: what the moves have in common as one JSON text,
and each move as one of its own, which the page reads when that move is looked at. Text from outside, such as the names
of actions, reaches the page as data only: the scripts make text nodes of it, never markup, and the page's security
policy lets no other script run and nothing be fetched.
"""

import base64
import hashlib
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from alfish.viewers.shown_tree import Episode, Move, ShownTree, UnvisitedEdge, played_name

_SCRIPTS = ("data.js", "rows.js", "charts.js", "page.js")  # in this order they are one script
_DIGITS = 5
# Inside a script element only `<` can end it or change how it is read; the separators are line ends to old browsers.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})


def move_json(move: Move, action_names: Sequence[str] = ()) -> str:
    """One move as the page reads it: a JSON text that can stand in a script element."""
    tree = move.tree
    columns: dict[str, Any] = {
        "parent": tree.parents.tolist(),
        "action": tree.actions.tolist(),
        "n": tree.visits.tolist(),
        "q": _rounded(tree.q_values),
        "prior": _rounded(tree.priors),
        "score": _rounded(tree.scores),
        "reward": _rounded(tree.rewards),
        "discount": _rounded(tree.discounts),
        "value": _rounded(tree.values),
        "raw": _rounded(tree.raw_values),
    }
    # Most trees have no chance nodes and one player.
    if tree.is_chance.any():
        columns["chance"] = tree.is_chance.astype(int).tolist()
    if (tree.views < 0).any():
        columns["view"] = tree.views.tolist()
    if tree.players.any():
        columns["player"] = tree.players.tolist()
    if tree.labels is not None:
        columns["label"] = list(tree.labels)
    data = {
        "nodes": columns,
        "plays": played_name(move, action_names),
        "unvisited": {place: [_unvisited(edge) for edge in edges] for place, edges in tree.unvisited.items()},
        "others": {place: [number, *_rounded([mass])] for place, (number, mass) in tree.other_unvisited.items()},
        "illegal": tree.illegal,
        "leftOut": tree.left_out,
        "range": _rounded(tree.value_range),
        "numNodes": tree.num_nodes,
        "depth": tree.depth,
        "picture": None if move.picture is None else base64.b64encode(move.picture).decode(),
        "observation": move.observation,
    }
    return _json(data)


def move_summary(move: Move) -> list[Any]:
    """What the page knows of every move at once: number, action, reward, reward before it, value of the root."""
    numbers = _rounded([move.reward, move.reward_before, _root_value(move.tree)])
    return [move.number, move.action, *numbers]


def episode_page(episode: Episode, moves: Sequence[str], summaries: Iterable[Sequence[Any]]) -> str:
    """The whole page.

    Args:
        episode: what the moves have in common.
        moves: `move_json` of each, at least one.
        summaries: `move_summary` of each.
    """
    style, script = _part("page.css"), "\n".join(map(_part, _SCRIPTS))
    common = {
        "title": episode.title,
        "facts": list(episode.facts),
        "actions": list(episode.action_names),
        "formulas": dict(episode.formulas),
        "minimumRange": episode.minimum_range,
        "moves": [list(summary) for summary in summaries],
    }
    data = [_data_element("episode", _json(common))]
    data += [_data_element(f"move-{i}", text) for i, text in enumerate(moves)]
    filled = {
        "TITLE": html.escape(f"{episode.title}: search trees"),
        "POLICY": _policy(script, style),
        "STYLE": style,
        "DATA": "\n".join(data),
        "SCRIPT": script,
    }
    # In one pass over the template, so that nothing in the data is taken for a place to fill.
    pieces = _part("page.html").split("@@")
    return "".join(filled[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _unvisited(edge: UnvisitedEdge) -> list[Any]:
    numbers = _rounded([edge.prior, edge.score])
    return [edge.action, *numbers, edge.label] if edge.label else [edge.action, *numbers]


def _part(name: str) -> str:
    return importlib.resources.files("alfish.viewers").joinpath("tree_page", name).read_text(encoding="utf-8")


def _data_element(name: str, text: str) -> str:
    return f'<script type="application/json" id="{name}">{text}</script>'


def _policy(script: str, style: str) -> str:
    """The content security policy: this script, this style, pictures from the page itself, and nothing else."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; img-src data:; script-src {source(script)}; style-src {source(style)}"


def _json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _rounded(numbers: Iterable[float]) -> list[float | None]:
    """Numbers with 5 digits, whole ones as integers; None for one that is not finite."""
    return [_round(float(number)) for number in numbers]


def _round(number: float) -> float | None:
    if not math.isfinite(number):
        return None
    rounded = float(f"{number:.{_DIGITS}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded


def _root_value(tree: ShownTree) -> float:
    return float(tree.values[0])
