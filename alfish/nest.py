"""Nested containers of tensors: dicts, tuples, lists and named tuples, over optree.

A *leaf* is anything that is not such a container (a tensor, an array, a spec, a number). The empty tuple `()` is a
container without leaves; it stands for an absent field. Dictionaries are visited in the order of their sorted keys.
"""

from collections.abc import Callable, Sequence
from typing import Any

import optree

Nest = Any
"""A leaf, or a dict, list, tuple or named tuple of nests."""


def map_structure(function: Callable[..., Any], nest: Nest, *others: Nest) -> Nest:
    """Applies `function` to the corresponding leaves of nests that have the same structure.

    Returns:
        A nest with the structure of `nest` that holds the results.

    Raises:
        ValueError: the structures differ; the message names the first path at which they do.
    """
    try:
        return optree.tree_map(function, nest, *others)
    except ValueError:
        # optree's message shows both structures whole; ours names the path. A ValueError of `function` passes.
        for other in others:
            check_same_structure(nest, other, "nest.map_structure")
        raise


def map_with_path(function: Callable[..., Any], nest: Nest, *others: Nest) -> Nest:
    """Like `map_structure`, with the leaf's path (`"observation.camera"`) as the first argument of `function`."""
    names = unflatten(structure(nest), [path for path, _ in leaves_with_paths(nest)])
    return map_structure(function, names, nest, *others)


def leaves(nest: Nest) -> list[Any]:
    """The leaves of `nest`, in a fixed order."""
    return optree.tree_leaves(nest)


def structure(nest: Nest) -> optree.PyTreeSpec:
    """The structure of `nest` without its leaves; comparable with `==`."""
    return optree.tree_structure(nest)


def unflatten(treespec: optree.PyTreeSpec, new_leaves: Sequence[Any]) -> Nest:
    """The inverse of `structure` and `leaves`."""
    return optree.tree_unflatten(treespec, new_leaves)


def leaves_with_paths(nest: Nest) -> list[tuple[str, Any]]:
    """`(path, leaf)` pairs. A path joins keys, field names and indices with dots; a bare leaf has the path `""`."""
    accessors, found, treespec = optree.tree_flatten_with_accessor(nest)
    del treespec
    return [(_dotted(accessor), leaf) for accessor, leaf in zip(accessors, found, strict=True)]


def _dotted(accessor: optree.PyTreeAccessor) -> str:
    return ".".join(str(getattr(entry, "field", entry.entry)) for entry in accessor)


def check_same_structure(expected: Nest, actual: Nest, what: str) -> None:
    """Checks that two nests have the same structure.

    Args:
        expected: the nest that sets the structure.
        actual: the nest to check.
        what: names `actual` in the message.

    Raises:
        ValueError: names the paths that are missing or not expected.
    """
    if structure(expected) == structure(actual):
        return
    expected_paths = [path for path, _ in leaves_with_paths(expected)]
    actual_paths = [path for path, _ in leaves_with_paths(actual)]
    missing = [path or "(the whole value)" for path in expected_paths if path not in actual_paths]
    surplus = [path or "(a single value)" for path in actual_paths if path not in expected_paths]
    if missing or surplus:
        detail = f"missing {missing or 'nothing'}, not expected {surplus or 'nothing'}"
    else:
        detail = f"the containers differ: expected {structure(expected)}, got {structure(actual)}"
    raise ValueError(f"{what}: the nested structure is not the expected one: {detail}")
