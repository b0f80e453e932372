"""Reading, checking and shipping gin configurations: a guard around gin-config 0.5.0.

gin lets several mistakes pass in silence: a value of the wrong type, an include that overwrites the bindings above it,
a parameter that nothing uses. This module finds them before any process or environment starts, and says where they are
and what was probably meant. A config is code: `import` in a gin file runs the module that it names, so read only
configs that you trust.

gin keeps the configuration in its own global state; this module adds none. Here are the public functions and the
reader; `gin_tables.py` holds the look-ups in gin's tables, `gin_literal_types.py` the check of types.
"""

import contextlib
import inspect
import io
import os
import pathlib
import pkgutil
import re
import sys
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from absl import logging
from gin import config as gin_state
from gin import config_parser

from alfish import gin_literal_types, gin_tables
from alfish.gin_tables import ConfigError, ConfigKey

_CONFIGS_FOLDER = pathlib.Path(__file__).parent / "configs"
_PARAM_FLAG = "--gin_param="


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
    return gin_tables.as_text(gin_tables.bindings())


def operative_config_text() -> str:
    """What this process has used so far: the bindings and the defaults of all that was built, as gin text."""
    operative = gin_tables.operative_bindings()
    return gin_tables.as_text({key: value for key, value in operative.items() if gin_tables.writable(value)})


def report_unused(strict: bool) -> None:
    """Reports the bindings and macros that had no effect on what was built, in this process, until now.

    Args:
        strict: True raises, False logs a warning.

    Raises:
        ConfigError: `strict` is set and there are such bindings.
    """
    problems = gin_tables.unused_bindings()
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
        source = _PARAM_FLAG + " ".join(param.split())
        statements = list(_statements(param, source))
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
            raise ConfigError(f"{source}: expected one binding, Name.parameter=value or MACRO=value")
        self._bind(statements[0], source)

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
                    gin_tables.find_configurable(statement.selector)
            else:
                key = self._bind(statement, where)
                if key in lines:
                    name = gin_tables.binding_name(key)
                    raise ConfigError(f"{where}: {name} is already bound on line {lines[key]}; keep one of them")
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
                key = (scope, gin_tables.find_configurable(selector).selector, parameter)
                gin_tables.check_parameter(key)
            else:
                key = (f"{scope}/{selector}" if scope else selector, "gin.macro", "value")
            if not gin_tables.writable(value):
                name = gin_tables.binding_name(key)
                raise ConfigError(f"{name} = {value!r}: not a value that gin can write back; use another")
            gin.bind_parameter(key, value)
        self._where[key] = where
        return key

    def check(self, strict: bool) -> None:
        """Checks the configuration as a whole and locks it."""
        bound = gin_tables.bindings()
        used = {
            gin_tables.macro_name(reference) for value in bound.values() for reference in gin_tables.references(value)
        }
        for key, value in bound.items():
            name = gin_tables.binding_name(key)
            place = f"{self._where.get(key, 'set from Python')}: {name} = {value!r}"
            with _located(place):
                resolved = gin_tables.resolved(value)
            for reference in gin_tables.references(resolved):
                if reference.config_key == ("gin.REQUIRED", "gin.constant"):
                    raise ConfigError(f"{place}: {_must_be_set([name])}")
                problem = gin_literal_types.brackets_problem(key, reference)
                if not problem and (reference.evaluate or gin_literal_types.called_without_arguments(key)):
                    missing = gin_tables.missing_arguments(reference)
                    problem = _must_be_set(missing) if missing else ""
                if problem:
                    raise ConfigError(f"{place}: {problem}")
            problem = gin_literal_types.type_problem(key, resolved)
            if problem:
                origin = self._where.get((gin_tables.macro_name(value), "gin.macro", "value"))
                raise ConfigError(f"{place}: {problem}{f'; the macro is set at {origin}' if origin else ''}")
            where = self._where.get(key, "")
            if gin_tables.is_macro(key) and key[0] not in used and (strict or where.startswith(_PARAM_FLAG)):
                hint = gin_tables.did_you_mean(key[0], used)
                raise ConfigError(f"{where}: no binding uses the macro {key[0]}; correct or remove it{hint}")
        with _located("the config as a whole"):
            gin.finalize()


class _Delegate(gin_state.ParserDelegate):
    """Builds gin's references, with our message for an unknown one."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        gin_tables.find_configurable(scoped_selector.rsplit("/", 1)[-1])
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
        problem = error.msg.split("\n")[0].rstrip(".")
        if token:
            problem = f"{token[1]!r} is no value; expected a Python literal (text in quotes), @Name, @Name() or %MACRO"
        raise ConfigError(f"{_place(source, error.lineno)}: {problem}: {(error.text or '').strip()!r}") from error
    except tokenize.TokenError as error:
        problem = f"{error.args[0]}; is a bracket or a quote left open?"
        raise ConfigError(f"{_place(source, error.args[1][0])}: {problem}") from error
    except Exception as error:  # from our delegate; gin's addition, which ends with the place, tells the line
        cause = translate_error(error)
        line = re.search(r" line (\d+)\n", "\n".join(getattr(cause, "__notes__", [])))
        raise ConfigError(f"{_place(source, line[1] if line else '?')}: {cause}") from cause


def _place(source: str, line: object) -> str:
    return source if source.startswith(_PARAM_FLAG) else f"{source}:{line}"


def _find_file(name: str, folders: list[pathlib.Path], prefix: str) -> pathlib.Path:
    folders = list(dict.fromkeys(folders))
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    parent, base = os.path.split(name)
    there = {file.name for folder in folders for file in (folder / parent).glob("*.gin")}
    searched = "" if os.path.isabs(name) else f" in {', '.join(map(_shown, folders))}"
    hint = gin_tables.did_you_mean(base, there) or "; give the path of a gin file"
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
            hint = gin_tables.did_you_mean(missing, [prefix + found.name for found in pkgutil.iter_modules(paths)])
        problem = " ".join(f"{type(cause).__name__}: {cause}".split())
        raise ConfigError(f"{where}: cannot import {module}: {problem}{hint}") from cause


def _must_be_set(names: list[str]) -> str:
    example = f"'{names[0]} = …' to a gin file or {_PARAM_FLAG}'{names[0]}=…' to the command line"
    return f"{', '.join(names)} must be set; add {example}"
