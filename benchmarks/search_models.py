"""The models of the search benchmarks: one that costs nothing, an MLP, and the residual network for Atari games."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from alfish import nest
from alfish.mcts.records import RootNode, SearchResult, Step
from alfish.models.mcts_model import Dynamics, Prediction
from alfish.models.search_model import SearchModel
from alfish.models.simple_mcts_model import SimpleMCTSModel
from alfish.networks.muzero_image_networks import ImageDynamics, ImageEncoding, ImagePrediction
from alfish.ops.value_transforms import CategoricalSupport, SignedHyperbolicTransform
from alfish.specs import BoundedTensorSpec, TensorSpec

DISCOUNT = 0.997


class Size(NamedTuple):
    """B trees, the simulations of each, and A actions."""

    B: int
    simulations: int
    A: int

    def __str__(self) -> str:
        return f"{self.B} × {self.simulations} × {self.A}"


class Answers(NamedTuple):
    """What the free model says of node i of all trees: the same numbers for every contestant. Node 0 is the root.

    Attributes:
        prior_logits: `[N, B, A]` float32.
        value: `[N, B]` float32.
        reward: `[N, B]` float32.
    """

    prior_logits: np.ndarray
    value: np.ndarray
    reward: np.ndarray


def random_answers(size: Size, seed: int) -> Answers:
    """Standard normal numbers."""
    generator = np.random.default_rng(seed)
    nodes = (size.simulations + 1, size.B)
    return Answers(*(generator.standard_normal(shape).astype(np.float32) for shape in ((*nodes, size.A), nodes, nodes)))


class FreeModel:
    """Gives prepared tensors, whatever it is asked: the search's own cost is all that is left.

    Args:
        answers: one Step per simulation, given out in turn, over and over.
        latent_size: numbers in a latent, which is the same tensor for all nodes.
    """

    def __init__(self, answers: Answers, latent_size: int, device: str = "cpu"):
        logits, values, rewards = (torch.from_numpy(array).to(device) for array in answers)
        latent = torch.zeros((values.shape[1], latent_size), device=device)
        discount = torch.full_like(latent[:, 0], DISCOUNT)
        self.root = RootNode(latent, logits[0], values[0])
        self._steps = [Step(latent, rewards[i], discount, logits[i], values[i]) for i in range(1, len(values))]
        self._next = 0

    def __call__(self, latent: nest.Nest, action: torch.Tensor) -> Step:
        step = self._steps[self._next]
        self._next = (self._next + 1) % len(self._steps)
        return step


def mlp_model(B: int, A: int, latent: int, hidden: int, seed: int) -> tuple[RootNode, Callable[..., Step]]:
    """Two hidden layers, which read the latent and the action and answer everything at once."""
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(latent + A, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, latent + A + 2),
    )
    identity, discount = torch.eye(A), torch.full((B,), DISCOUNT)

    def model(state: torch.Tensor, action: torch.Tensor) -> Step:
        out = network(torch.cat((state, identity[action]), dim=1))
        state, logits, reward, value = out.split((latent, A, 1, 1), dim=1)
        return Step(state, reward.squeeze(1), discount, logits, value.squeeze(1))

    return RootNode(torch.randn(B, latent), torch.randn(B, A), torch.randn(B)), model


class _LowPrecision(SimpleMCTSModel):
    """Dynamics and prediction in bfloat16; encoding, and what is made of the logits, in float32."""

    def lower(self) -> None:
        """Converts the weights."""
        self._dynamics.to(torch.bfloat16)
        self._prediction.to(torch.bfloat16)

    def encode(self, observation: nest.Nest) -> torch.Tensor:
        return super().encode(observation).to(torch.bfloat16)

    def step(self, latent: torch.Tensor, action: torch.Tensor) -> Dynamics:
        dynamics = super().step(latent, action)
        return dynamics._replace(reward_logits=dynamics.reward_logits.float())

    def predict(self, latent: torch.Tensor) -> Prediction:
        prediction = super().predict(latent)
        return prediction._replace(
            policy_logits=prediction.policy_logits.float(), value_logits=prediction.value_logits.float()
        )


def atari_model(
    B: int, A: int, seed: int, device: str = "cpu", low_precision: bool = False
) -> tuple[RootNode, Callable[..., Step]]:
    """The networks of muzero_atari.gin: 4 frames of 84 × 84, 64 channels, latents of 6 × 6, 81 and 21 bins."""
    torch.manual_seed(seed)
    transform = SignedHyperbolicTransform()
    model = (_LowPrecision if low_precision else SimpleMCTSModel)(
        TensorSpec((4, 84, 84), torch.uint8),
        BoundedTensorSpec((), torch.int64, 0, A - 1),
        encoding_network=ImageEncoding,
        dynamics_network=ImageDynamics,
        prediction_network=ImagePrediction,
        value_support=lambda: CategoricalSupport(-20, 20, 81, transform),
        reward_support=lambda: CategoricalSupport(-1, 1, 21, transform),
    )
    for parameter in model.parameters():
        # The heads begin at zero, and a search among equal actions has not the shape of a usual one.
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval().to(device)
    if isinstance(model, _LowPrecision):
        model.lower()
    functions = SearchModel(model, DISCOUNT)
    with torch.no_grad():
        frames = torch.randint(0, 256, (B, 4, 84, 84), dtype=torch.uint8).to(device)
        return functions.root(frames), functions.step


def bare_calls(root: RootNode, model: Callable[..., Step], simulations: int) -> None:
    """What a search asks of its model, one call after another, without the search."""
    state = root.latent
    action = torch.zeros(len(root.value), dtype=torch.int64, device=root.value.device)
    with torch.no_grad():
        for _ in range(simulations):
            state = model(state, action).latent


class Work(NamedTuple):
    """What a contestant did, to see that all did the same.

    Attributes:
        visits: `[B, A]`, simulations through each action of the root.
        mean_depth: edges from the root to where a simulation ended, mean over all simulations.
    """

    visits: np.ndarray
    mean_depth: float


def work_of(result: SearchResult) -> Work:
    """The work of a search of ours."""
    return Work(result.visits.cpu().numpy(), mean_depth(torch.as_tensor(result.tree.parents).cpu().numpy()))


def mean_depth(parents: np.ndarray) -> float:
    """The mean depth of all nodes but the root, from their parents `[B, N]`; -1 for an empty slot.

    A simulation makes one node at its end, unless an end of the game or a limit of depth stops it before.
    """
    depths = np.zeros_like(parents)
    rows = np.arange(len(parents))
    for node in range(1, parents.shape[1]):
        depths[:, node] = depths[rows, parents[:, node]] + 1
    there = parents[:, 1:] >= 0
    return float(depths[:, 1:][there].mean())
