"""Masks of legal actions, which an environment gives as a part of its observation."""

import torch

from alfish import nest
from alfish.data_structures import TimeStep
from alfish.ops.masking import mask_logits
from alfish.specs import TensorSpec, is_choice


class LegalMask:
    """Finds the legal actions of rows; with the key None all actions are legal, and nothing is read.

    A mask is stored with its observation, so acting, targets and training see the same one.

    Args:
        key: of the entry of a dict observation, of shape `(A,)`, that is nonzero for legal actions; None for no mask.
        observation_spec: nest of TensorSpec.
        action_spec: one discrete choice of A.
        owner: the name of the algorithm, for messages.

    Raises:
        ValueError: the observation has no such entry, its shape is not `(A,)`, or the action is not one discrete
            choice.
    """

    def __init__(self, key: str | None, observation_spec: nest.Nest, action_spec: nest.Nest, owner: str):
        self._key = key
        self._owner = owner
        if key is None:
            return
        setting = f"{owner}.legal_mask_key is {key!r}"
        if not (isinstance(observation_spec, dict) and key in observation_spec):
            raise ValueError(
                f"{setting}; expected a key of the observation, {observation_spec}: name one, or if it sees the "
                f"latents of an Agent, set Agent.legal_mask_key = {key!r} too"
            )
        if not is_choice(action_spec):
            raise ValueError(
                f"{setting}: only one discrete choice can be masked, and the action is {action_spec}; flatten the "
                f"action to one choice (a Discrete space) in the environment, or set {owner}.legal_mask_key = None"
            )
        mask_spec, expected = observation_spec[key], (action_spec.num_values,)
        if not isinstance(mask_spec, TensorSpec) or mask_spec.shape != expected:
            raise ValueError(
                f"{setting}, whose spec is {mask_spec}; expected the shape {expected}, an entry for each action of the "
                "environment, which no observation transform may have stacked"
            )

    def read(self, time_step: TimeStep) -> torch.Tensor | None:
        """`[..., A]` bool, True for legal actions, of rows with any leading axes; None if there is no mask.

        A LAST row, whose action is ignored, need not allow any; all are legal then. Where it does, as at a time limit,
        its mask holds: the value of the best action there is not that of an illegal one, which nothing is learned of.
        """
        if self._key is None:
            return None
        mask = time_step.observation[self._key] != 0
        return mask | (time_step.is_last() & ~mask.any(dim=-1)).unsqueeze(-1)

    def check(self, mask: torch.Tensor | None, env_id: torch.Tensor | None = None) -> None:
        """Checks, while acting, that each row has a legal action; on a GPU this waits for the mask.

        Args:
            mask: what `read` returned, `[B, A]`.
            env_id: `[B]`, numbers of the environments; None for 0 … B-1.

        Raises:
            ValueError: a row has none; the environment is named.
        """
        if mask is None:
            return
        playable = mask.any(dim=-1)
        if bool(playable.all()):
            return
        row = int(playable.logical_not().nonzero()[0, 0])
        environment = row if env_id is None else int(env_id[row])
        raise ValueError(
            f"environment {environment}: the mask observation[{self._key!r}] allows no action; expected at least one "
            "legal action in each row that does not end its episode: end the episode there, or correct the mask in the "
            f"environment, or set {self._owner}.legal_mask_key = None"
        )

    def checked(self, time_step: TimeStep) -> torch.Tensor | None:
        """`read` and `check` in one, for the hooks that act on rows `[B]`."""
        mask = self.read(time_step)
        self.check(mask, time_step.env_id)
        return mask


def mask_if_any(logits: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Logits `[..., A]` that give illegal actions the probability 0 (`mask_logits`); as they are without a mask."""
    return logits if mask is None else mask_logits(logits, mask)
