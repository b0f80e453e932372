"""Compiling: the stored machine code, the line that is logged, folders that cannot be written, forked processes."""

import logging
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import alfish
from alfish.mcts import compiled, kernels
from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.tree import new_tree

SEARCH = """
import torch
from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search import search
zeros = torch.zeros(2)
model = lambda latent, action: Step(latent, zeros, zeros, torch.zeros(2, 3), zeros)
print(search(RootNode(zeros, torch.zeros(2, 3), zeros), model, 4, PuctSettings()).visits.sum().item())
"""


def run_search(environment, folder):
    command = [sys.executable, "-c", SEARCH]  # -c imports from the working directory first
    environment = {**os.environ, **environment}
    ran = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "8\n"
    return ran.stderr


def test_where_nothing_can_be_written_the_kernels_are_compiled_without_a_store(monkeypatch):
    calls = []

    def njit(function, **options):
        calls.append(options)
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return function

    monkeypatch.setattr(compiled.numba, "njit", njit)
    assert compiled.compile_cached(kernels.advance_serial, parallel=False) is kernels.advance_serial
    assert len(calls) == 2


def test_the_first_process_compiles_with_one_line_and_the_next_loads_from_the_users_folder(tmp_path):
    package = tmp_path / "site"
    shutil.copytree(Path(alfish.__file__).parent, package / "alfish", ignore=shutil.ignore_patterns("__pycache__"))
    # A file where the folder for machine code would be: not even root can write there.
    (package / "alfish" / "mcts" / "__pycache__").write_text("")
    environment = {
        "NUMBA_CACHE_DIR": "",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    assert run_search(environment, package).count("compiling the search kernels, once") == 1
    assert run_search(environment, package) == ""
    assert list(tmp_path.glob("cache/**/*.nbi"))


def large_search():
    zeros = torch.zeros(4)

    def model(latent, action):
        return Step((), zeros, zeros, torch.zeros(4, compiled.PARALLEL_EDGES), zeros)

    root = RootNode((), torch.zeros(4, compiled.PARALLEL_EDGES), zeros)
    return search(root, model, 3, PuctSettings()).visits.sum().item()


def test_a_forked_process_can_search():
    """OpenMP ends a forked process that uses threads after its parent did."""
    assert large_search() == 12
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(large_search).get(timeout=60) == 12


def test_one_search_at_a_time_has_the_threads(monkeypatch):
    monkeypatch.setattr(compiled.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiled.numba.config, "NUMBA_NUM_THREADS", 2)
    size = (2, compiled.PARALLEL_EDGES)
    with compiled.compiled_advance(*size) as first, compiled.compiled_advance(*size) as second:
        assert (first, second) == (compiled._advance_parallel, compiled._advance_serial)
    with compiled.compiled_advance(2, 3) as small:
        assert small is compiled._advance_serial


def test_the_kernels_run_uncompiled(caplog):
    """The same functions must run without a compiler: other targets, and a debugger, need that."""
    rng = np.random.default_rng(0)
    rule = PuctSettings(unvisited_value="siblings").rule(12)
    results = []
    for advance in (kernels.advance_serial, compiled._ready(compiled._advance_serial)):
        rng = np.random.default_rng(0)
        tree, edges = new_tree(3, 12, 4), np.zeros((2, 3), np.int64)
        for node in range(12):
            answers = rng.standard_normal((3, 7)).astype(np.float32)
            answers[:, kernels.DISCOUNT] = 0.9
            advance(tree, rule, answers, edges, node)
        results.append(tree)
    assert np.array_equal(results[0].children, results[1].children)
    np.testing.assert_allclose(results[0].q_values, results[1].q_values, rtol=1e-6)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
