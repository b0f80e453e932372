"""Compiling: the stored machine code, the line that is logged, folders that cannot be written, forked processes."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import alfish
from alfish.mcts import expansion, host, readout
from alfish.mcts.records import RootNode, Step
from alfish.mcts.root_policies import root_policy
from alfish.mcts.rule import POLICY_IMPROVED, Answers, Rule
from alfish.mcts.search import search
from alfish.mcts.settings import ImprovedPolicy, Puct, RegularisedPolicy, SearchSettings, SequentialHalving, kernel_rule
from alfish.mcts.tree import Tree, new_tree

SEARCH = """
import torch
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
zeros = torch.zeros(2)
model = lambda latent, action: Step(latent, zeros, zeros, torch.zeros(2, 3), zeros)
print(search(RootNode(zeros, torch.zeros(2, 3), zeros), model, 4).visits.sum().item())
"""


def run_search(environment, folder):
    command = [sys.executable, "-c", SEARCH]  # -c imports from the working directory first
    environment = {**os.environ, **environment}
    ran = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "8\n"
    return ran.stderr


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
        return Step((), zeros, zeros, torch.zeros(4, host.PARALLEL_EDGES), zeros)

    root = RootNode((), torch.zeros(4, host.PARALLEL_EDGES), zeros)
    return search(root, model, 3).visits.sum().item()


def test_a_forked_process_can_search():
    """OpenMP ends a forked process that uses threads after its parent did."""
    assert large_search() == 12
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(large_search).get(timeout=60) == 12


def test_one_search_at_a_time_has_the_threads(monkeypatch):
    monkeypatch.setattr(host.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(host.numba.config, "NUMBA_NUM_THREADS", 2)
    monkeypatch.setattr(host.numba, "set_num_threads", lambda threads: None)  # a process may have been given one only
    large, small = np.zeros(host.LATENTS, np.int64), np.zeros(host.LATENTS, np.int64)
    large[[host.NUM_TREES, host.NUM_ROWS, host.NUM_ACTIONS]] = 2, 2, host.PARALLEL_EDGES
    small[[host.NUM_TREES, host.NUM_ROWS, host.NUM_ACTIONS]] = 2, 2, 3
    with host.compiled_advance(large) as first, host.compiled_advance(large) as second:
        assert (first.func, second.func) == (host._advance_parallel, host._advance_serial)
    with host.compiled_advance(small) as third:
        assert third.func is host._advance_serial


RULES = {
    "puct": SearchSettings(Puct(unvisited_value="siblings"), Puct(unvisited_value="parent"), "node"),
    "gumbel": SearchSettings(SequentialHalving(3), ImprovedPolicy()),
    "regularised": SearchSettings(RegularisedPolicy(), RegularisedPolicy(sampled=False), tie_breaking="random"),
}


@pytest.mark.parametrize("name", RULES)
def test_the_kernels_run_uncompiled(name):
    """The same functions must run without a compiler: other targets, and a debugger, need that."""
    B, A, num_simulations, settings = 3, 4, 12, RULES[name]
    rng = np.random.default_rng(0)
    answers = rng.standard_normal((num_simulations + 1, B, A + 2)).astype(np.float32)
    zeros = torch.zeros(B)

    def model(latent, action):
        answer = torch.from_numpy(answers[next(calls)])
        return Step(latent, answer[:, 0], torch.full((B,), 0.9), answer[:, 2:], answer[:, 1])

    calls = iter(range(1, num_simulations + 1))
    root = RootNode((), torch.from_numpy(answers[0, :, 2:]), torch.from_numpy(answers[0, :, 1]))
    compiled = search(root, model, num_simulations, settings)

    rule = Rule(*(tensor.numpy() for tensor in kernel_rule(settings, num_simulations, 13, torch.device("cpu"))))
    tree = Tree(*(tensor.numpy() for tensor in new_tree(B, num_simulations + 1, A, None, settings.needs_logits)))
    tree.seeds[:] = compiled.tree.seeds
    edges = np.zeros((2, B), np.int64)
    for node in range(num_simulations + 1):
        reward = answers[node, :, 0] if node else zeros.numpy()
        discount = np.full(B, 0.9 if node else 1.0, np.float32)
        given = Answers(reward, discount, answers[node, :, 1], answers[node, :, 2:], zeros.numpy(), zeros.numpy())
        for row in range(B):
            expansion.advance(tree, rule, given, edges, row, node, node < num_simulations)
    assert np.array_equal(tree.children, compiled.tree.children)
    np.testing.assert_allclose(tree.q_values, compiled.tree.q_values, rtol=1e-6, atol=1e-6)
    policy = np.zeros((B, A), np.float32)
    for row in range(B):
        readout.write_policy(tree, rule, row, POLICY_IMPROVED, policy)
    constants = settings.root if isinstance(settings.root, SequentialHalving) else None
    if constants is not None:
        expected = root_policy(compiled, ImprovedPolicy(constants.visit_offset, constants.value_scale))
        np.testing.assert_allclose(policy, expected, rtol=1e-5, atol=1e-6)
