"""The house rules that can be read off the source: see docs/architecture.md.

Each check takes one parsed file, or all of them, and returns its complaints; the tests below run it on the package and
on made-up sources that break the rule.
"""

import ast
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

WORDS = {"nest", "gin_config", "checks", "specs", "data_structures"}
BEHIND_GIN_CONFIG = {"gin_tables", "gin_literal_types"}
MODULES_OF_THE_PACKAGE = WORDS | BEHIND_GIN_CONFIG  # `from alfish import nest` is how these are imported
BELOW_ALGORITHMS = WORDS | {"ops", "environments", "summary", "networks", "mcts", "experience_replayers", "models"}
EVERYTHING = BELOW_ALGORITHMS | {"algorithms", "rollout", "trainers", "viewers"}

# What each folder, or module at the top of the package, may import from the package, beside itself.
MAY_IMPORT = {
    "__init__": EVERYTHING,
    "nest": set(),
    "checks": set(),
    "gin_tables": set(),
    "gin_literal_types": {"gin_tables"},
    "gin_config": BEHIND_GIN_CONFIG,
    "specs": {"nest", "gin_config", "checks"},
    "data_structures": {"nest", "gin_config", "checks", "specs"},
    "ops": WORDS,
    "environments": WORDS,
    "summary": WORDS,
    "networks": WORDS | {"ops", "environments", "summary"},
    "mcts": {"nest", "checks", "ops"},
    "experience_replayers": WORDS | {"ops", "environments", "summary"},
    "models": WORDS | {"ops", "environments", "networks", "mcts"},
    "algorithms": WORDS | {"ops", "networks", "mcts", "experience_replayers", "models"},
    "rollout": WORDS | {"environments", "summary", "networks", "algorithms"},
    "trainers": BELOW_ALGORITHMS | {"algorithms", "rollout"},
    "viewers": WORDS | {"environments", "mcts", "models", "algorithms", "rollout"},
    "bin": EVERYTHING,
    "configs": EVERYTHING,
}

LONG_FILES: dict[str, str] = {}  # path: the reason for more than MAX_LINES lines
MAX_LINES = 400
MAX_COMMAND_LINES = 100
MAX_FUNCTION_LINES = 60
MAX_INHERITANCE = 2

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HARMLESS = "pickle.UnpicklingError"  # torch.load raises it; `from pickle import UnpicklingError` gives nothing else
UNSAFE_ARGUMENTS = {"weights_only": False, "allow_pickle": True}
RANDOM_STREAMS = {"BitGenerator", "Generator", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64", "SeedSequence"}


class Source(NamedTuple):
    """One parsed file; `path` is relative to the repository root."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name, `alfish.ops.returns`; a folder's `__init__` has the folder's name."""
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def place(self) -> str:
        """The key of MAY_IMPORT: the folder below `alfish/`, or the module directly in it."""
        return pathlib.PurePath(self.path).with_suffix("").parts[1]

    def at(self, node: ast.AST) -> str:
        """`path:line`."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


def source(path: str, text: str) -> Source:
    return Source(path, text, ast.parse(text, path))


@functools.cache
def package() -> tuple[Source, ...]:
    """All Python files of the package."""
    return tuple(
        source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in sorted((ROOT / "alfish").rglob("*.py"))
    )


def imports(file: Source) -> Iterator[tuple[ast.stmt, str]]:
    """`(statement, dotted name)` of everything imported; `from a import b` gives `a.b`, a relative import `.b`."""
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (f"{node.module}." if node.module else "")
            yield from ((node, origin + alias.name) for alias in node.names)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def dotted(node: ast.AST) -> str:
    """`a.b.c` for an expression made of names and attributes, else an empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def check_layers(file: Source) -> list[str]:
    if file.place not in MAY_IMPORT:
        return [f"{file.path}: {file.place!r} is not in the table of folders; add it to MAY_IMPORT and to the docs"]
    allowed = MAY_IMPORT[file.place] | {file.place}
    named = ((node, name.split(".")[1]) for node, name in imports(file) if name.startswith("alfish."))
    return [f"{file.at(node)}: {file.place} may not import {target}" for node, target in named if target not in allowed]


def check_imports_are_absolute(file: Source) -> list[str]:
    return [f"{file.at(node)}: relative import of {name}" for node, name in imports(file) if name.startswith(".")]


def check_imports_are_at_the_top(file: Source) -> list[str]:
    inner = (node for function in functions(file.tree) for node in ast.walk(function))
    found = {file.at(node) for node in inner if isinstance(node, ast.Import | ast.ImportFrom)}
    return [f"{place}: import inside a function" for place in sorted(found)]


def check_package_init_is_not_imported(file: Source) -> list[str]:
    complaints = []
    for node, name in imports(file):
        if name == "alfish":
            complaints.append(f"{file.at(node)}: import from the module that defines, not from the package")
        elif isinstance(node, ast.ImportFrom) and node.module == "alfish":
            taken = name.removeprefix("alfish.")
            if taken not in MODULES_OF_THE_PACKAGE:
                complaints.append(f"{file.at(node)}: `from alfish import {taken}`; import from the module that defines")
    return complaints


def check_folder_init_is_a_docstring(file: Source) -> list[str]:
    if not file.path.endswith("/__init__.py"):
        return []
    complaints = [] if ast.get_docstring(file.tree) else [f"{file.path}: no docstring that says what lives here"]
    if file.path != "alfish/__init__.py" and len(file.tree.body) > 1:
        complaints.append(f"{file.path}: holds more than its docstring")
    return complaints


def check_file_length(file: Source) -> list[str]:
    lines = len(file.text.splitlines())
    limit = MAX_COMMAND_LINES if file.place == "bin" else MAX_LINES
    if lines > limit and not LONG_FILES.get(file.path):
        return [f"{file.path}: {lines} lines, at most {limit}; split it, or give the reason in LONG_FILES"]
    return []


def check_function_length(file: Source) -> list[str]:
    sizes = ((node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(file.tree))
    return [
        f"{file.at(node)}: {node.name} has {size} lines, at most {MAX_FUNCTION_LINES}"
        for node, size in sizes
        if size > MAX_FUNCTION_LINES
    ]


def check_nothing_unsafe(file: Source) -> list[str]:
    complaints = [
        f"{file.at(node)}: imports {name}; files and messages from others must be safe to open"
        for node, name in imports(file)
        if name.split(".")[0] in UNSAFE_MODULES and name != HARMLESS
    ]
    for node in ast.walk(file.tree):
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        values = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        if name in {"eval", "exec"}:
            complaints.append(f"{file.at(node)}: calls {name}")
        if name == "torch.load" and values.get("weights_only") is not True:
            complaints.append(f"{file.at(node)}: torch.load without weights_only=True")
        complaints += [
            f"{file.at(node)}: {argument}={value}"
            for argument, value in UNSAFE_ARGUMENTS.items()
            if name != "torch.load" and argument in values and values[argument] is value
        ]
    return complaints


def check_random_streams_are_named(file: Source) -> list[str]:
    complaints = [
        f"{file.at(node)}: imports {name}; randomness comes from a numpy Generator given as an argument, or from torch"
        for node, name in imports(file)
        if name.split(".")[0] == "random" or name.startswith("numpy.random")
    ]
    for node in ast.walk(file.tree):
        name = dotted(node.func if isinstance(node, ast.Call) else node)
        owner, _, last = name.rpartition(".")
        if isinstance(node, ast.Call):
            if last == "default_rng" and not node.args and not node.keywords:
                complaints.append(f"{file.at(node)}: default_rng() without a seed")
        elif owner in {"np.random", "numpy.random"} and last not in RANDOM_STREAMS | {"default_rng"}:
            complaints.append(f"{file.at(node)}: np.random.{last} is global state; take a Generator")
    return complaints


def check_inheritance(files: Sequence[Source]) -> list[str]:
    """A class and its ancestors from the package are at most MAX_INHERITANCE."""
    bases: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for file in files:
        known = {name.split(".")[-1]: name for _, name in imports(file)}
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ClassDef):
                name = f"{file.module}.{node.name}"
                places[name] = file.at(node)
                bases[name] = []
                for base in filter(None, map(dotted, node.bases)):
                    head, _, rest = base.partition(".")
                    origin = known.get(head, f"{file.module}.{head}")
                    bases[name].append(f"{origin}.{rest}" if rest else origin)

    def depth(name: str) -> int:
        return 1 + max(map(depth, bases[name]), default=0) if name in bases else 0

    return [
        f"{places[name]}: {name} is {depth(name)} classes deep, at most {MAX_INHERITANCE}; share by functions"
        for name in bases
        if depth(name) > MAX_INHERITANCE
    ]


PER_FILE: list[Callable[[Source], list[str]]] = [
    check_layers,
    check_imports_are_absolute,
    check_imports_are_at_the_top,
    check_package_init_is_not_imported,
    check_folder_init_is_a_docstring,
    check_file_length,
    check_function_length,
    check_nothing_unsafe,
    check_random_streams_are_named,
]


@pytest.mark.parametrize("check", PER_FILE, ids=lambda check: check.__name__)
def test_package_keeps_the_rule(check: Callable[[Source], list[str]]):
    assert package(), "no Python file was found in alfish/"
    complaints = [complaint for file in package() for complaint in check(file)]
    assert not complaints, "\n".join(complaints)


def test_package_inheritance_is_shallow():
    complaints = check_inheritance(package())
    assert not complaints, "\n".join(complaints)


def test_every_folder_has_an_init():
    folders = {pathlib.PurePath(file.path).parent for file in package()}
    inits = {pathlib.PurePath(file.path).parent for file in package() if file.path.endswith("/__init__.py")}
    assert sorted(map(str, folders - inits)) == []


def test_reasons_for_long_files_are_about_long_files():
    lengths = {file.path: len(file.text.splitlines()) for file in package()}
    assert [path for path in LONG_FILES if lengths.get(path, 0) <= MAX_LINES] == []


BREAKS_A_RULE = [
    (check_layers, "alfish/ops/a.py", "from alfish.algorithms.b import C"),
    (check_layers, "alfish/ops/a.py", "import alfish.trainers.b"),
    (check_layers, "alfish/mcts/a.py", "from alfish import specs"),
    (check_layers, "alfish/nest.py", "from alfish import specs"),
    (check_layers, "alfish/checks.py", "from alfish import nest"),
    (check_layers, "alfish/gin_tables.py", "from alfish import gin_config"),
    (check_layers, "alfish/environments/a.py", "from alfish import gin_tables"),
    (check_layers, "alfish/algorithms/a.py", "def f():\n    from alfish.rollout.b import C"),
    (check_layers, "alfish/newcomer/a.py", ""),
    (check_imports_are_absolute, "alfish/ops/a.py", "from . import b"),
    (check_imports_are_absolute, "alfish/ops/a.py", "from ..nest import leaves"),
    (check_imports_are_at_the_top, "alfish/ops/a.py", "def f():\n    if True:\n        import os"),
    (check_imports_are_at_the_top, "alfish/ops/a.py", "class A:\n    async def f(self):\n        from os import path"),
    (check_package_init_is_not_imported, "alfish/ops/a.py", "import alfish"),
    (check_package_init_is_not_imported, "alfish/ops/a.py", "from alfish import nest, Algorithm"),
    (check_folder_init_is_a_docstring, "alfish/ops/__init__.py", ""),
    (check_folder_init_is_a_docstring, "alfish/ops/__init__.py", "'''Pure.'''\nfrom alfish.ops.a import b"),
    (check_folder_init_is_a_docstring, "alfish/__init__.py", "from alfish.ops.a import b"),
    (check_file_length, "alfish/ops/a.py", "\n" * 401),
    (check_file_length, "alfish/bin/a.py", "\n" * 101),
    (check_function_length, "alfish/ops/a.py", "def f():\n" + "    x = 1\n" * 60),
    (check_nothing_unsafe, "alfish/ops/a.py", "import pickle"),
    (check_nothing_unsafe, "alfish/ops/a.py", "from cloudpickle import dumps"),
    (check_nothing_unsafe, "alfish/ops/a.py", "torch.load(path)"),
    (check_nothing_unsafe, "alfish/ops/a.py", "torch.load(path, weights_only=False)"),
    (check_nothing_unsafe, "alfish/ops/a.py", "load(path, weights_only=False)"),
    (check_nothing_unsafe, "alfish/ops/a.py", "np.load(path, allow_pickle=True)"),
    (check_nothing_unsafe, "alfish/ops/a.py", "x = eval('1')"),
    (check_random_streams_are_named, "alfish/ops/a.py", "import random"),
    (check_random_streams_are_named, "alfish/ops/a.py", "from numpy.random import rand"),
    (check_random_streams_are_named, "alfish/ops/a.py", "np.random.seed(1)"),
    (check_random_streams_are_named, "alfish/ops/a.py", "x = numpy.random.randn(2)"),
    (check_random_streams_are_named, "alfish/ops/a.py", "x = np.random.default_rng()"),
]

KEEPS_THE_RULES = [
    ("alfish/ops/a.py", "import torch\n\nfrom alfish import nest, specs\nfrom alfish.data_structures import TimeStep"),
    ("alfish/mcts/a.py", "import numba\n\nfrom alfish import nest\nfrom alfish.ops import masking"),
    ("alfish/trainers/a.py", "from alfish.algorithms.b import C\nfrom alfish.rollout.d import E"),
    ("alfish/ops/__init__.py", "'''Pure functions.'''"),
    ("alfish/__init__.py", "'''A framework.'''\nfrom alfish.algorithms.a import B"),
    ("alfish/ops/b.py", "\n" * 400),
    ("alfish/ops/c.py", "def f():\n" + "    x = 1\n" * 59),
    ("alfish/ops/d.py", "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\nmodel.eval()"),
    ("alfish/ops/f.py", "from pickle import UnpicklingError"),
    ("alfish/ops/e.py", "rng = np.random.default_rng(3)\nseeds = np.random.SeedSequence(3)\nx: np.random.Generator"),
]


@pytest.mark.parametrize(("check", "path", "text"), BREAKS_A_RULE)
def test_checks_find_what_breaks_a_rule(check: Callable[[Source], list[str]], path: str, text: str):
    complaints = check(source(path, text))
    assert len(complaints) == 1
    assert complaints[0].startswith(path)


@pytest.mark.parametrize(("path", "text"), KEEPS_THE_RULES)
def test_checks_accept_what_keeps_the_rules(path: str, text: str):
    assert [complaint for check in PER_FILE for complaint in check(source(path, text))] == []


def test_inheritance_is_counted_across_files():
    base = source("alfish/ops/a.py", "import torch\nclass A(torch.nn.Module): ...\nclass B(A): ...")
    child = source("alfish/ops/b.py", "from alfish.ops import a\nfrom alfish.ops.a import A\nclass C(A): ...")
    too_deep = source("alfish/ops/c.py", "from alfish.ops import a\nclass D(a.B): ...")
    assert check_inheritance([base, child]) == []
    (complaint,) = check_inheritance([base, child, too_deep])
    assert complaint.startswith("alfish/ops/c.py:2: alfish.ops.c.D is 3 classes deep")
