"""The sections of the search benchmark that need processes of their own: memory, and the first search after a start."""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import common
from search_models import Size

from alfish.mcts.tree import tree_bytes

MEMORY_SIZES = (
    Size(64, 100, 9),
    Size(128, 100, 9),
    Size(64, 200, 9),
    Size(64, 100, 18),
    Size(256, 50, 6),
    Size(1024, 50, 18),
    Size(8, 800, 82),
)
_PROBE = pathlib.Path(__file__).parent / "search_probe.py"


def memory(report: common.Report, arguments: argparse.Namespace) -> None:
    """What the trees and the latents take, as predicted and as measured."""
    rows = []
    for rule in ("PUCT", "Gumbel"):
        for size in MEMORY_SIZES:
            nodes, logits = size.simulations + 1, rule != "PUCT"
            measured = _probe("memory", rule, *size, arguments.latent)[0]
            predicted = tree_bytes(size.B, nodes, size.A, 4 * arguments.latent, with_logits=logits)
            resident = measured["resident"]
            rows.append(
                {
                    "rule": rule,
                    "B × simulations × A": str(size),
                    "predicted, kB": predicted / 1e3,
                    "measured, kB": (measured["tree"] + measured["latents"]) / 1e3,
                    "measured / predicted": (measured["tree"] + measured["latents"]) / predicted,
                    "trees, bytes per B · N · A": measured["tree"] / (size.B * nodes * size.A),
                    "growth of the process, kB": None if resident is None else resident / 1e3,
                }
            )
    notes = [
        f"trees, and latents of {arguments.latent} numbers; N is the simulations + 1; predicted by "
        "`alfish.mcts.tree.tree_bytes`; measured: the tensors of the result",
        "growth of the process: of a fresh one, by what is resident while it holds the result; pages that were free "
        "before are used first",
    ]
    report.finish(rows, notes)


def cold_start(report: common.Report, arguments: argparse.Namespace) -> None:
    """The first process compiles into an empty folder; the later ones find the code there."""
    with tempfile.TemporaryDirectory() as folder:
        first, said = _probe("start", NUMBA_CACHE_DIR=folder)
        later = [_probe("start", NUMBA_CACHE_DIR=folder) for _ in range(arguments.rounds)]
    rows = [_start_row("first after the installation", [first], "compiling" in said)]
    rows.append(_start_row("later", [result for result, _ in later], any("compiling" in text for _, text in later)))
    notes = [
        "first: with an empty folder of compiled kernels; later: medians of further processes",
        "the searches: 8 × 50 × 6 with PUCT, with PUCT again, with the Gumbel rules, and 2048 × 10 × 18 with PUCT, "
        "which runs in several threads",
    ]
    report.finish(rows, notes, {"first": first, "later": [result for result, _ in later]})


def _start_row(name: str, results: list[dict[str, float]], compiles: bool) -> dict[str, Any]:
    median = {key: statistics.median(result[key] for result in results) for key in results[0]}
    return {
        "process": name,
        "import of torch, s": median["torch"],
        "import of the search, s": median["alfish"],
        "first search, s": median["first search"],
        "second, s": median["second search"],
        "first Gumbel search, s": median["first Gumbel search"],
        "first large search, s": median["first large search"],
        "import and first search, s": median["alfish"] + median["first search"],
        "whole process, s": median["process"],
        "says that it compiles": compiles,
    }


def _probe(*arguments: object, **environment: str) -> tuple[dict[str, float], str]:
    """What a fresh process measured, with its own seconds as "process"; and what it wrote to standard error."""
    command = [sys.executable, str(_PROBE), *map(str, arguments)]
    before = time.perf_counter()
    done = subprocess.run(
        command, cwd=common.REPOSITORY, env=os.environ | environment, text=True, capture_output=True, check=False
    )
    seconds = time.perf_counter() - before
    if done.returncode != 0:
        sys.exit(f"{done.stderr}\n{' '.join(command)}\nexited with the code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1]) | {"process": seconds}, done.stderr
