"""Packages that only some environments need."""

import importlib
import types


class MissingPackageError(ValueError):
    """An environment needs a package that is not installed; the message holds the pip line."""


def require(module: str, extra: str) -> types.ModuleType:
    """Imports a module of an optional package.

    Args:
        module: dotted name, e.g. `"ale_py.vector_env"`.
        extra: the extra of alfish that installs it, e.g. `"atari"`.

    Returns:
        The module.

    Raises:
        MissingPackageError: the package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there but lacks one of its own dependencies must say so itself.
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise missing_package(package, extra) from error


def missing_package(package: str, extra: str) -> MissingPackageError:
    """The error that tells how to install `package`."""
    return MissingPackageError(
        f'the package {package!r} is not installed; install it with: pip install "alfish[{extra}]"'
    )
