"""A true simulator in the place of a learned model's dynamics, as `MCTSAlgorithm.search_model`."""

from collections.abc import Callable
from typing import Literal

import gin
import torch

from alfish import nest, specs
from alfish.environments.simulator import Simulator, SimulatorStep
from alfish.environments.simulators.tabular import TabularSimulator
from alfish.mcts.records import RootNode, Step
from alfish.models.mcts_model import MCTSModel
from alfish.models.random_rollout import RandomRollout
from alfish.models.simulator_model import SimulatorLatent, SimulatorModel, resample_future, split_futures

StateOf = Callable[[nest.Nest], nest.Nest]
"""From an environment's observation `[B, ...]` to the simulator's state `[B, ...]`."""


@gin.configurable
class SimulatorSearchModel:
    """Searches the true rules, with a learned model's policy and value at the leaves: AlphaZero's search.

    Silver et al. 2018, "A general reinforcement learning algorithm that masters chess, shogi, and Go through
    self-play". Of the learned model only `encode` and `predict` are used.

    Each row is one future (`SimulatorModel`), drawn for every search from torch's global generator: futures differ from
    row to row and from move to move, have nothing to do with what the real environment draws, and a run's seed repeats
    them. Where the rules are random, one future is not enough: `HindsightPolicy` and `OpenLoopPolicy` take from here
    what they need to plan in several.

    The search runs where the observations are, the simulator where its states are. If these are two devices, what it
    reads and answers is copied at every step.

    Args:
        model: the learned model, in evaluation mode.
        discount: γ per step, in (0, 1].
        simulator: makes the rules, e.g. `@CartPole` or `@make_tabular_simulator`.
        state_of: the state in which an observation was made, a function of all that decides what can follow; None if
            the observation is the state, as on the frozen lake. The simulator's `observation` is its inverse.
        leaves: what gives the value of a state: `"model"`, which also gives the priors; `"zero"`, or a RandomRollout,
            with equal priors.

    Attributes:
        leaf_value: the value `[B]` of latents by rollouts, for searches that ask it of leaves only; else None.

    Raises:
        ValueError: an argument cannot be used, or the model and the simulator have different actions.
    """

    def __init__(
        self,
        model: MCTSModel,
        discount: float,
        simulator: Callable[[], Simulator] = gin.REQUIRED,
        state_of: StateOf | None = None,
        leaves: Literal["model", "zero"] | RandomRollout = "model",
    ):
        rules = simulator()
        name = f"SimulatorSearchModel.simulator is a {type(rules).__name__}"
        if hasattr(rules, "release"):
            raise ValueError(
                f"{name}, whose states are copies of environments; expected one whose states follow from observations;"
                " for this one write the loop yourself, with a SimulatorModel"
            )
        if rules.num_actions != model.num_actions:
            raise ValueError(f"{name} with {rules.num_actions} actions; expected {model.num_actions}, as the model has")
        if leaves not in ("model", "zero") and not isinstance(leaves, RandomRollout):
            raise ValueError(f'SimulatorSearchModel.leaves is {leaves!r}; expected "model", "zero" or a RandomRollout')
        self._model = model
        self._reads_observations = leaves == "model"
        self._rules, self._state_of = rules, state_of
        self._example = rules.initial_state(1)
        self._simulator = _Elsewhere(rules, nest.leaves(self._example)[0].device)
        evaluate = self._evaluate if self._reads_observations else None
        rollouts = leaves if isinstance(leaves, RandomRollout) else None
        self._searched = SimulatorModel(self._simulator, discount, evaluate, rollouts)
        self._drawn = self._searched if rollouts is None else SimulatorModel(self._simulator, discount)
        self.leaf_value = None if rollouts is None else self._searched.value

    @property
    def trees_can_go_on(self) -> bool:
        """False if the rules are random: what has happened is not what the tree's future was."""
        return self._simulator.num_random == 0

    def check_observation(self, observation_spec: nest.Nest) -> None:
        """Raises a ValueError if observations of this kind cannot be the simulator's states."""
        if self._state_of is None and isinstance(self._rules, TabularSimulator):
            self._rules.check_state_spec(observation_spec)

    def root(self, observation: nest.Nest, legal_mask: torch.Tensor | None = None) -> RootNode:
        """The root of each observation `[B, ...]`, in a new future.

        A row in which the game has ended has equal logits, and nothing follows from it.

        Args:
            observation: nest of `[B, ...]`.
            legal_mask: `[B, A]` bool, True for legal actions, beside what the simulator says; None for all.

        Raises:
            ValueError: `state_of` does not give states of the simulator, or its observations are not of the kind that
                the model sees.
        """
        state = observation if self._state_of is None else self._state_of(observation)
        maker = "the observation, taken as the state," if self._state_of is None else "what state_of returned"
        _check_like(state, self._example, maker, "the simulator's states; check SimulatorSearchModel.state_of")
        if self._reads_observations:
            seen = self._simulator.observation(state)
            _check_like(
                seen, observation, "the simulator's observation", "the model's; an observation_transform does not fit"
            )
        root = self._searched.root(state, seed=int(torch.randint(1 << 62, ())))
        logits = root.prior_logits
        if legal_mask is not None:
            logits = logits.masked_fill(~legal_mask, -torch.inf)
        return root._replace(prior_logits=logits.masked_fill(root.latent.over.unsqueeze(1), 0.0))

    def step(self, latent: SimulatorLatent, action: torch.Tensor) -> Step:
        """What follows from actions `[B]` in the futures of latents `[B, ...]`: see `SimulatorModel.step`."""
        return self._searched.step(latent, action)

    def draw(self, latent: SimulatorLatent, action: torch.Tensor) -> Step:
        """The same without the values, if `leaf_value` gives them."""
        return self._drawn.step(latent, action)

    def split(self, latent: SimulatorLatent, num_futures: int) -> SimulatorLatent:
        """See `split_futures`."""
        return split_futures(latent, num_futures)

    def resample(self, latent: SimulatorLatent, simulation: int) -> SimulatorLatent:
        """See `resample_future`."""
        return resample_future(latent, simulation)

    def _evaluate(self, observation: nest.Nest) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = self._model.predict(self._model.encode(observation))
        return prediction.policy_logits, self._model.value_of(prediction.value_logits)


class _Elsewhere:
    """A simulator that is asked from another device than its own."""

    def __init__(self, simulator: Simulator, device: torch.device):
        self.num_actions = simulator.num_actions
        self.num_random = simulator.num_random
        self._simulator = simulator
        self._device = device

    def initial_state(self, num: int, seed: int = 0) -> nest.Nest:
        return self._simulator.initial_state(num, seed)

    def step(self, state: nest.Nest, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        device = action.device
        answer = self._simulator.step(_moved(state, self._device), action.to(self._device), random.to(self._device))
        return answer if device == self._device else _moved(answer, device)

    def legal_mask(self, state: nest.Nest) -> torch.Tensor:
        device = nest.leaves(state)[0].device
        return self._simulator.legal_mask(_moved(state, self._device)).to(device)

    def observation(self, state: nest.Nest) -> nest.Nest:
        device = nest.leaves(state)[0].device
        return _moved(self._simulator.observation(_moved(state, self._device)), device)


def _moved(tensors: nest.Nest, device: torch.device) -> nest.Nest:
    return nest.map_structure(lambda leaf: leaf.to(device), tensors)


def _check_like(found: nest.Nest, expected: nest.Nest, what: str, whose: str) -> None:
    """Checks structure, shapes without the batch, and dtypes."""
    kinds = [specs.spec_of(tensors, outer_dims=1) for tensors in (found, expected)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{what} is {kinds[0]} in each row; expected {kinds[1]}, like {whose}")
