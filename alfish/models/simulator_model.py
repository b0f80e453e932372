"""A true simulator as the two functions that a tree search calls."""

from collections.abc import Callable
from typing import NamedTuple

import gin
import torch

from alfish import nest
from alfish.environments.simulator import Simulator, check_simulator_step
from alfish.mcts.records import RootNode, Step
from alfish.models.random_rollout import RandomRollout
from alfish.ops.counter_random import make_keys, mix, uniform

Evaluate = Callable[[nest.Nest], tuple[torch.Tensor, torch.Tensor]]
"""From an observation `[B, ...]` to logits `[B, A]` and the value `[B]` in the view of who moves next."""


# What is hashed with a row's key, so that these streams are none of the random numbers', which count from 0.
_PATHS = 0x50617468
_FUTURES = 0x46757475
_SIMULATIONS = 0x53696D75


class SimulatorLatent(NamedTuple):
    """A state of the simulator, and which future it is in.

    Attributes:
        state: nest of `[B, ...]`, of the simulator.
        key: `[B]` int64, of the row's future.
        depth: `[B]` int64, steps since the root.
        path: `[B]` int64, a hash of the key and the actions since the root: another one at every node.
        over: `[B]` bool, True where the game has ended.
    """

    state: nest.Nest
    key: torch.Tensor
    depth: torch.Tensor
    path: torch.Tensor
    over: torch.Tensor


@gin.configurable
class SimulatorModel:
    """Lets a search try actions in a true simulator.

    Each row is one *determinised future*: the random numbers of a step are a function of the row's key and the depth
    (`ops/counter_random.py`), whatever the actions before it. So a search sees deterministic rules, two rows with
    different keys see independent futures, and the same keys give the same tree on every device. Planning for one known
    future is optimistic where the rules are random: `split` makes the futures for `mcts/hindsight.py`, `resample` those
    for `mcts/open_loop.py`; see docs/simulators.md.

    Illegal actions have the logit -inf at every node. After its end a game stays where it is, with reward 0.

    Args:
        simulator: the rules.
        discount: γ per step, in (0, 1].
        evaluate: gives the prior and the value of a state, as a network does; None for equal logits and the value 0.
        rollouts: gives the value of a state; None for what `evaluate` says.

    Raises:
        ValueError: the discount is out of its range, or both `evaluate` and `rollouts` would give the value.
    """

    def __init__(
        self,
        simulator: Simulator,
        discount: float,
        evaluate: Evaluate | None = None,
        rollouts: RandomRollout | None = None,
    ):
        if not 0 < discount <= 1:
            raise ValueError(f"SimulatorModel.discount is {discount!r}; expected a number in (0, 1]")
        if evaluate is not None and rollouts is not None:
            raise ValueError("SimulatorModel has both evaluate and rollouts, and each gives the value; use one of them")
        self._simulator = simulator
        self._discount = discount
        self._evaluate = evaluate
        self._rollouts = rollouts

    def root(self, state: nest.Nest, seed: int = 0, keys: torch.Tensor | None = None) -> RootNode:
        """The roots of searches from states `[B, ...]` in which the game goes on.

        Args:
            state: nest of `[B, ...]`, of the simulator.
            seed: gives each row a key of its own. Use another one for every move: with the same one the future that was
                planned for repeats itself.
            keys: `[B]` int64 instead of the seed's. Rows with equal keys share their future.

        Raises:
            ValueError: `keys` does not fit.
        """
        legal_mask = self._simulator.legal_mask(state)
        num, device = legal_mask.shape[0], legal_mask.device
        if keys is None:
            keys = make_keys(seed, num, device)
        elif tuple(keys.shape) != (num,) or keys.dtype != torch.int64:
            raise ValueError(f"keys is {keys.dtype} {list(keys.shape)}; expected torch.int64 [{num}], one per state")
        depth = torch.zeros(num, dtype=torch.int64, device=device)
        latent = _with_keys(SimulatorLatent(state, keys, depth, keys, ~legal_mask.any(1)), keys)
        logits, value = self._predict(latent, legal_mask)
        return RootNode(latent, logits.masked_fill(~legal_mask, -torch.inf), value)

    def split(self, latent: SimulatorLatent, num_futures: int) -> SimulatorLatent:
        """See `split_futures`."""
        return split_futures(latent, num_futures)

    def resample(self, latent: SimulatorLatent, simulation: int) -> SimulatorLatent:
        """See `resample_future`."""
        return resample_future(latent, simulation)

    def value(self, latent: SimulatorLatent) -> torch.Tensor:
        """The value `[B]` of latents, in the view of who moves next."""
        return self._predict(latent, self._simulator.legal_mask(latent.state))[1]

    def step(self, latent: SimulatorLatent, action: torch.Tensor) -> Step:
        """What follows from actions `[B]` in latents `[B, ...]`.

        The discount is γ, -γ where the other player moves next, or 0 where the game has ended.
        """
        simulator, over = self._simulator, latent.over
        random = uniform(latent.key, latent.depth, simulator.num_random)
        answer = simulator.step(latent.state, action, random)
        check_simulator_step(answer, latent.state, action, simulator.num_actions)
        after = SimulatorLatent(
            state=nest.map_structure(lambda old, new: _where(over, old, new), latent.state, answer.state),
            key=latent.key,
            depth=latent.depth + 1,
            path=mix(latent.path, action),
            over=over | (answer.discount == 0),
        )
        logits, value = self._predict(after, answer.legal_mask)
        return Step(
            latent=after,
            reward=answer.reward.masked_fill(over, 0.0),
            discount=(answer.discount * self._discount).masked_fill(after.over, 0.0),
            prior_logits=logits,
            value=value,
        )

    def _predict(self, latent: SimulatorLatent, legal_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Masked logits `[B, A]` and values `[B]`; zeros where the game has ended."""
        over = latent.over
        if self._evaluate is not None:
            logits, value = self._evaluate(self._simulator.observation(latent.state))
            value = value.masked_fill(over, 0.0)
        else:
            logits = torch.zeros(legal_mask.shape, device=legal_mask.device)
            if self._rollouts is None:
                value = logits.new_zeros(len(logits))
            else:
                value = self._rollouts(self._simulator, latent.state, over, latent.path, self._discount)
        logits = logits.masked_fill(~legal_mask, -torch.inf).masked_fill(over.unsqueeze(1), 0.0)
        return logits, value


def split_futures(latent: SimulatorLatent, num_futures: int) -> SimulatorLatent:
    """Each row in H futures that are independent of each other and of the row's own: `[B, ...]` to `[B · H, ...]`.

    Row b becomes the rows b · H … b · H + H − 1.
    """
    repeated = nest.map_structure(lambda leaf: leaf.repeat_interleave(num_futures, dim=0), latent)
    numbers = torch.arange(num_futures, device=latent.key.device).repeat(len(latent.key))
    return _with_keys(repeated, mix(mix(repeated.key, _FUTURES), numbers))


def resample_future(latent: SimulatorLatent, simulation: int) -> SimulatorLatent:
    """The same states `[B, ...]`, each in another future for each number of a simulation."""
    return _with_keys(latent, mix(mix(latent.key, _SIMULATIONS), simulation))


def _with_keys(latent: SimulatorLatent, keys: torch.Tensor) -> SimulatorLatent:
    return latent._replace(key=keys, path=mix(keys, _PATHS))


def _where(over: torch.Tensor, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return torch.where(over.view(-1, *(1,) * (new.dim() - 1)), old, new)
