"""Made-up and small MuZero models for tests."""

import functools

import torch

from alfish.algorithms.mcts_algorithm import MCTSAlgorithm, SearchInfo
from alfish.algorithms.muzero_algorithm import MuzeroAlgorithm
from alfish.algorithms.muzero_representation import MuzeroRepresentationImpl
from alfish.data_structures import BatchInfo, StepType, TimeStep
from alfish.models.mcts_model import Dynamics, MCTSModel, Prediction
from alfish.models.simple_mcts_model import SimpleMCTSModel
from alfish.networks.muzero_vector_networks import VectorDynamics, VectorEncoding, VectorPrediction
from alfish.ops.value_transforms import CategoricalSupport, SignedHyperbolicTransform
from alfish.specs import BoundedTensorSpec, TensorSpec

OBSERVATION = TensorSpec((4,))
ACTION = BoundedTensorSpec((), torch.int64, 0, 1)


class PlainModel(MCTSModel):
    """A model that a test can compute by hand, with two parameters of value 1.

    The latent `[B, 1]` is `scale * observation`; each step multiplies it by `growth`; reward and value are the latent
    itself with squared errors as losses; the game-over logit is 0.
    """

    def __init__(
        self, observation_spec=None, action_spec=None, predicts_reward=True, predicts_game_over=False, logits=(0.0, 0.0)
    ):
        super().__init__()
        self.num_actions = len(logits)
        self.predicts_reward = predicts_reward
        self.predicts_game_over = predicts_game_over
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.growth = torch.nn.Parameter(torch.ones(()))
        self.logits = torch.tensor(logits)

    def encode(self, observation):
        return self.scale * observation

    def step(self, latent, action):
        following = self.growth * latent
        return Dynamics(following, following if self.predicts_reward else ())

    def predict(self, latent):
        game_over = torch.zeros(len(latent)) if self.predicts_game_over else ()
        return Prediction(self.logits.expand(len(latent), -1), latent, game_over)

    def value_of(self, value_logits):
        return value_logits.squeeze(-1)

    reward_of = value_of

    def value_loss(self, value_logits, target):
        return (value_logits.squeeze(-1) - target).square()

    reward_loss = value_loss


def small_support(size=5.0, num_bins=11):
    return functools.partial(CategoricalSupport, -size, size, num_bins, SignedHyperbolicTransform())


def small_model(observation_spec=OBSERVATION, action_spec=ACTION, **options):
    """A SimpleMCTSModel of vector networks."""
    parts = {
        "encoding_network": functools.partial(VectorEncoding, latent_size=8, hidden_sizes=(16,)),
        "dynamics_network": functools.partial(VectorDynamics, hidden_sizes=(16,)),
        "prediction_network": functools.partial(VectorPrediction, hidden_sizes=(16,)),
        "value_support": small_support(),
        "reward_support": small_support(2.0, 9),
    }
    return SimpleMCTSModel(observation_spec, action_spec, **(parts | options))


def small_muzero(observation_spec=OBSERVATION, action_spec=ACTION, model=small_model, policy=None, **options):
    """A MuzeroAlgorithm of a small model."""
    settings = {"num_unroll_steps": 3, "td_steps": 2, "discount": 0.9} | options
    return MuzeroAlgorithm(
        observation_spec,
        action_spec,
        functools.partial(MuzeroRepresentationImpl, model=model, **settings),
        functools.partial(MCTSAlgorithm, **({"num_simulations": 4} | (policy or {}))),
    )


def random_block(algorithm, batch_size=16, length=6, seed=0):
    """Random rows `[B, L]` in which episodes of about five rows end either way, and what a search left with them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, length)
    spec = algorithm.action_spec
    is_last = torch.rand(shape, generator=generator) < 0.2
    is_first = torch.zeros(shape, dtype=torch.bool)
    is_first[:, 1:] = is_last[:, :-1]
    action = torch.randint(spec.minimum, spec.maximum + 1, shape, generator=generator)
    rows = TimeStep(
        step_type=torch.where(is_last, StepType.LAST, torch.where(is_first, StepType.FIRST, StepType.MID)).byte(),
        reward=torch.where(is_first, 0.0, torch.randn(shape, generator=generator)),
        discount=1.0 - (is_last & (torch.rand(shape, generator=generator) < 0.5)).float(),
        observation=torch.randn((batch_size, 1, *algorithm.observation_spec.shape), generator=generator),
        prev_action=torch.where(is_first, 0, action),
        env_id=torch.zeros(shape, dtype=torch.int32),
    )
    policy = torch.softmax(torch.randn((*shape, spec.num_values), generator=generator), dim=-1)
    info = SearchInfo(policy, torch.randn(shape, generator=generator))
    return rows, info, BatchInfo(action, torch.arange(length).expand(shape))
