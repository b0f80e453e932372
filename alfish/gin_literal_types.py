"""The check of what gin files bind against the annotations of the parameters that it is bound to.

Literals are checked, and whether a reference such as `@Name` must be called: what `@Name()` returns is not known yet.

Serves `gin_config.py`. An annotation that is not understood is not checked: the check may miss a mistake, but does
not refuse what is right.
"""

import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

from gin import config as gin_state

from alfish import gin_tables
from alfish.gin_tables import ConfigKey

_CONTAINERS: dict[Any, tuple[type, ...]] = {list: (list,), tuple: (tuple,), dict: (dict,)}
_CONTAINERS |= {collections.abc.Mapping: (dict,), collections.abc.Sequence: (list, tuple)}
_CONTAINERS |= {collections.abc.Collection: (list, tuple, dict), collections.abc.Iterable: (list, tuple, dict)}
_PLAIN: dict[Any, tuple[type, ...]] = {kind: (kind,) for kind in (bool, int, str, bytes, types.NoneType)}
_PLAIN[float] = (int, float)
_UNIONS = (typing.Union, types.UnionType)


def type_problem(key: ConfigKey, value: Any) -> str:
    """What is wrong with the type of a bound value; `""` if nothing is, or if nothing is known about it."""
    parameter = gin_tables.parameters_of(gin_tables.find_configurable(key[1])).get(key[2])
    if parameter is None or (value is None and parameter.default is None):
        return ""
    annotation = _annotation(key)
    problem = mismatch(value, annotation)
    return f"expected {_shown(annotation)}, got {problem}" if problem else ""


def _shown(annotation: Any) -> str:
    """What is expected; of names or a function, in words."""
    choices = typing.get_args(annotation) if _origin(annotation) in _UNIONS else (annotation,)
    if not any(_origin(choice) is typing.Literal for choice in choices):
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        return re.sub(r"(?:[a-z_]+[.])+", "", text)
    words: list[str] = []
    for choice in choices:
        if _origin(choice) is typing.Literal:
            words += map(repr, typing.get_args(choice))
        elif _origin(choice) is collections.abc.Callable:
            words.append("a function")
        else:
            words.append("None" if choice is types.NoneType else _shown(choice))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _origin(annotation: Any) -> Any:
    return typing.get_origin(annotation) or annotation


def brackets_problem(key: ConfigKey, reference: gin_state.ConfigurableReference) -> str:
    """What is wrong with the brackets of a reference in the value of `key`; `""` if nothing is, or is known.

    Where the code itself calls what is bound, a constructor say, `@Name()` would call it too early.
    """
    wrapped = reference.configurable.wrapped
    makers = list(_callables_in(_annotation(key)))
    if not reference.evaluate or not makers or reference.configurable.module == "gin":
        return ""
    missing = bool(gin_tables.missing_arguments(reference))
    if not all(_called_too_early(wrapped, maker, missing) for maker in makers):
        return ""
    return f"the code that uses it calls it itself; write {repr(reference).removesuffix('()')} without the brackets"


def called_without_arguments(key: ConfigKey) -> bool:
    """Whether the code calls what is bound without arguments of its own, so that all it needs must be bound as well."""
    makers = list(_callables_in(_annotation(key)))
    return bool(makers) and all((typing.get_args(maker) or (...,))[0] == [] for maker in makers)


def _annotation(key: ConfigKey) -> Any:
    """The annotation of a parameter; Any if there is none, or it is not understood."""
    configurable = gin_tables.find_configurable(key[1])
    parameter = gin_tables.parameters_of(configurable).get(key[2])
    if parameter is None or parameter.annotation is parameter.empty:
        return Any
    try:  # only this parameter's annotation: the others may have names that exist for type checkers only
        only = types.SimpleNamespace(__annotations__={key[2]: parameter.annotation})
        return typing.get_type_hints(only, globalns=gin_tables.constructor(configurable).__globals__)[key[2]]
    except Exception:  # an annotation is any expression, and can fail in any way
        return Any


def _callables_in(annotation: Any) -> Iterator[Any]:
    """The `Callable[...]` that an annotation wants, for itself or in a sequence; none where something else may do."""
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    if origin is collections.abc.Callable:
        yield annotation
    elif origin in _UNIONS:
        choices = [choice for choice in arguments if typing.get_origin(choice) is not typing.Literal]
        found = [list(_callables_in(choice)) for choice in choices if choice is not types.NoneType]
        yield from (maker for makers in found for maker in makers if all(found))
    elif origin in (list, collections.abc.Sequence) or (origin is tuple and arguments[1:] == (...,)):
        yield from _callables_in(arguments[0] if arguments else Any)


def _called_too_early(wrapped: Any, maker: Any, missing: bool) -> bool:
    """Whether calling a configurable cannot give what a `Callable[...]` wants; `missing`: it lacks arguments."""
    arguments, result = typing.get_args(maker) or (..., Any)
    if not inspect.isclass(wrapped):
        return missing
    no_forward = getattr(getattr(wrapped, "forward", None), "__name__", "") == "_forward_unimplemented"  # torch's
    if no_forward or not any("__call__" in vars(base) for base in wrapped.__mro__):
        return True
    is_known = inspect.isclass(result) and result is not object and not getattr(result, "_is_protocol", False)
    return (missing and arguments is ...) or (is_known and issubclass(wrapped, result))


def mismatch(value: Any, annotation: Any, place: str = "") -> str:
    """Describes the part of a value that does not fit an annotation; `""` if all fits or the annotation is unknown."""
    if not isinstance(annotation, type):  # the meaning of `type X = ...` and of NewType
        annotation = getattr(annotation, "__value__", getattr(annotation, "__supertype__", annotation))
    origin, arguments = _origin(annotation), typing.get_args(annotation)
    is_reference = isinstance(value, gin_state.ConfigurableReference)
    if origin is Any or (is_reference and value.evaluate):
        return ""
    problem = f"{value!r}; write {value!r}()" if is_reference else f"{value!r} ({type(value).__name__}){place}"
    if origin in _UNIONS:
        problems = {choice: mismatch(value, choice, place) for choice in arguments}
        informative = [found for choice, found in problems.items() if choice is not types.NoneType]
        return "" if not all(problems.values()) else informative[0] if len(informative) == 1 else problem
    if is_reference:
        return "" if not isinstance(origin, type) or _takes_constructors(origin) else problem
    if origin is typing.Literal:
        fits = any(type(choice) is type(value) and choice == value for choice in arguments)
    elif origin in _CONTAINERS:
        if not isinstance(value, _CONTAINERS[origin]):
            return f"{problem}; a tuple is written (1, 2) or (1,)" if origin is tuple else problem
        return _element_mismatch(value, origin, arguments, problem, place)
    elif origin in _PLAIN:
        fits = isinstance(value, _PLAIN[origin]) and (origin is bool or not isinstance(value, bool))
        if origin is int and isinstance(value, float) and value.is_integer():
            problem += f"; write {int(value)}"
    elif value is None and isinstance(origin, type) and not getattr(origin, "_is_protocol", False):
        fits = issubclass(types.NoneType, origin)
    else:
        fits = origin not in (collections.abc.Callable, type)  # no literal can be called; others are unknown
        problem += "" if fits else "; expected a reference such as @Name"
    return "" if fits else problem


def _takes_constructors(kind: type) -> bool:
    """Whether a class or a function itself, not what it returns, can be of a type."""
    if getattr(kind, "_is_protocol", False):
        return any("__call__" in vars(base) for base in kind.__mro__)
    return issubclass(type, kind) or issubclass(types.FunctionType, kind)


def _element_mismatch(value: Any, origin: Any, kinds: tuple[Any, ...], problem: str, place: str) -> str:
    """`mismatch` for the elements of a container; `kinds` are the annotation's arguments."""
    place = place or " at "
    if isinstance(value, dict) and len(kinds) == 2:
        triples = [(key, kinds[0], f"{place}[{key!r}], a key") for key in value]
        triples += [(element, kinds[1], f"{place}[{key!r}]") for key, element in value.items()]
    elif origin is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(kinds) != len(value):
            return f"{problem} of length {len(value)}"
        triples = [(value[i], kind, f"{place}[{i}]") for i, kind in enumerate(kinds)]
    else:
        triples = [(element, kinds[0], f"{place}[{i}]") for i, element in enumerate(value) if kinds]
    return next(filter(None, (mismatch(*triple) for triple in triples)), "")
