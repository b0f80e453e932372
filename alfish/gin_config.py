"""Reading, checking and shipping gin configurations: a guard around gin-config 0.5.0.

gin lets several mistakes pass in silence: a value of the wrong type, an include that overwrites the bindings above it,
a parameter that nothing uses. This module finds them before any process or environment starts, and says where they are
and what was probably meant. A config is code: `import` in a gin file runs the module that it names, so read only
configs that you trust.

The file is longer than 400 lines because layer 0 has one guard around gin: it reads top to bottom as the public
functions, the reader, look-ups in gin's tables, and the check of literal types, which is the part to move out first.

gin keeps the configuration in its own global state; this module adds none. It reads gin's private tables `_CONFIG`,
`_OPERATIVE_CONFIG`, `_REGISTRY`, `_CONSTANTS` and `_IMPORTS`: a new version of gin needs a look at this file.
"""

import collections.abc
import contextlib
import difflib
import inspect
import io
import math
import os
import pathlib
import pkgutil
import re
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from absl import logging
from gin import config as gin_state
from gin import config_parser

ConfigKey = tuple[str, str, str]
"""Scope, complete selector and parameter of a binding. A macro is `(name, "gin.macro", "value")`."""

_CONFIGS_FOLDER = pathlib.Path(__file__).parent / "configs"
_PARAM_FLAG = "--gin_param="
_CONTAINERS: dict[Any, tuple[type, ...]] = {list: (list,), tuple: (tuple,), dict: (dict,)}
_CONTAINERS |= {collections.abc.Mapping: (dict,), collections.abc.Sequence: (list, tuple)}
_CONTAINERS |= {collections.abc.Collection: (list, tuple, dict), collections.abc.Iterable: (list, tuple, dict)}
_PLAIN: dict[Any, tuple[type, ...]] = {kind: (kind,) for kind in (bool, int, str, bytes, types.NoneType)}
_PLAIN[float] = (int, float)


class ConfigError(ValueError):
    """A configuration that cannot be used. The message is one line; details from gin are in the notes."""


def parse(files: Sequence[str], params: Sequence[str] = (), strict: bool = False) -> None:
    """Replaces gin's configuration by that of some files, checks it as a whole and locks it.

    A relative name is searched in the working directory, then (in an `include`) in the folder of the including file,
    then in `alfish/configs`. A file that is included twice is read once, the first time, so that a shared part cannot
    undo what was bound after it.

    Args:
        files: gin files, read in this order; a later binding wins.
        params: bindings such as `"Trainer.learning_rate=0.1"`, applied last; a later one wins.
        strict: True also refuses a macro that no binding uses.

    Raises:
        ConfigError: the configuration cannot be used; gin's state is then empty.
    """
    with _new_config() as reader:
        for file in files:
            reader.read_given_file(os.fspath(file))
        for param in params:
            reader.read_param(param)
        reader.check(strict)


def parse_text(text: str) -> None:
    """Like `parse`, for the text that `config_text` returned. Workers call this before they build anything."""
    with _new_config() as reader:
        reader.read(text, "config text", ())
        reader.check(strict=False)


def config_text() -> str:
    """Everything that is bound, as one gin text without includes, which `parse_text` reads to the same configuration.

    It imports what the files imported, and the modules that define the configurables that it names.

    Raises:
        ConfigError: a value that was bound from Python cannot be written in gin.
    """
    return _as_text(_bindings(gin_state._CONFIG))


def operative_config_text() -> str:
    """What this process has used so far: the bindings and the defaults of all that was built, as gin text."""
    operative = _bindings(gin_state._OPERATIVE_CONFIG)
    return _as_text({key: value for key, value in operative.items() if _writable(value)})


def report_unused(strict: bool) -> None:
    """Reports the bindings and macros that had no effect on what was built, in this process, until now.

    Args:
        strict: True raises, False logs a warning.

    Raises:
        ConfigError: `strict` is set and there are such bindings.
    """
    bound = _bindings(gin_state._CONFIG)
    operative = _bindings(gin_state._OPERATIVE_CONFIG)
    used = set()
    for scope, selector, parameter in operative:
        keys = [(outer, selector, parameter) for outer in _outer_scopes(scope)]
        used.update([key for key in keys if key in bound][-1:])  # the innermost scope wins
    called = {selector for _, selector in gin_state._OPERATIVE_CONFIG.copy()}
    problems = []
    for key in sorted(bound.keys() - used, key=_name):
        reason = "set by the code, or in an inner scope" if key[1] in called else "never built"
        problems.append(f"{_name(key)} ({'used by nothing that was built' if _is_macro(key) else reason})")
    if not problems:
        return
    message = f"these bindings had no effect; correct or remove them: {', '.join(problems)}"
    if strict:
        raise ConfigError(message)
    logging.warning("%s", message)


@contextlib.contextmanager
def errors_readable() -> Iterator[None]:
    """Re-raises what is raised inside as `translate_error` makes it. Wrap the place where a run is built."""
    try:
        yield
    except Exception as error:
        readable = translate_error(error)
        if readable is error:
            raise
        context = readable.__context__
        try:
            raise readable
        finally:
            readable.__context__ = context  # `raise` has made gin's proxy the context, which would be shown as well


def translate_error(error: BaseException) -> BaseException:
    """Undoes what gin does to an exception that passes a configurable.

    gin replaces it by an instance of a local class, which cannot be pickled and whose message has several lines.

    Returns:
        The exception that was raised first, with gin's additions as notes; a ConfigError for a `gin.REQUIRED` that is
        not bound; `error` itself if gin has not touched it.
    """
    traceback = error.__traceback__
    details: list[str] = []
    while getattr(vars(type(error)).get("__str__"), "__module__", None) == "gin.utils":
        inside = inspect.getclosurevars(vars(type(error))["__str__"]).nonlocals
        details.insert(0, inside["message"].strip("\n"))
        error = inside["exception"]
    missing = re.fullmatch(r"Required bindings for `(.+)` not provided in config: (\[.*\])", str(error))
    if isinstance(error, RuntimeError) and missing:
        error = ConfigError(_must_be_set([f"{missing[1]}.{name}" for name in re.findall(r"'(\w+)'", missing[2])]))
    elif not details:
        return error
    for detail in details:
        error.add_note(detail)
    return error.with_traceback(traceback)


class _Reader:
    """One parse. Knows which files were read and where each binding was set."""

    def __init__(self) -> None:
        self._read_files: set[pathlib.Path] = set()
        self._where: dict[ConfigKey, str] = {}

    def read_given_file(self, name: str) -> None:
        path = _find_file(name, [pathlib.Path.cwd(), _CONFIGS_FOLDER], "")
        if path in self._read_files:
            raise ConfigError(f"{name!r} has already been read, given or included before; give it once")
        self._read_file(path, ())

    def read_param(self, param: str) -> None:
        statements = list(_statements(param, _PARAM_FLAG + param))
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
            raise ConfigError(f"{_PARAM_FLAG}{param!r}: expected one binding, Name.parameter=value or MACRO=value")
        self._bind(statements[0], _PARAM_FLAG + param)

    def read(self, text: str, source: str, trail: tuple[pathlib.Path, ...]) -> None:
        """Reads one file's text. `trail` holds the files that include each other; this one is the last."""
        lines: dict[ConfigKey, int] = {}
        for statement in _statements(text, source):
            line = statement.location.line_num
            where = f"{source}:{line}"
            if isinstance(statement, config_parser.ImportStatement | config_parser.IncludeStatement) and lines:
                raise ConfigError(
                    f"{where}: {statement.location.line_content.strip()!r} stands below the binding on line "
                    f"{min(lines.values())}, which it could overwrite; move imports and includes to the top of the file"
                )
            if isinstance(statement, config_parser.ImportStatement):
                _import(statement, where)
            elif isinstance(statement, config_parser.IncludeStatement):
                self._include(statement.filename, where, trail)
            elif isinstance(statement, config_parser.BlockDeclaration):
                with _located(where):
                    _find_configurable(statement.selector)
            else:
                key = self._bind(statement, where)
                if key in lines:
                    raise ConfigError(f"{where}: {_name(key)} is already bound on line {lines[key]}; keep one of them")
                lines[key] = line

    def _include(self, name: str, where: str, trail: tuple[pathlib.Path, ...]) -> None:
        if not trail:
            raise ConfigError(f"{where}: include {name!r}: expected a self-contained text, without includes")
        path = _find_file(name, [pathlib.Path.cwd(), trail[-1].parent, _CONFIGS_FOLDER], f"{where}: ")
        if path in trail:
            raise ConfigError(f"{where}: files include each other: {' -> '.join(map(_shown, [*trail, path]))}")
        if path not in self._read_files:
            self._read_file(path, trail)

    def _read_file(self, path: pathlib.Path, trail: tuple[pathlib.Path, ...]) -> None:
        self._read_files.add(path)
        with _located(f"{_shown(path)}: cannot be read"):
            text = path.read_text(encoding="utf-8")
        self.read(text, _shown(path), (*trail, path))

    def _bind(self, statement: config_parser.BindingStatement, where: str) -> ConfigKey:
        scope, selector, parameter, value, _ = statement
        with _located(where):
            if parameter:
                key = (scope, _find_configurable(selector).selector, parameter)
                _check_parameter(key)
            else:
                key = (f"{scope}/{selector}" if scope else selector, "gin.macro", "value")
            if not _writable(value):
                raise ConfigError(f"{_name(key)} = {value!r}: not a value that gin can write back; use another")
            gin.bind_parameter(key, value)
        self._where[key] = where
        return key

    def check(self, strict: bool) -> None:
        """Checks the configuration as a whole and locks it."""
        bound = _bindings(gin_state._CONFIG)
        used = {_macro_name(reference) for value in bound.values() for reference in _references(value)}
        for key, value in bound.items():
            place = f"{self._where.get(key, 'set from Python')}: {_name(key)} = {value!r}"
            with _located(place):
                resolved = _resolved(value)
            for reference in _references(resolved):
                if reference.config_key == ("gin.REQUIRED", "gin.constant"):
                    raise ConfigError(f"{place}: {_must_be_set([_name(key)])}")
                missing = _missing_arguments(reference)
                if missing:
                    raise ConfigError(f"{place}: {_must_be_set(missing)}")
            problem = _type_problem(key, resolved)
            if problem:
                origin = self._where.get((_macro_name(value), "gin.macro", "value"))
                raise ConfigError(f"{place}: {problem}{f'; the macro is set at {origin}' if origin else ''}")
            where = self._where.get(key, "")
            if _is_macro(key) and key[0] not in used and (strict or where.startswith(_PARAM_FLAG)):
                hint = _did_you_mean(key[0], used)
                raise ConfigError(f"{where}: no binding uses the macro {key[0]}; correct or remove it{hint}")
        with _located("the config as a whole"):
            gin.finalize()


class _Delegate(gin_state.ParserDelegate):
    """Builds gin's references, with our message for an unknown one."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        _find_configurable(scoped_selector.rsplit("/", 1)[-1])
        return super().configurable_reference(scoped_selector, evaluate)


@contextlib.contextmanager
def _new_config() -> Iterator[_Reader]:
    gin.clear_config()
    try:
        yield _Reader()
    except BaseException:
        gin.clear_config()  # half a configuration must not be used by accident
        raise


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = translate_error(error)
        message = f"{where}: {' '.join(str(cause).split())}"
        raise ConfigError(message) from (None if isinstance(cause, ConfigError) else cause)


def _statements(text: str, source: str) -> Iterator[Any]:
    file = io.StringIO(text)
    file.name = source  # where gin looks for it
    try:
        yield from config_parser.ConfigParser(file, _Delegate())
    except SyntaxError as error:
        token = re.search(r"Failed to parse token '(.*)'", error.msg, re.DOTALL)
        problem = error.msg.split("\n")[0]
        if token:
            problem = (
                f"{token[1]!r} is not a value: expected a Python literal (text in quotes), @Name, @Name() or %MACRO"
            )
        raise ConfigError(f"{source}:{error.lineno}: {problem}: {(error.text or '').strip()}") from error
    except tokenize.TokenError as error:
        raise ConfigError(f"{source}:{error.args[1][0]}: {error.args[0]}; is a bracket or a quote open?") from error
    except Exception as error:  # from our delegate; gin's addition, which ends with the place, tells the line
        cause = translate_error(error)
        line = re.search(r" line (\d+)\n", "\n".join(getattr(cause, "__notes__", [])))
        raise ConfigError(f"{source}:{line[1] if line else '?'}: {cause}") from cause


def _find_file(name: str, folders: list[pathlib.Path], prefix: str) -> pathlib.Path:
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    parent, base = os.path.split(name)
    there = {file.name for folder in folders for file in (folder / parent).glob("*.gin")}
    searched = "" if os.path.isabs(name) else f" in {', '.join(map(_shown, folders))}"
    hint = _did_you_mean(base, there) or "; give the path of a gin file"
    raise ConfigError(f"{prefix}there is no file {name!r}{searched}{hint}")


def _shown(path: pathlib.Path) -> str:
    return os.fspath(path.relative_to(pathlib.Path.cwd()) if path.is_relative_to(pathlib.Path.cwd()) else path)


def _import(statement: config_parser.ImportStatement, where: str) -> None:
    module = statement.module
    if module.startswith("__gin__"):
        raise ConfigError(f"{where}: {module} is not supported; decorate with @gin.configurable and import the module")
    try:
        gin.parse_config(statement.format())
    except Exception as error:
        cause = translate_error(error)
        missing = getattr(cause, "name", None) or ""
        hint = ""
        if isinstance(cause, ModuleNotFoundError) and f"{module}.".startswith(f"{missing}."):
            parent = missing.rpartition(".")[0]
            paths = getattr(sys.modules[parent], "__path__", []) if parent else None
            prefix = f"{parent}." if parent else ""
            hint = _did_you_mean(missing, [prefix + found.name for found in pkgutil.iter_modules(paths)])
        problem = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise ConfigError(f"{where}: cannot import {module}: {problem}{hint}") from cause


def _did_you_mean(word: str, choices: Iterable[str]) -> str:
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(by_lower[choice] for choice in close)}?" if close else ""


def _must_be_set(names: list[str]) -> str:
    example = f"'{names[0]} = …' to a gin file or {_PARAM_FLAG}'{names[0]}=…' to the command line"
    return f"{', '.join(names)} must be set; add {example}"


def _bindings(table: Mapping[tuple[str, str], Mapping[str, Any]]) -> dict[ConfigKey, Any]:
    """A flat copy of one of gin's tables, without the look-ups of constants that gin counts as calls."""
    return {
        (scope, selector, parameter): value
        for (scope, selector), parameters in list(table.items())
        if selector != "gin.constant"
        for parameter, value in list(parameters.items())
    }


def _is_macro(key: ConfigKey) -> bool:
    return key[1] == "gin.macro"


def _name(key: ConfigKey) -> str:
    """How a gin file writes the left side of a binding."""
    scope, selector, parameter = key
    return scope if _is_macro(key) else f"{scope}/{_short(selector)}.{parameter}".removeprefix("/")


def _short(selector: str) -> str:
    short = gin_state._REGISTRY.minimal_selector(selector)
    if gin_state._REGISTRY[selector].is_method and "." not in short:
        return ".".join(selector.split(".")[-2:])
    return short


def _outer_scopes(scope: str) -> list[str]:
    """`"a/b"` gives `["", "a", "a/b"]`: the scopes whose bindings apply there, the strongest last."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def _references(value: Any) -> Iterator[gin_state.ConfigurableReference]:
    if isinstance(value, gin_state.ConfigurableReference):
        yield value
    elif isinstance(value, dict):
        yield from _references(list(value.items()))
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _references(element)


def _macro_name(value: Any) -> str:
    """The name in `%NAME`; `""` for anything else."""
    is_macro = isinstance(value, gin_state.ConfigurableReference) and value.configurable.selector == "gin.macro"
    return "/".join(value.scopes) if is_macro else ""


def _resolved(value: Any, trail: tuple[str, ...] = ()) -> Any:
    """`value` with the values of macros in their place."""
    name = _macro_name(value)
    if name in trail:
        raise ConfigError(f"macros are defined by each other: {' -> '.join([*trail, name])}")
    if name:
        parameters = gin_state._CONFIG.get((name, "gin.macro"))
        if parameters is None:
            macros = [scope for scope, selector in gin_state._CONFIG if selector == "gin.macro"]
            constants = [constant for constant, _ in gin_state._CONSTANTS.items()]
            raise ConfigError(f"the macro %{name} is not defined{_did_you_mean(name, macros + constants)}")
        return _resolved(parameters["value"], (*trail, name))
    if isinstance(value, dict):
        return dict(_resolved(list(value.items()), trail))
    if isinstance(value, list | tuple):
        return type(value)([_resolved(element, trail) for element in value])
    return value


def _writable(value: Any) -> bool:
    """True if gin reads `repr(value)` back to the same value: not so for inf and nan, nor for complex numbers."""
    if isinstance(value, dict):
        return _writable(list(value.items()))
    if isinstance(value, list | tuple):
        return type(value) in (list, tuple) and all(_writable(element) for element in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes | gin_state.ConfigurableReference)


def _as_text(bindings: Mapping[ConfigKey, Any]) -> str:
    imports = {statement.format() for statement in gin_state._IMPORTS}
    macros, others, previous = [], [], None
    # In the order of the bindings, not sorted: it is the order in which gin calls the @Name() of one constructor, and
    # so decides which of two networks draws its weights first.
    for key, value in bindings.items():
        if not _writable(value):
            raise ConfigError(f"{_name(key)} = {value!r}: gin cannot write this value; bind a literal or an @reference")
        for selector in [key[1], *(reference.configurable.selector for reference in _references(value))]:
            module = getattr(gin_state._REGISTRY[selector].wrapped, "__module__", None)
            if module in sys.modules and module not in ("builtins", "gin.config", "__main__"):
                imports.add(f"import {module}")
        line = f"{_name(key)} = {value!r}"
        if _is_macro(key):
            macros.append(line)
        else:
            others += [line] if previous in (None, key[:2]) else ["", line]
            previous = key[:2]
    return "\n\n".join("\n".join(lines) for lines in (sorted(imports), macros, others) if lines) + "\n"


def _find_configurable(selector: str) -> gin_state.Configurable:
    matches = gin_state._REGISTRY.matching_selectors(selector)
    if len(matches) == 1:
        return gin_state._REGISTRY[matches[0]]
    if matches:
        raise ConfigError(f"{selector!r} is ambiguous; write more of the name: {' or '.join(sorted(matches))}")
    known = [_short(known) for known, _ in gin_state._REGISTRY.items() if not known.startswith("gin.")]
    hint = _did_you_mean(selector, known) or _did_you_mean(selector.rpartition(".")[2], known)
    hint = hint or "; does an import at the top of the file name the module that defines it?"
    raise ConfigError(f"nothing configurable is called {selector!r}{hint}")


def _constructor(configurable: gin_state.Configurable) -> Callable[..., Any]:
    """The function whose parameters are configured, without gin's and other wrappers."""
    wrapped = configurable.wrapped
    if inspect.isclass(wrapped):
        wrapped = gin_state._find_class_construction_fn(wrapped)
    return inspect.unwrap(wrapped)


def _parameters(configurable: gin_state.Configurable) -> dict[str, inspect.Parameter]:
    try:
        found = list(inspect.signature(_constructor(configurable)).parameters.values())
    except (TypeError, ValueError):  # written in C, without a signature
        return {}
    found = found[1:] if inspect.isclass(configurable.wrapped) else found
    return {found.name: found for found in found if found.kind in (found.POSITIONAL_OR_KEYWORD, found.KEYWORD_ONLY)}


def _check_parameter(key: ConfigKey) -> None:
    configurable = gin_state._REGISTRY[key[1]]
    allowed, denied = configurable.allowlist, configurable.denylist or ()
    names = [name for name in _parameters(configurable) if name not in denied and (not allowed or name in allowed)]
    if key[2] not in names and not gin_state._might_have_parameter(configurable.wrapper, key[2]):
        hint = _did_you_mean(key[2], names) or f"; expected one of {', '.join(names)}"
        raise ConfigError(f"{_short(key[1])} has no parameter {key[2]!r}{hint}")


def _missing_arguments(reference: gin_state.ConfigurableReference) -> list[str]:
    """Names of the parameters that the call `@Name()` needs and that no binding sets."""
    configurable, function = reference.configurable, _constructor(reference.configurable)
    own = configurable.wrapped
    if inspect.isclass(own):
        own = vars(own).get(function.__name__)
    foreign = function is not own and getattr(own, "__wrapped__", None) is not function
    if not reference.evaluate or foreign or configurable.module == "gin" or configurable.is_method:
        return []  # the code may give the arguments, or another wrapper, or the configurable that it inherits from
    scopes = (
        _outer_scopes("/".join(reference.scopes)) if reference.scopes else None
    )  # None: any, gin keeps the caller's
    bound = {
        parameter
        for scope, selector, parameter in _bindings(gin_state._CONFIG)
        if selector == configurable.selector and (scopes is None or scope in scopes)
    }
    prefix = "/".join([*reference.scopes, _short(configurable.selector)])
    return [
        f"{prefix}.{name}"
        for name, parameter in _parameters(configurable).items()
        if (parameter.default is parameter.empty or parameter.default is gin.REQUIRED) and name not in bound
    ]


def _type_problem(key: ConfigKey, value: Any) -> str:
    """What is wrong with the type of a bound value; `""` if nothing is, or if nothing is known about it."""
    configurable = gin_state._REGISTRY[key[1]]
    parameter = _parameters(configurable).get(key[2])
    if parameter is None or (value is None and parameter.default is None):
        return ""
    try:  # only this parameter's annotation: the others may have names that exist for type checkers only
        only = types.SimpleNamespace(__annotations__={key[2]: parameter.annotation})
        annotation = typing.get_type_hints(only, globalns=_constructor(configurable).__globals__)[key[2]]
    except Exception:  # an annotation is any expression, and can fail in any way
        return ""
    problem = "" if annotation is parameter.empty else _mismatch(value, annotation)
    shown = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return f"expected {re.sub(r'(?:[a-z_]+[.])+', '', shown)}, got {problem}" if problem else ""


def _mismatch(value: Any, annotation: Any, place: str = "") -> str:
    """Describes the part of a value that does not fit an annotation; `""` if all fits or the annotation is unknown."""
    if not isinstance(annotation, type):  # the meaning of `type X = ...` and of NewType
        annotation = getattr(annotation, "__value__", getattr(annotation, "__supertype__", annotation))
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if isinstance(value, gin_state.ConfigurableReference) or origin is Any:
        return ""
    problem = f"{value!r} ({type(value).__name__}){place}"
    if origin in (typing.Union, types.UnionType):
        problems = {choice: _mismatch(value, choice, place) for choice in arguments}
        informative = [found for choice, found in problems.items() if choice is not types.NoneType]
        return "" if not all(problems.values()) else informative[0] if len(informative) == 1 else problem
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


def _element_mismatch(value: Any, origin: Any, kinds: tuple[Any, ...], problem: str, place: str) -> str:
    """`_mismatch` for the elements of a container; `kinds` are the annotation's arguments."""
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
    return next(filter(None, (_mismatch(*triple) for triple in triples)), "")
