"""The searches that ours is measured beside: LightZero's compiled trees and mctx, fed the same numbers.

LightZero's package needs a hundred others, its trees none: they are loaded by path from an unpacked wheel. Each of them
is driven as LightZero's own Python drives it, with lists, in two variants: the calls of the tree alone with lists that
were made before, and with what LightZero does for a model beside it (the latents gathered from a list of arrays, the
actions to a tensor, the model's tensors to lists).
"""

import functools
import importlib
import importlib.machinery
import importlib.util
import os
import pathlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import search_models
import torch
from search_models import DISCOUNT, Answers, Size, Work

LIGHTZERO_VARIABLE = "ALFISH_LIGHTZERO"
LIGHTZERO_HELP = (
    "pip download --no-deps --dest /tmp LightZero==0.2.0 && python -m zipfile -e /tmp/lightzero-0.2.0-*.whl FOLDER"
)
_PB_C_BASE, _PB_C_INIT = 19652, 1.25
_CONSIDERED = 16
_VALUE_DELTA = 0.01
_ONE_PLAYER = -1


class Contestant(NamedTuple):
    """One way to do a search.

    Attributes:
        run: B searches.
        work: does them once more and tells what was done.
    """

    run: Callable[[], object]
    work: Callable[[], Work]


class LightZeroTrees(NamedTuple):
    """The compiled modules, as they stand in the wheel."""

    puct: types.ModuleType
    gumbel: types.ModuleType


def load_lightzero(folder: pathlib.Path | None) -> LightZeroTrees | str:
    """The compiled trees of an unpacked wheel, or why they are not there."""
    if folder is None:
        return f"no wheel: unpack one with `{LIGHTZERO_HELP}` and give --lightzero FOLDER or set {LIGHTZERO_VARIABLE}"
    found = []
    for part, name in (("muzero", "mz_tree"), ("gumbel_muzero", "gmz_tree")):
        place = folder / "lzero" / "mcts" / "ctree" / f"ctree_{part}"
        files = [place / f"{name}{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES]
        path = next((file for file in files if file.is_file()), None)
        if path is None:
            return f"{place} has no {name}{importlib.machinery.EXTENSION_SUFFIXES[0]} for this Python"
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        found.append(module)
    return LightZeroTrees(*found)


def lightzero_contestants(
    trees: LightZeroTrees, size: Size, answers: Answers, latent: int, gumbel: bool
) -> tuple[Contestant, Contestant]:
    """The tree's calls only, and as LightZero drives it."""
    driver = (_GumbelTree if gumbel else _PuctTree)(trees, size, answers)
    with_model = functools.partial(driver.with_model, _TensorAnswers(size, answers, latent))
    return (
        Contestant(driver.tree_only, functools.partial(_lightzero_work, driver.tree_only, size)),
        Contestant(with_model, functools.partial(_lightzero_work, with_model, size)),
    )


def _lightzero_work(search: Callable[..., Any], size: Size) -> Work:
    lengths: list[list[int]] = []
    roots = search(lengths)
    visits = np.array(roots.get_distributions())
    assert visits.shape == (size.B, size.A)
    return Work(visits, float(np.mean(lengths)))


class _TensorAnswers:
    """The free model as LightZero would be given it: tensors out, one answer per simulation."""

    def __init__(self, size: Size, answers: Answers, latent: int):
        self.root_latent = np.zeros((size.B, latent), np.float32)
        self._latent = torch.zeros(size.B, latent)
        self._logits, self._values, self._rewards = (torch.from_numpy(array) for array in answers)

    def __call__(self, latent: torch.Tensor, action: torch.Tensor, node: int) -> tuple[torch.Tensor, ...]:
        return self._latent, self._rewards[node], self._values[node], self._logits[node]


class _PuctTree:
    """Searches with `mz_tree`."""

    def __init__(self, trees: LightZeroTrees, size: Size, answers: Answers):
        self._module, self._back_up = self._functions(trees)
        self._size = size
        self._lists = [array.tolist() for array in answers]
        self._legal = [list(range(size.A)) for _ in range(size.B)]
        self._players = [_ONE_PLAYER] * size.B

    def _functions(self, trees: LightZeroTrees) -> tuple[types.ModuleType, Callable[..., None]]:
        return trees.puct, trees.puct.batch_backpropagate

    def _start(self) -> tuple[Any, Any, tuple[Any, ...]]:
        """New roots, their bounds, and what `batch_traverse` is given between the roots and the results."""
        logits, values, rewards = self._lists
        roots = self._module.Roots(self._size.B, self._legal)
        self._prepare(roots, rewards[0], values[0], logits[0])
        bounds = self._module.MinMaxStatsList(self._size.B)
        bounds.set_delta(_VALUE_DELTA)
        return roots, bounds, self._rule(bounds)

    def _prepare(self, roots: Any, rewards: list[float], values: list[float], logits: list[list[float]]) -> None:
        roots.prepare_no_noise(rewards, logits, self._players)

    def _rule(self, bounds: Any) -> tuple[Any, ...]:
        return _PB_C_BASE, _PB_C_INIT, DISCOUNT, bounds

    def tree_only(self, lengths: list[list[int]] | None = None) -> Any:
        """The tree's own calls, with lists that are there already."""
        roots, bounds, rule = self._start()
        traverse, back_up, results_of = self._module.batch_traverse, self._back_up, self._module.ResultsWrapper
        (logits, values, rewards), players, B = self._lists, self._players, self._size.B
        for node in range(1, self._size.simulations + 1):
            results = results_of(num=B)
            *_, to_play = traverse(roots, *rule, results, players)
            if lengths is not None:
                lengths.append(results.get_search_len())
            back_up(node, DISCOUNT, rewards[node], values[node], logits[node], bounds, results, to_play)
        self._read(roots)
        return roots

    def with_model(self, model: _TensorAnswers, lengths: list[list[int]] | None = None) -> Any:
        """The same, and what goes to the model and comes from it as LightZero hands it over."""
        roots, bounds, rule = self._start()
        traverse, back_up, results_of = self._module.batch_traverse, self._back_up, self._module.ResultsWrapper
        pool = [model.root_latent]
        for node in range(1, self._size.simulations + 1):
            results = results_of(num=self._size.B)
            nodes, rows, actions, to_play = traverse(roots, *rule, results, self._players)
            if lengths is not None:
                lengths.append(results.get_search_len())
            latents = torch.from_numpy(np.asarray([pool[i][row] for i, row in zip(nodes, rows, strict=True)]))
            latent, reward, value, logits = model(latents, torch.from_numpy(np.asarray(actions)).long(), node)
            pool.append(latent.detach().cpu().numpy())
            lists = [tensor.detach().cpu().numpy().reshape(-1).tolist() for tensor in (reward, value)]
            back_up(node, DISCOUNT, *lists, logits.detach().cpu().numpy().tolist(), bounds, results, to_play)
        self._read(roots)
        return roots

    def _read(self, roots: Any) -> None:
        """What a search is for."""
        roots.get_distributions()
        roots.get_values()


class _GumbelTree(_PuctTree):
    """Searches with `gmz_tree`, whose functions take other arguments."""

    def _functions(self, trees: LightZeroTrees) -> tuple[types.ModuleType, Callable[..., None]]:
        return trees.gumbel, trees.gumbel.batch_back_propagate

    def _prepare(self, roots: Any, rewards: list[float], values: list[float], logits: list[list[float]]) -> None:
        roots.prepare_no_noise(rewards, values, logits, self._players)

    def _rule(self, bounds: Any) -> tuple[Any, ...]:
        return self._size.simulations, _CONSIDERED, DISCOUNT

    def _read(self, roots: Any) -> None:
        super()._read(roots)
        roots.get_policies(DISCOUNT, self._size.A)


def load_mctx() -> tuple[types.ModuleType, types.ModuleType] | str:
    """jax, on the CPU, and mctx, or why they are not there."""
    if importlib.util.find_spec("mctx") is None:
        return 'mctx is not installed; install it with: pip install -c constraints.txt -e ".[bench]"'
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.import_module("jax"), importlib.import_module("mctx")


def mctx_contestant(
    modules: tuple[types.ModuleType, types.ModuleType], size: Size, answers: Answers, latent: int, gumbel: bool
) -> Contestant:
    """`muzero_policy` without noise, or `gumbel_muzero_policy`, as one compiled function."""
    jax, mctx = modules
    now: dict[str, Any] = {}

    def numbered_loop(lower: int, upper: int, body: Callable[..., Any], state: Any) -> Any:
        # A recurrent function is not told which simulation it is asked for, and the answers are numbered by it.
        def numbered(simulation: Any, state: Any) -> Any:
            now["node"] = simulation + 1
            return body(simulation, state)

        return jax.lax.fori_loop(lower, upper, numbered, state)

    def free(params: Answers, key: Any, action: Any, embedding: Any) -> Any:
        logits, value, reward = (array[now["node"]] for array in params)
        discount = jax.numpy.full_like(value, DISCOUNT)
        return mctx.RecurrentFnOutput(reward=reward, discount=discount, prior_logits=logits, value=value), embedding

    @jax.jit
    def policy(params: Answers, embedding: Any, key: Any) -> Any:
        root = mctx.RootFnOutput(prior_logits=params.prior_logits[0], value=params.value[0], embedding=embedding)
        common = {"num_simulations": size.simulations, "loop_fn": numbered_loop}
        if gumbel:
            output = mctx.gumbel_muzero_policy(
                params, key, root, free, max_num_considered_actions=_CONSIDERED, **common
            )
        else:
            output = mctx.muzero_policy(params, key, root, free, dirichlet_fraction=0.0, **common)
        return output.action, output.search_tree.summary(), output.search_tree.parents

    params = jax.device_put(answers)
    embedding, key = jax.numpy.zeros((size.B, latent)), jax.random.key(0)

    def run() -> Any:
        return jax.block_until_ready(policy(params, embedding, key))

    def work() -> Work:
        _, summary, parents = run()
        return Work(np.asarray(summary.visit_counts), search_models.mean_depth(np.asarray(parents)))

    return Contestant(run, work)
