"""Values by playing at random."""

import dataclasses

import gin
import torch

from alfish import nest
from alfish.checks import check_at_least
from alfish.environments.simulator import Simulator, release_states
from alfish.ops.counter_random import mix, uniform

# The rollouts' keys must be none of the keys that `mix` makes of the actions on a path.
_STREAM = 0x526F6C6C


@gin.configurable
@dataclasses.dataclass(frozen=True)
class RandomRollout:
    """The mean return of games that go on with uniform legal actions.

    Args:
        num_steps: steps per game, at least 1. What a longer game would still give counts as 0.
        num_rollouts: games per state, at least 1; all are played at once, in `B · num_rollouts` rows.

    Raises:
        ValueError: a number is below 1.
    """

    num_steps: int
    num_rollouts: int = 1

    def __post_init__(self) -> None:
        check_at_least("RandomRollout.num_steps", self.num_steps, 1)
        check_at_least("RandomRollout.num_rollouts", self.num_rollouts, 1)

    def __call__(
        self, simulator: Simulator, state: nest.Nest, over: torch.Tensor, key: torch.Tensor, discount: float
    ) -> torch.Tensor:
        """Values of states.

        Args:
            simulator: the rules.
            state: nest of `[B, ...]`.
            over: `[B]` bool, True where the game has ended.
            key: `[B]` int64, of the random numbers: the actions' and the simulator's own. They are independent of those
                of a search with the same key, so a rollout does not know the future that the search has seen.
            discount: γ per step. It changes its sign where the player changes.

        Returns:
            `[B]` float32, in the view of who moves next; 0 where the game has ended.
        """
        num = self.num_rollouts
        rows = nest.map_structure(lambda leaf: leaf.repeat_interleave(num, dim=0), state)
        numbers = torch.arange(num, device=key.device).repeat(len(key))
        keys = mix(mix(key, _STREAM).repeat_interleave(num), numbers)
        goes_on = ~over.repeat_interleave(num)
        factor = goes_on.float()
        total = torch.zeros_like(factor)
        legal_mask = simulator.legal_mask(rows)
        on_host = factor.device.type == "cpu"
        made: nest.Nest | None = None
        for time in range(self.num_steps):
            # On another device the question whether all have ended would wait for it.
            if on_host and not goes_on.any():
                break
            random = uniform(keys, time, 1 + simulator.num_random)
            step = simulator.step(rows, uniform_legal_action(legal_mask, random[:, 0]), random[:, 1:])
            if made is not None:
                release_states(simulator, made)
            rows, legal_mask = step.state, step.legal_mask
            made = rows
            # What a simulator answers after the end may be anything, NaN too.
            total = total + torch.where(goes_on, factor * step.reward, 0.0)
            goes_on = goes_on & (step.discount != 0)
            factor = torch.where(goes_on, factor * (discount * step.discount), 0.0)
        if made is not None:
            release_states(simulator, made)
        return total.view(-1, num).mean(1)


def uniform_legal_action(legal_mask: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    """One legal action for each row, all of them equally likely.

    Args:
        legal_mask: `[B, A]` bool.
        random: `[B]` in [0, 1).

    Returns:
        `[B]` int64; 0 in rows without a legal action.
    """
    rank = legal_mask.cumsum(1)
    num_legal = rank[:, -1:]
    # A float32 below 1 times a count is never rounded up to the count. The minimum is for rows without a legal action.
    chosen = torch.minimum((random.unsqueeze(1) * num_legal).long(), num_legal - 1)
    return (rank <= chosen).sum(1)
