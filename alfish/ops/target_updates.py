"""Target networks: slow copies of networks that learn."""

import gin
import torch

from alfish.checks import check_at_least, check_made


@torch.no_grad()
def update_target(target: torch.nn.Module, source: torch.nn.Module, tau: float = 1.0) -> None:
    """Moves a target network towards its source, in place: target <- (1 - tau) * target + tau * source.

    Mnih et al., "Human-level control through deep reinforcement learning" (2015), with tau = 1 and Lillicrap et al.,
    "Continuous control with deep reinforcement learning" (2016), section 3, with a small one. Buffers (running means,
    counters) are copied whatever tau is: a mean of counters means nothing. With tau = 1 both modules are equal bit for
    bit afterwards.

    Args:
        target: the copy; written to.
        source: the module that learns.
        tau: in [0, 1].

    Raises:
        ValueError: the modules do not have the same parameters and buffers.
    """
    to_parameters, from_parameters = _pairs(dict(target.named_parameters()), dict(source.named_parameters()))
    to_buffers, from_buffers = _pairs(dict(target.named_buffers()), dict(source.named_buffers()))
    if tau == 1.0:
        # A copy, and not an interpolation: a target that is not finite must not survive it.
        to_buffers, from_buffers = to_parameters + to_buffers, from_parameters + from_buffers
    elif to_parameters:
        torch._foreach_lerp_(to_parameters, from_parameters, tau)
    if to_buffers:
        torch._foreach_copy_(to_buffers, from_buffers)


@gin.configurable
class TargetUpdate:
    """When and by how much a target network follows. Stateless: it acts on the number of updates.

    Args:
        tau: how much of the source is taken over, in (0, 1]; 1 copies it.
        period: in updates of the source, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, tau: float = 1.0, period: int = 1):
        if not 0.0 < tau <= 1.0:
            raise ValueError(f"TargetUpdate.tau is {tau}; expected a number in (0, 1]")
        check_at_least("TargetUpdate.period", period, 1)
        self._tau = tau
        self._period = period

    def __call__(self, target: torch.nn.Module, source: torch.nn.Module, updates: int) -> bool:
        """Updates the target if `updates`, the number of gradient steps done, is a multiple of the period.

        Returns:
            True if it did.
        """
        due = updates % self._period == 0
        if due:
            update_target(target, source, self._tau)
        return due


def check_target_update(name: str, value: object) -> None:
    """Raises a ValueError if a setting, `name`, is no TargetUpdate."""
    check_made(name, value, isinstance(value, TargetUpdate), "@TargetUpdate()")


def _pairs(
    target: dict[str, torch.Tensor], source: dict[str, torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    if target.keys() != source.keys():
        raise ValueError(
            f"the target network has {sorted(target.keys() - source.keys())} that its source lacks, and lacks "
            f"{sorted(source.keys() - target.keys())}; build both with the same constructor and arguments"
        )
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)} in the target network and {tuple(source[name].shape)} in "
                "its source; build both with the same constructor and arguments"
            )
    return list(target.values()), list(source.values())
