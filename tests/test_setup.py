"""What setup.py, constraints.txt and the code say about packages agrees."""

import ast
import pathlib
import re

from alfish.environments import gymnasium_adapter

ROOT = pathlib.Path(__file__).resolve().parent.parent
HINTS = {"require", "missing_package"}  # alfish/environments/optional.py: the second argument is an extra


def extras() -> dict[str, list[str]]:
    """The requirements of each extra, as setup.py has them."""
    for node in ast.walk(ast.parse((ROOT / "setup.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            return ast.literal_eval(node.value)
    raise AssertionError("setup.py has no extras_require")


def named_extras(text: str) -> set[str]:
    """The extras that a source names in its messages, and to the functions that make such messages."""
    found = set(re.findall(r"alfish\[(\w+)\]", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and len(node.args) == 2:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in HINTS and isinstance(node.args[1], ast.Constant):
                found.add(node.args[1].value)
    return found


def test_every_extra_that_the_package_names_can_be_installed():
    named = set().union(*(named_extras(path.read_text()) for path in (ROOT / "alfish").rglob("*.py")))
    assert {"atari", "video"} <= named
    in_tables = {extra for _, extra in gymnasium_adapter._NAMESPACES.values()}
    in_tables |= set(gymnasium_adapter._ENTRY_POINTS.values())
    assert (named | in_tables) - extras().keys() == set()


def test_every_extra_that_the_documentation_names_can_be_installed():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]
    named = re.findall(r"(?:alfish|\.)\[([\w,]+)\]", "\n".join(page.read_text() for page in pages))
    assert named
    assert {extra for names in named for extra in names.split(",")} - extras().keys() == set()


def test_every_requirement_of_an_extra_has_a_constraint():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = [line.split("==")[0].lower() for line in lines if not line.startswith("#")]
    assert len(pinned) == len(set(pinned))
    wanted = {re.split(r"[\[<>=]", requirement)[0].lower() for names in extras().values() for requirement in names}
    assert wanted - set(pinned) == set()
