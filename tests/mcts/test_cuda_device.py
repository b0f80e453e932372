"""The search with its trees on a real GPU, eager and as a CUDA graph: equal to the search on the CPU, no waiting."""

import contextlib

import pytest
import torch
from device_search_cases import CASES, Case, arguments, differences, keywords, model_of, run

from alfish.mcts import cuda_search, root_policies
from alfish.mcts.cuda_graphs import SearchGraphs
from alfish.mcts.cuda_search import device_search
from alfish.mcts.records import RootNode, Step
from alfish.mcts.search import search
from alfish.mcts.settings import ImprovedPolicy, RegularisedPolicy
from alfish.mcts.subtree import reroot

DEVICE = "cuda"
PLAIN = Case()
NUM_ACTIONS = 5
SOME = [name for name in CASES if name.split(",")[0] in ("paper", "gumbel", "leaves_3_depth", "all_drawn")]

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU here", allow_module_level=True)
if cuda_search.load_kernels() is None:
    pytest.skip('numba-cuda is missing or sees no GPU: pip install "alfish[cuda]"', allow_module_level=True)


@contextlib.contextmanager
def no_waiting():
    """Operations that wait for the device raise."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class LinearModel(torch.nn.Module):
    """A learned model of two layers."""

    def __init__(self, width=16):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.dynamics = torch.nn.Linear(width + NUM_ACTIONS, width)
        self.heads = torch.nn.Linear(width, 2 + NUM_ACTIONS)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)

    def root(self, latent):
        numbers = self.heads(latent).float()
        return RootNode(latent, numbers[:, 2:], numbers[:, 0])

    def forward(self, latent, action):
        inputs = torch.cat((latent, torch.nn.functional.one_hot(action, NUM_ACTIONS).to(latent.dtype)), dim=1)
        latent = torch.tanh(self.dynamics(inputs)).to(latent.dtype)
        numbers = self.heads(latent)
        discount = torch.full_like(numbers[:, 0], 0.97)
        return Step(latent, numbers[:, 1], discount, numbers[:, 2:], numbers[:, 0])


@pytest.mark.parametrize("name", CASES)
def test_eager_equals_the_cpu(name):
    found = run(CASES[name], device_search, DEVICE)
    assert differences(found, run(CASES[name], search)) == []
    assert all(tensor.is_cuda for tensor in (*found[:3], *found.tree, found.latents["plane"]))


@pytest.mark.parametrize("name", CASES)
def test_a_graph_equals_the_cpu(name):
    case, graphs = CASES[name], SearchGraphs()
    model = model_of(case, DEVICE)
    inputs = keywords(case, model)
    graphs.search(*arguments(case, model), **(inputs | {"seed": 1}))
    found = graphs.search(*arguments(case, model), **inputs)
    assert differences(found, run(case, search)) == []
    graphs.raise_faults()


@pytest.mark.parametrize("name", SOME)
def test_a_replay_does_not_wait(name):
    case, graphs = CASES[name], SearchGraphs()
    model = model_of(case, DEVICE)
    positions, inputs = arguments(case, model), keywords(case, model)
    first = graphs.search(*positions, **inputs)
    torch.cuda.synchronize()
    with no_waiting():
        second = graphs.search(*positions, **inputs)
    assert torch.equal(first.visits, second.visits)


def test_a_thousand_trees():
    case = PLAIN._replace(num_trees=1000)
    assert differences(run(case, device_search, DEVICE), run(case, search)) == []


def test_retained_trees():
    case, graphs = PLAIN, SearchGraphs()
    models = [model_of(case), model_of(case, DEVICE)]
    kept = [None, None]
    for move in range(6):
        expected, found = (
            graphs.search(model.root(), model.step, 8, retained=trees)
            for model, trees in zip(models, kept, strict=True)
        )
        assert torch.equal(found.visits.cpu(), expected.visits)
        torch.testing.assert_close(found.q_values.cpu(), expected.q_values)
        actions = expected.visits.argmax(dim=1)
        actions[move % 3] = -1
        kept = [reroot(expected, actions, 8), reroot(found, actions.to(DEVICE), 8)]


def test_policies_of_roots():
    for policy in ("visits", ImprovedPolicy(), RegularisedPolicy()):
        found = root_policies.root_policy(run(PLAIN, SearchGraphs().search, DEVICE), policy)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), root_policies.root_policy(run(PLAIN, search), policy))


def test_a_graph_sees_weights_that_change_in_place():
    model = LinearModel().to(DEVICE)
    graphs = SearchGraphs()
    latent = torch.randn(8, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    with torch.no_grad():
        root = model.root(latent)
    before = graphs.search(root, model, 16)
    assert torch.equal(before.visits, device_search(root, model, 16).visits)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.5)
    after = graphs.search(root, model, 16)
    expected = device_search(root, model, 16)
    assert torch.equal(after.visits, expected.visits)
    assert not torch.equal(after.value, before.value)
    torch.testing.assert_close(after.value, expected.value)


def test_autocast_and_inference_mode():
    model = LinearModel().to(DEVICE)
    graphs = SearchGraphs()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        root = model.root(torch.randn(8, 16, device=DEVICE))
        first = graphs.search(root, model, 16)
    with torch.autocast("cuda", torch.bfloat16):
        second = graphs.search(root, model, 16)
        expected = device_search(root, model, 16)
    assert torch.equal(first.visits, second.visits)
    assert torch.equal(second.visits, expected.visits)


def test_faults_of_a_graph_are_raised_later():
    model = model_of(PLAIN, DEVICE)
    graphs, root = SearchGraphs(), model.root()
    graphs.search(root, model.step, 8)
    model.tables["reward"].fill_(torch.nan)
    graphs.search(root, model.step, 8)
    with pytest.raises(ValueError, match="the model's reward is nan in simulation"):
        graphs.raise_faults()
    graphs.raise_faults()
    graphs.search(root, model.step, 8)
    torch.cuda.synchronize()
    with pytest.raises(ValueError, match="the model's reward is nan in simulation"):
        graphs.search(root, model.step, 8)


def test_a_model_that_waits_is_explained():
    model = model_of(PLAIN, DEVICE)

    def waiting(latent, action):
        action.sum().item()
        return model.step(latent, action)

    with pytest.raises(RuntimeError) as caught:
        SearchGraphs().search(model.root(), waiting, 8)
    assert "could not be captured" in "".join(caught.value.__notes__)
