"""Simulations per second of the search, and what the search costs beside the model.

python benchmarks/search.py [--sizes "8,50,6;64,200,9"] [--seconds 1]

All times are medians. A free model answers with the same tensors each time, so its columns are the ceiling of the
search itself: "kernels" is the compiled code alone, "search" the whole call. The last columns are for a model of two
hidden layers: how long a search takes, and how long the same number of calls of the bare model.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch

from alfish.mcts.compiled import compiled_advance
from alfish.mcts.kernels import DISCOUNT, LOGITS
from alfish.mcts.records import PuctSettings, RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.tree import new_tree

SIZES = [(8, 25, 2), (8, 50, 6), (256, 50, 6), (64, 50, 18), (64, 200, 9), (8, 800, 82)]
"""(B, simulations, A)"""


def parse_arguments() -> argparse.Namespace:
    parser = common.parser(__doc__, runs_commands=False)
    parser.add_argument("--sizes", default=None, help="B,simulations,A;…  for example 8,50,6;64,200,9")
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each number")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch and the search")
    parser.add_argument("--latent", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=128)
    return parser.parse_args()


def median_seconds(function: Callable[[], object], budget: float) -> float:
    """Median time of a call, after one call that does not count; at least 3 calls."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < budget:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def kernels_only(B: int, num_simulations: int, A: int, budget: float) -> float:
    settings = PuctSettings()
    generator = np.random.default_rng(0)
    answers = [generator.standard_normal((B, LOGITS + A)).astype(np.float32) for _ in range(num_simulations + 1)]
    for answer in answers:
        answer[:, DISCOUNT] = 0.997

    def run() -> None:
        tree, rule = new_tree(B, num_simulations + 1, A), settings.rule(num_simulations + 1)
        edges = np.empty((2, B), np.int64)
        for node, answer in enumerate(answers):
            advance(tree, rule, answer, edges, node)

    with compiled_advance(B, A) as advance:
        return median_seconds(run, budget)


def free_model(B: int, num_simulations: int, A: int, latent: int) -> tuple[RootNode, Callable[..., Step]]:
    torch.manual_seed(0)
    fixed = torch.zeros(B, latent)
    discount = torch.full((B,), 0.997)
    steps = [
        Step(fixed, torch.randn(B), discount, torch.randn(B, A), torch.randn(B)) for _ in range(num_simulations + 1)
    ]
    calls = itertools.cycle(steps)

    def model(latent: torch.Tensor, action: torch.Tensor) -> Step:
        return next(calls)

    return RootNode(fixed, torch.randn(B, A), torch.randn(B)), model


def small_model(B: int, A: int, latent: int, hidden: int) -> tuple[RootNode, Callable[..., Step]]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(latent + A, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, latent + A + 2),
    )
    identity, discount = torch.eye(A), torch.full((B,), 0.997)

    def model(state: torch.Tensor, action: torch.Tensor) -> Step:
        out = network(torch.cat((state, identity[action]), dim=1))
        state, logits, reward, value = out.split((latent, A, 1, 1), dim=1)
        return Step(state, reward.squeeze(1), discount, logits, value.squeeze(1))

    return RootNode(torch.randn(B, latent), torch.randn(B, A), torch.randn(B)), model


def bare_calls(root: RootNode, model: Callable[..., Step], num_simulations: int) -> None:
    state, action = root.latent, torch.zeros(len(root.value), dtype=torch.int64)
    with torch.no_grad():
        for _ in range(num_simulations):
            state = model(state, action).latent


def measure(B: int, num_simulations: int, A: int, arguments: argparse.Namespace) -> dict[str, Any]:
    settings, budget, simulations = PuctSettings(), arguments.seconds, B * num_simulations
    kernels = kernels_only(B, num_simulations, A, budget)
    root, model = free_model(B, num_simulations, A, arguments.latent)
    free = median_seconds(lambda: search(root, model, num_simulations, settings), budget)
    root, model = small_model(B, A, arguments.latent, arguments.hidden)
    whole = median_seconds(lambda: search(root, model, num_simulations, settings), budget)
    bare = median_seconds(lambda: bare_calls(root, model, num_simulations), budget)
    return {
        "B × simulations × A": f"{B} × {num_simulations} × {A}",
        "kernels, 1000 sims/s": simulations / kernels / 1e3,
        "search, 1000 sims/s": simulations / free / 1e3,
        "search with the model, ms": 1e3 * whole,
        "the model's calls alone, ms": 1e3 * bare,
        "ratio": whole / bare,
    }


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    sizes = SIZES
    if arguments.sizes:
        sizes = [tuple(int(number) for number in size.split(",")) for size in arguments.sizes.split(";")]  # type: ignore[misc]
    report = common.Report("Tree search", arguments)
    rows = [measure(*size, arguments) for size in sizes]
    hidden = f"{arguments.latent} + A → {arguments.hidden} → {arguments.hidden}"
    report.finish(rows, [f"medians; the model: {hidden} → {arguments.latent} + A + 2"])


if __name__ == "__main__":
    main()
