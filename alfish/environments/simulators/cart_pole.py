"""The pole on a cart."""

import math

import gin
import torch

from alfish.environments.simulator import SimulatorStep

_GRAVITY = 9.8  # m/s²
_CART_MASS = 1.0  # kg
_POLE_MASS = 0.1  # kg
_TOTAL_MASS = _CART_MASS + _POLE_MASS
_HALF_LENGTH = 0.5  # of the pole, m
_FORCE = 10.0  # N
_SECONDS = 0.02  # per step
_LARGEST_POSITION = 2.4  # m
_LARGEST_ANGLE = math.radians(12.0)
_LARGEST_START = 0.05


@gin.configurable
class CartPole:
    """CartPole-v1 of Gymnasium without its time limit: deterministic physics, reward 1 for each step.

    Barto, Sutton, Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control problems",
    https://doi.org/10.1109/TSMC.1983.6313077; integrated by Euler's rule. The game ends when the cart is more than
    2.4 m off or the pole more than 12° from upright; that step has reward 1, too.

    A state, and an observation, is `[B, 4]` float32: position (m), velocity (m/s), angle (rad), angular velocity
    (rad/s). Gymnasium keeps it in float64. Action 0 pushes to the left, 1 to the right. `TimeLimited` adds the limit.

    Args:
        device: of the states.
    """

    num_actions = 2
    num_random = 0

    def __init__(self, device: torch.device | str = "cpu"):
        self._device = device

    def initial_state(self, num: int, seed: int = 0) -> torch.Tensor:
        """Each number uniform in ±0.05. The first rows do not depend on `num`."""
        start = torch.rand(num, 4, generator=torch.Generator().manual_seed(seed))
        return ((2.0 * start - 1.0) * _LARGEST_START).to(self._device)

    def step(self, state: torch.Tensor, action: torch.Tensor, random: torch.Tensor) -> SimulatorStep:
        """See Simulator."""
        position, velocity, angle, spin = state.unbind(1)
        sine, cosine = angle.sin(), angle.cos()
        force = action * (2.0 * _FORCE) - _FORCE
        moment = _POLE_MASS * _HALF_LENGTH
        push = (force + moment * spin.square() * sine) / _TOTAL_MASS
        inertia = _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * cosine.square() / _TOTAL_MASS)
        angular_acceleration = (_GRAVITY * sine - cosine * push) / inertia
        acceleration = push - moment * angular_acceleration * cosine / _TOTAL_MASS
        rate = torch.stack((velocity, acceleration, spin, angular_acceleration), dim=1)
        after = state + _SECONDS * rate
        over = (after[:, 0].abs() > _LARGEST_POSITION) | (after[:, 2].abs() > _LARGEST_ANGLE)
        return SimulatorStep(after, torch.ones_like(position), (~over).float(), self.legal_mask(after))

    def legal_mask(self, state: torch.Tensor) -> torch.Tensor:
        """Both actions, always."""
        return torch.ones(len(state), 2, dtype=torch.bool, device=state.device)

    def observation(self, state: torch.Tensor) -> torch.Tensor:
        """The state."""
        return state
