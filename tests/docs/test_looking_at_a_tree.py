"""The page on trees: its program runs, and it names every flag."""

import pathlib
import re
import runpy

from alfish.bin import tree

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "looking_at_a_tree.md"


def test_its_program_runs(tmp_path, capsys):
    (program,) = re.findall(r"^<!-- run: .* -->\n```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "program.py"
    path.write_text(program)
    runpy.run_path(str(path))
    assert capsys.readouterr().out.startswith(
        "move 1: plays right, reward 1, 0 before; value 2.018, 11 nodes, depth 5\n"
    )


def test_it_names_every_flag():
    flags = {name for name in tree._flags()._option_string_actions if name.startswith("--")} - {"--help"}
    (table,) = re.findall(r"^## Flags\n(.*?)^## ", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert set(re.findall(r"--\w+", table)) == flags
