"""Runs device searches in numba's CUDA simulator, beside those on the CPU; prints what differs, as JSON.

`NUMBA_ENABLE_CUDASIM=1 python cuda_simulator.py`: a process of its own, because numba decides at import what it is.
"""

import json
import unittest.mock

import torch
from device_search_cases import CASES, Case, arguments, differences, keywords, model_of, run

from alfish.mcts import cuda_graphs, cuda_kernels, cuda_search, host
from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.cuda_search import device_search
from alfish.mcts.rule import POLICY_IMPROVED, POLICY_REGULARISED, POLICY_VISITS
from alfish.mcts.search import search
from alfish.mcts.settings import SearchSettings
from alfish.mcts.subtree import reroot

PLAIN = Case()
SOME = [name for name in CASES if name.split(",")[0] in ("paper", "gumbel", "leaves_3_depth", "all_drawn", "one row")]


def message(function, *positional, **named):
    """The ValueError's message, or an empty string if there was none."""
    try:
        function(*positional, **named)
    except ValueError as error:
        return str(error)
    return ""


def check_policies():
    """What is read off the trees, by the kernels of both sides."""
    wrong = []
    for name in SOME:
        result = run(CASES[name], search)
        for kind in (POLICY_VISITS, POLICY_IMPROVED, POLICY_REGULARISED):
            found, expected = (
                read(result.tree, result.rule, kind) for read in (cuda_search.read_policy, host.read_policy)
            )
            if not torch.allclose(found, expected, atol=1e-5):
                wrong.append(f"{name} {kind}")
    return wrong


def check_retained():
    """Searches that go on with trees of which one row began anew."""
    wrong = []
    for game in ("illegal", "two_players", "turns"):
        results = []
        for function in (search, device_search):
            model = model_of(PLAIN._replace(game=game))
            first = function(model.root(), model.step, 10)
            actions = first.visits.argmax(dim=1)
            actions[1] = -1
            results.append(function(model.root(), model.step, 2, retained=reroot(first, actions, 2)))
        wrong += [f"{game}: {field}" for field in differences(*results)]
    return wrong


def check_faults():
    """The same errors on both sides."""
    wrong = []
    for name, number in (("reward", torch.nan), ("discount", 2.0), ("logits", torch.nan), ("value", torch.inf)):
        model = model_of(PLAIN)
        root = model.root()
        model.tables[name].fill_(number)
        messages = [message(function, root, model.step, 8) for function in (search, device_search)]
        if not messages[0] or messages[0] != messages[1]:
            wrong.append(f"{name}: {messages}")
    model = model_of(PLAIN)
    mask = torch.ones_like(model.root().prior_logits, dtype=torch.bool)
    mask[2] = False
    messages = [message(function, model.root(), model.step, 4, legal_mask=mask) for function in (search, device_search)]
    if not messages[0] or messages[0] != messages[1]:
        wrong.append(f"no legal action: {messages}")

    def wide(latent, action):
        return model.step(latent, action)._replace(value=torch.zeros(3, 1))

    found = message(device_search, model.root(), wide, 4)
    if "value has the shape (3, 1)" not in found:
        wrong.append(f"shape: {found!r}")
    return wrong


class StillEvent:
    """In place of a CUDA event: all work has always been done."""

    def record(self):
        pass

    def synchronize(self):
        pass

    def query(self):
        return True


def replayed(graphs, root, model, num_simulations, settings=None, legal_mask=None, gumbel=None, seed=0, retained=None):
    """`graphs.search` for a root that is not on a GPU."""
    settings = settings or SearchSettings()
    return graphs._replayed(root, model, num_simulations, settings, legal_mask, gumbel, seed, retained)


def check_graphs(captures):
    """The same kind of search with other numbers and back: captured once, and results do not disturb each other."""
    wrong = []
    for name in SOME:
        case, graphs = CASES[name], SearchGraphs()
        captures.clear()
        model = model_of(case)
        inputs = keywords(case, model)
        others = arguments(case, model)
        others[0].prior_logits.neg_().nan_to_num_(posinf=-torch.inf)
        first = replayed(graphs, *arguments(case, model), **inputs)
        second = replayed(graphs, *others, **(inputs | {"seed": 1}))
        wrong += [f"{name}: {field}" for field in differences(second, search(*others, **(inputs | {"seed": 1})))]
        # The first result outlives the second, but for the latents.
        expected = search(*arguments(case, model), **inputs)
        wrong += [f"{name}: {field}" for field in differences(first._replace(latents=expected.latents), expected)]
        if len(captures) != 1:
            wrong.append(f"{name}: {len(captures)} captures")
    return wrong


def check_graph_kinds(captures):
    """One capture for each kind; the kind that was not used for longest is given up."""
    graphs, models = SearchGraphs(max_graphs=2), {size: model_of(PLAIN._replace(num_trees=size)) for size in (2, 3)}
    captures.clear()
    counts = []
    for size, num_simulations in ((2, 4), (2, 4), (3, 4), (2, 4), (2, 5), (2, 4), (3, 4)):
        replayed(graphs, models[size].root(), models[size].step, num_simulations)
        counts.append(len(captures))
    return [] if counts == [1, 1, 2, 2, 3, 3, 4] else [f"captures {counts}"]


def check_graph_faults():
    """A fault is raised by the next search, once, with the message of the search on the CPU."""
    graphs, model = SearchGraphs(), model_of(PLAIN)
    root, good = model.root(), model.tables["reward"].clone()
    model.tables["reward"].fill_(torch.nan)
    expected = message(search, root, model.step, 8)
    found = [message(replayed, graphs, root, model.step, 8)]
    model.tables["reward"].copy_(good)
    found += [message(replayed, graphs, root, model.step, 8), message(graphs.raise_faults)]
    left = replayed(graphs, root, model.step, 8).tree.faults.count_nonzero().item()
    found.append(message(graphs.raise_faults))
    return [] if (found, left) == (["", expected, "", ""], 0) else [f"faults {found}, {left} left"]


def check_graph_retained(captures):
    """An episode of searches that go on with the tree; trees of similar sizes share a graph."""
    captures.clear()
    graphs, model, wrong = SearchGraphs(), model_of(PLAIN), []
    kept = [None, None]
    for move in range(6):
        expected = search(model.root(), model.step, 8, retained=kept[0])
        found = replayed(graphs, model.root(), model.step, 8, retained=kept[1])
        for name in ("visits", "value", "q_values"):
            if not torch.allclose(getattr(found, name).double(), getattr(expected, name).double(), atol=1e-5):
                wrong.append(f"move {move}: {name}")
        actions = expected.visits.argmax(dim=1)
        actions[move % 3] = -1
        kept = [reroot(result, actions, 8) for result in (expected, found)]
    return wrong if 1 < len(captures) < 6 else [*wrong, f"{len(captures)} captures"]


def check_all_graphs():
    """All of SearchGraphs but the capture, in place of which the search is run anew."""
    captures = []

    def capture(run_search, device):
        captures.append(device)
        return run_search

    with (
        unittest.mock.patch.object(cuda_graphs, "_captured", capture),
        unittest.mock.patch.object(torch.cuda, "Event", StillEvent),
    ):
        return {
            "graphs": check_graphs(captures),
            "kinds of graphs": check_graph_kinds(captures),
            "faults of graphs": check_graph_faults(),
            "retained trees in graphs": check_graph_retained(captures),
        }


def main():
    assert cuda_kernels.is_simulated
    found = {name: differences(run(case, device_search), run(case, search)) for name, case in CASES.items()}
    found |= {"policies of roots": check_policies(), "retained trees": check_retained(), "faults": check_faults()}
    print(json.dumps(found | check_all_graphs()))


if __name__ == "__main__":
    main()
