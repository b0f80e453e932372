"""The flags of a command line."""

import argparse
import difflib
import pathlib
from collections.abc import Callable, Sequence
from typing import NoReturn


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=110)


class Flags(argparse.ArgumentParser):
    """A parser whose every mistake is a ValueError.

    Args:
        description: the text above the list of flags.
    """

    def __init__(self, description: str | None):
        super().__init__(
            usage=argparse.SUPPRESS,
            description=description,
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self._optionals.title = "flags"

    def error(self, message: str) -> NoReturn:
        """Raises instead of exiting with 2."""
        raise ValueError(f"{message}; --help lists the flags")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """The values of the flags.

        Raises:
            ValueError: a flag or a value cannot be used, or something is no flag.
        """
        self.add_argument("--traceback", action="store_true", help="show the traceback of every error")
        found, rest = self.parse_known_args(arguments)
        if not rest:
            return found
        name = rest[0].split("=")[0]
        if not name.startswith("-"):
            raise ValueError(f"unexpected argument {rest[0]!r}; every setting is a flag, --help lists them")
        close = difflib.get_close_matches(name, self._option_string_actions, n=1)
        raise ValueError(f"there is no flag {name}; " + (f"did you mean {close[0]}?" if close else "--help lists them"))


def whole_number(least: int) -> Callable[[str], int]:
    """The type of a flag for numbers of at least `least`."""

    def parse(text: str) -> int:
        if not text.lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} cannot be used; expected a whole number of at least {least}")
        return int(text)

    return parse


def path(text: str) -> pathlib.Path:
    """The type of a flag for files and folders; `~` is the home folder, also where the shell left it."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; is a shell variable unset?")
    return pathlib.Path(text).expanduser()
