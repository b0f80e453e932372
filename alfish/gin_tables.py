"""Look-ups in gin's own tables: what is bound and used, names, references, signatures, and all of it as text.

Serves `gin_config.py`, which is what the rest of the package imports. Only this file reads gin's private tables
`_CONFIG`, `_OPERATIVE_CONFIG`, `_REGISTRY`, `_CONSTANTS` and `_IMPORTS`, and it never changes them. A new version of
gin needs a look at it, and at `translate_error` in `gin_config.py`.
"""

import difflib
import functools
import inspect
import math
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gin
from gin import config as gin_state

ConfigKey = tuple[str, str, str]
"""Scope, complete selector and parameter of a binding. A macro is `(name, "gin.macro", "value")`."""


_CONFIGURABLE = re.compile(r"^@gin\.configurable\b.*\n(?:@.*\n)*(?:class|def) (\w+)", re.MULTILINE)
"""In a source, what is configured from gin."""


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one line; details from gin are in the notes."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The end of a message that names the choices most like `word`; `""` if none is."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[choice] for choice in close)}?" if close else ""


def bindings() -> dict[ConfigKey, Any]:
    """All that is bound."""
    return _flat(gin_state._CONFIG)


def operative_bindings() -> dict[ConfigKey, Any]:
    """What this process has used so far, defaults included."""
    return _flat(gin_state._OPERATIVE_CONFIG)


def _flat(table: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[ConfigKey, Any]:
    """A flat copy of one of gin's tables, without the look-ups of constants that gin counts as calls."""
    return {
        (scope, selector, parameter): value
        for (scope, selector), parameters in list(table.items())
        if selector != "gin.constant"
        for parameter, value in list(parameters.items())
    }


def is_macro(key: ConfigKey) -> bool:
    """True for the binding `NAME = value`, which other bindings use as `%NAME`."""
    return key[1] == "gin.macro"


def binding_name(key: ConfigKey) -> str:
    """How a gin file writes the left side of a binding."""
    scope, selector, parameter = key
    return scope if is_macro(key) else f"{scope}/{_short(selector)}.{parameter}".removeprefix("/")


def _short(selector: str) -> str:
    short = gin_state._REGISTRY.minimal_selector(selector)
    if gin_state._REGISTRY[selector].is_method and "." not in short:
        return ".".join(selector.split(".")[-2:])
    return short


def _outer_scopes(scope: str) -> list[str]:
    """`"a/b"` gives `["", "a", "a/b"]`: the scopes whose bindings apply there, the strongest last."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def references(value: Any) -> Iterator[gin_state.ConfigurableReference]:
    """The `@Name`, `@Name()` and `%NAME` in a value, however deep in its lists, tuples and dicts."""
    if isinstance(value, gin_state.ConfigurableReference):
        yield value
    elif isinstance(value, dict):
        yield from references(list(value.items()))
    elif isinstance(value, list | tuple):
        for element in value:
            yield from references(element)


def macro_name(value: Any) -> str:
    """The name in `%NAME`; `""` for anything else."""
    found = isinstance(value, gin_state.ConfigurableReference) and value.configurable.selector == "gin.macro"
    return "/".join(value.scopes) if found else ""


def resolved(value: Any, trail: tuple[str, ...] = ()) -> Any:
    """`value` with the values of macros in their place."""
    name = macro_name(value)
    if name in trail:
        raise ConfigError(f"macros are defined by each other: {' -> '.join([*trail, name])}")
    if name:
        parameters = gin_state._CONFIG.get((name, "gin.macro"))
        if parameters is None:
            macros = [scope for scope, selector in gin_state._CONFIG if selector == "gin.macro"]
            constants = [constant for constant, _ in gin_state._CONSTANTS.items()]
            raise ConfigError(f"the macro %{name} is not defined{did_you_mean(name, macros + constants)}")
        return resolved(parameters["value"], (*trail, name))
    if isinstance(value, dict):
        return dict(resolved(list(value.items()), trail))
    if isinstance(value, list | tuple):
        return type(value)([resolved(element, trail) for element in value])
    return value


def unused_bindings() -> list[str]:
    """The bindings and macros that had no effect in this process until now, each with the likely reason."""
    bound = bindings()
    used = set()
    built = {
        (outer, selector) for scope, selector in gin_state._OPERATIVE_CONFIG.copy() for outer in _outer_scopes(scope)
    }
    for scope, selector, parameter in operative_bindings():
        keys = [(outer, selector, parameter) for outer in _outer_scopes(scope)]
        used.update([key for key in keys if key in bound][-1:])  # the innermost scope wins
    problems = []
    for key in sorted(bound.keys() - used, key=binding_name):
        reason = "never built in this scope" if key[0] else "never built"
        if is_macro(key):
            reason = "used by nothing that was built"
        elif key[:2] in built:
            reason = "set by the code, or in an inner scope"
        problems.append(f"{binding_name(key)} ({reason})")
    return problems


def find_configurable(selector: str) -> gin_state.Configurable:
    """The configurable that a name, complete or shortened, stands for.

    Raises:
        ConfigError: no configurable, or more than one, has this name.
    """
    matches = gin_state._REGISTRY.matching_selectors(selector)
    if len(matches) == 1:
        return gin_state._REGISTRY[matches[0]]
    if matches:
        raise ConfigError(f"{selector!r} is ambiguous; write more of the name: {' or '.join(sorted(matches))}")
    raise ConfigError(f"nothing configurable is called {selector!r}{_unknown_hint(selector)}")


def _unknown_hint(selector: str) -> str:
    """What is probably meant by a name that no imported module gives to anything."""
    name = selector.rpartition(".")[2]
    elsewhere = _defined_in_package()
    if name in elsewhere:
        return f"; add `import {elsewhere[name]}` to the imports at the top of the file"
    known = [_short(known) for known, _ in gin_state._REGISTRY.items() if not known.startswith("gin.")]
    known = [*known, *(each for each in elsewhere if each not in known)]
    hint = did_you_mean(selector, known) or did_you_mean(name, known)
    if hint:
        return hint
    longer = sorted(each for each in known if len(name) > 1 and each.lower().startswith(name.lower()))
    if longer:
        return f"; did you mean {' or '.join(longer[:3])}?"
    return "; does an import at the top of the file name the module that defines it?"


@functools.cache
def _defined_in_package() -> dict[str, str]:
    """Names of all configurables of this package and their modules, read from the sources: most are not imported."""
    folder = pathlib.Path(__file__).parent
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*.py")):
        module = ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts))
        found |= dict.fromkeys(_CONFIGURABLE.findall(path.read_text(encoding="utf-8")), module)
    return found


def constructor(configurable: gin_state.Configurable) -> Callable[..., Any]:
    """The function whose parameters are configured, without gin's and other wrappers."""
    wrapped = configurable.wrapped
    if inspect.isclass(wrapped):
        wrapped = gin_state._find_class_construction_fn(wrapped)
    return inspect.unwrap(wrapped)


def parameters_of(configurable: gin_state.Configurable) -> dict[str, inspect.Parameter]:
    """The parameters that can be given by name, without `self`; empty if there is no signature."""
    try:
        found = list(inspect.signature(constructor(configurable)).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return {}
    found = found[1:] if inspect.isclass(configurable.wrapped) else found
    return {found.name: found for found in found if found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)}


def check_parameter(key: ConfigKey) -> None:
    """Raises a ConfigError if the configurable has no such parameter, or does not let gin set it."""
    configurable = gin_state._REGISTRY[key[1]]
    allowed, denied = configurable.allowlist, configurable.denylist or ()
    names = [name for name in parameters_of(configurable) if name not in denied and (not allowed or name in allowed)]
    if key[2] not in names and not gin_state._might_have_parameter(configurable.wrapper, key[2]):
        hint = did_you_mean(key[2], names) or f"; expected one of {', '.join(names)}"
        raise ConfigError(f"{_short(key[1])} has no parameter {key[2]!r}{hint}")


def missing_arguments(reference: gin_state.ConfigurableReference) -> list[str]:
    """Names of the parameters that a call without arguments, as in `@Name()`, needs and that no binding sets."""
    configurable, function = reference.configurable, constructor(reference.configurable)
    own = configurable.wrapped
    if inspect.isclass(own):
        own = vars(own).get(function.__name__)
    foreign = function is not own and getattr(own, "__wrapped__", None) is not function
    if foreign or configurable.module == "gin" or configurable.is_method:
        return []  # the code may give the arguments, or another wrapper, or the configurable that it inherits from
    # Without a scope of its own, gin keeps the caller's, which can be any.
    scopes = _outer_scopes("/".join(reference.scopes)) if reference.scopes else None
    bound = {
        parameter
        for scope, selector, parameter in bindings()
        if selector == configurable.selector and (scopes is None or scope in scopes)
    }
    prefix = "/".join([*reference.scopes, _short(configurable.selector)])
    return [
        f"{prefix}.{name}"
        for name, parameter in parameters_of(configurable).items()
        if (parameter.default is parameter.empty or parameter.default is gin.REQUIRED) and name not in bound
    ]


def writable(value: Any) -> bool:
    """True if gin reads `repr(value)` back to the same value: not so for inf and nan, nor for complex numbers."""
    if isinstance(value, dict):
        return writable(list(value.items()))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(writable(element) for element in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes | gin_state.ConfigurableReference)


def as_text(bound: Mapping[ConfigKey, Any]) -> str:
    """Bindings as gin text, below the imports that it needs.

    Raises:
        ConfigError: gin cannot write a value.
    """
    imports = {statement.format() for statement in gin_state._IMPORTS}
    macros, others, previous = [], [], None
    # In the order of the bindings, not sorted: it is the order in which gin calls the @Name() of one constructor, and
    # so decides which of two networks draws its weights first.
    for key, value in bound.items():
        if not writable(value):
            problem = "gin cannot write this value; bind a literal or an @reference"
            raise ConfigError(f"{binding_name(key)} = {value!r}: {problem}")
        for selector in [key[1], *(reference.configurable.selector for reference in references(value))]:
            module = getattr(gin_state._REGISTRY[selector].wrapped, "__module__", None)
            if module in sys.modules and module not in ("builtins", "gin.config", "__main__"):
                imports.add(f"import {module}")
        line = f"{binding_name(key)} = {value!r}"
        if is_macro(key):
            macros.append(line)
        else:
            others += [line] if previous in (None, key[:2]) else ["", line]
            previous = key[:2]
    return "\n\n".join("\n".join(lines) for lines in (sorted(imports), macros, others) if lines) + "\n"
