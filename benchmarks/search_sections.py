"""The sections of the search benchmark that time searches in this process."""

import argparse
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import search_models
import search_peers
import torch
from interleaving import Ratio, Times, time_in_turns
from search_models import Answers, FreeModel, Size, bare_calls, work_of
from search_peers import Contestant
from search_probe import RULES

from alfish.mcts.records import RootNode, SearchResult, Step
from alfish.mcts.search import search
from alfish.mcts.settings import Puct, SearchSettings, SequentialHalving

_SIBLINGS = Puct(unvisited_value="siblings")
PUCT_AS_LIGHTZERO = SearchSettings(root=_SIBLINGS, interior=_SIBLINGS, minimum_range=0.01)
"""LightZero gives an unvisited action about the mean of the visited ones, not 0; the trees are less deep."""
PUCT_AS_MCTX = SearchSettings(value_range="node", minimum_range=1e-8)
"""mctx scales the values within each node; the trees are deeper."""

OURS, AS_LIGHTZERO, AS_MCTX = "alfish", "alfish as LightZero", "alfish as mctx"
TREE, DRIVEN, MCTX = "LightZero tree", "LightZero", "mctx"

MODEL_BATCHES = (Size(8, 50, 6), Size(64, 50, 6), Size(256, 50, 6))
ATARI_SIZES = (Size(8, 50, 6), Size(64, 50, 6))
GROWTH_SIMULATIONS = (50, 100, 200, 400, 800)
GROWTH_TREES, GROWTH_ACTIONS = 64, 9


def contestant(size: Size, answers: Answers, latent: int, settings: SearchSettings) -> Contestant:
    """A whole call of our search with a model that costs nothing."""
    model = FreeModel(answers, latent)
    noise = None
    if isinstance(settings.root, SequentialHalving):
        noise = torch.from_numpy(np.random.default_rng(0).gumbel(size=(size.B, size.A)).astype(np.float32))

    def run() -> SearchResult:
        return search(model.root, model, size.simulations, settings, gumbel=noise)

    return Contestant(run, lambda: work_of(run()))


def peers(report: common.Report, arguments: argparse.Namespace) -> None:
    """Our search, LightZero's trees and mctx, for each rule and size."""
    lightzero, mctx = search_peers.load_lightzero(arguments.lightzero), search_peers.load_mctx()
    absent = [
        f"{name} left out: {why}" for name, why in (("LightZero", lightzero), ("mctx", mctx)) if isinstance(why, str)
    ]
    rows, details = [], {}
    for rule, settings in RULES.items():
        for size in arguments.sizes:
            answers = search_models.random_answers(size, arguments.seed)
            contestants = {OURS: contestant(size, answers, arguments.latent, settings)}
            if rule == "PUCT":
                for name, like in ((AS_LIGHTZERO, PUCT_AS_LIGHTZERO), (AS_MCTX, PUCT_AS_MCTX)):
                    contestants[name] = contestant(size, answers, arguments.latent, like)
            if not isinstance(lightzero, str):
                tree, driven = search_peers.lightzero_contestants(
                    lightzero, size, answers, arguments.latent, rule == "Gumbel"
                )
                contestants |= {TREE: tree, DRIVEN: driven}
            if not isinstance(mctx, str):
                contestants[MCTX] = search_peers.mctx_contestant(
                    mctx, size, answers, arguments.latent, rule == "Gumbel"
                )
            row, detail = _measure_peers(rule, size, contestants, arguments)
            rows.append(row)
            details[f"{rule}, {size}"] = detail
    notes = [
        "thousands of simulations per second, all B trees together; in turns, medians; ratios: their time / ours",
        f"{TREE}: the calls of its compiled tree alone, with lists made before; {DRIVEN}: as its own Python drives it, "
        "with the latents gathered from a list and the model's tensors turned to lists",
        f"{AS_LIGHTZERO}: an unvisited action counts as the mean of the visited ones; {AS_MCTX}: values are scaled "
        "within each node; PUCT is compared with its like, Gumbel with ours as it stands",
        "depth: mean number of edges to the end of a simulation; all are fed the same numbers; that the visits of the "
        "root sum to the simulations was checked",
    ]
    same = [detail["rows with mctx's visits"] for detail in details.values() if "rows with mctx's visits" in detail]
    if same:
        notes.append(f"{AS_MCTX} made exactly mctx's visits at {np.mean(same):.1%} of the roots")
    report.finish(rows, notes + absent, details)


def _measure_peers(
    rule: str, size: Size, contestants: dict[str, Contestant], arguments: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    works = {name: one.work() for name, one in contestants.items()}
    for name, work in works.items():
        if not (work.visits.sum(axis=1) == size.simulations).all():
            raise RuntimeError(f"{name} made {work.visits.sum(axis=1)} simulations at {size}; the comparison is off")
    depths = {name: work.mean_depth for name, work in works.items()}
    calls = {name: one.run for name, one in contestants.items()}
    times = time_in_turns(calls, arguments.rounds, arguments.seconds)
    row: dict[str, Any] = {"rule": rule, "B × simulations × A": str(size)}
    for name in (OURS, AS_LIGHTZERO, TREE, DRIVEN, AS_MCTX, MCTX):
        seconds = times.median(name)
        row[name] = None if seconds is None else size.B * size.simulations / seconds / 1e3
    like = {TREE: AS_LIGHTZERO, DRIVEN: AS_LIGHTZERO, MCTX: AS_MCTX}
    if rule != "PUCT":
        like = dict.fromkeys(like, OURS)
    ratios = {f"over {name}": times.ratio(name, ours) for name, ours in like.items()}
    row |= {name: _median(ratio) for name, ratio in ratios.items()}
    row["depth"] = ", ".join(f"{name} {depth:.1f}" for name, depth in depths.items())
    detail: dict[str, Any] = {"seconds": times.rounds, "ratios": ratios, "depth": depths}
    if AS_MCTX in works and MCTX in works:
        detail["rows with mctx's visits"] = (works[AS_MCTX].visits == works[MCTX].visits).all(axis=1).mean()
    return row, detail


def mlp(report: common.Report, arguments: argparse.Namespace) -> None:
    """A search over the bare calls of a small model."""
    sizes = list(dict.fromkeys((*MODEL_BATCHES, *arguments.sizes)))
    latent, hidden = arguments.latent, arguments.hidden
    models = {size: search_models.mlp_model(size.B, size.A, latent, hidden, arguments.seed) for size in sizes}
    _beside_the_model(report, models, f"{latent} + A → {hidden} → {hidden} → {latent} + A + 2", arguments)


def atari(report: common.Report, arguments: argparse.Namespace) -> None:
    """The same with the network for 84 × 84 frames."""
    models = {size: search_models.atari_model(size.B, size.A, arguments.seed) for size in ATARI_SIZES}
    _beside_the_model(report, models, "the networks of muzero_atari.gin, latents of 64 × 6 × 6", arguments)


def _beside_the_model(
    report: common.Report,
    models: dict[Size, tuple[RootNode, Callable[..., Step]]],
    what: str,
    arguments: argparse.Namespace,
) -> None:
    rows, details = [], {}
    for size, (root, model) in models.items():
        calls = {
            "search": lambda root=root, model=model, size=size: search(root, model, size.simulations),
            "bare": lambda root=root, model=model, size=size: bare_calls(root, model, size.simulations),
        }
        times = time_in_turns(calls, arguments.rounds, arguments.seconds)
        ratio = times.ratio("search", "bare")
        assert ratio is not None
        whole, bare = times.median("search"), times.median("bare")
        assert whole is not None
        assert bare is not None
        rows.append(
            {
                "B × simulations × A": str(size),
                "search, ms": 1e3 * whole,
                "the model's calls alone, ms": 1e3 * bare,
                "ratio": ratio.median,
                "lowest": ratio.low,
                "highest": ratio.high,
                "beside the model, µs per simulation of all trees": 1e6 * (whole - bare) / size.simulations,
            }
        )
        details[str(size)] = times.rounds
    threads = torch.get_num_threads()
    report.finish(
        rows, [f"the model: {what}; {threads} threads; in turns, medians of {arguments.rounds} rounds"], details
    )


def growth(report: common.Report, arguments: argparse.Namespace) -> None:
    """What a simulation costs as the trees grow, with a model that costs nothing."""
    rows, details = [], {}
    for rule, settings in RULES.items():
        sizes = [Size(GROWTH_TREES, simulations, GROWTH_ACTIONS) for simulations in GROWTH_SIMULATIONS]
        contestants = {}
        for size in sizes:
            answers = search_models.random_answers(size, arguments.seed)
            contestants[str(size)] = contestant(size, answers, arguments.latent, settings)
        depths = [one.work().mean_depth for one in contestants.values()]
        calls = {name: one.run for name, one in contestants.items()}
        times = time_in_turns(calls, arguments.rounds, arguments.seconds)
        rows += [_growth_row(rule, times, sizes, depths, i) for i in range(len(sizes))]
        details[rule] = times.rounds
    notes = ["a model that costs nothing; growth: over the first row of the rule; in turns, medians"]
    report.finish(rows, notes, details)


def _growth_row(rule: str, times: Times, sizes: list[Size], depths: list[float], i: int) -> dict[str, Any]:
    size, first = sizes[i], sizes[0]
    seconds, ratio = times.median(str(size)), times.ratio(str(size), str(first))
    assert seconds is not None
    assert ratio is not None
    cost, depth = ratio.median * first.simulations / size.simulations, depths[i] / depths[0]
    return {
        "rule": rule,
        "B × simulations × A": str(size),
        "µs per simulation": 1e6 * seconds / (size.B * size.simulations),
        "mean depth": depths[i],
        "growth of the cost": cost,
        "growth of the depth": depth,
        "cost / depth": cost / depth,
    }


def _median(ratio: Ratio | None) -> float | None:
    return None if ratio is None else ratio.median
