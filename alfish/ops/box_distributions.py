"""Distributions of floating-point actions on the whole line: a diagonal normal, and one squashed into its bounds.

Two of the families of `distributions.py`, where their methods are described. `action` stands for the shape of one
action, D for the number of its elements.
"""

import math

import gin
import torch

from alfish.specs import BoundedTensorSpec

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_LOG_TWO = math.log(2.0)
_LARGEST_LOG_STD = 20.0
_NUM_NODES = 24
_LARGEST_NODE = 4.5


def as_vector(action: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`[..., *shape]` -> `[..., D]`."""
    if len(shape) == 1:
        return action
    return action.flatten(-len(shape)) if shape else action.unsqueeze(-1)


def as_action(vector: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`[..., D]` -> `[..., *shape]`, the inverse of `as_vector`."""
    if len(shape) == 1:
        return vector
    return vector.unflatten(-1, shape) if shape else vector.squeeze(-1)


def check_bounded(action_spec: BoundedTensorSpec, family: str, setting: str = "box_distribution") -> None:
    """Checks that a family that fills a box can be one of such actions.

    Args:
        action_spec: a floating-point spec.
        family: the kind of distribution, for the message.
        setting: what chooses it, for the message.

    Raises:
        ValueError: an element has no bound.
    """
    if not all(bool(bound.isfinite().all()) for bound in action_spec.bounds()):
        raise ValueError(
            f"the action spec {action_spec} has an element without bounds, which a {family} distribution cannot fill; "
            f'give it finite bounds, or use {setting} = "normal"'
        )


class BoxStretch(torch.nn.Module):
    """Stretches [-1, 1] to the bounds of a spec, for each element of the action.

    Args:
        action_spec: a floating-point spec with finite bounds.
        family: the kind of distribution that needs them, for the message.

    Raises:
        ValueError: an element has no bound.
    """

    minimum: torch.Tensor
    maximum: torch.Tensor
    middle: torch.Tensor
    half_width: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec, family: str):
        super().__init__()
        check_bounded(action_spec, family)
        minimum, maximum = (bound.expand(action_spec.shape) for bound in action_spec.bounds())
        middle = 0.5 * minimum + 0.5 * maximum
        # Around 0 rounding cannot leave the bounds.
        self._is_symmetric = bool((middle == 0.0).all())
        self._dtype = action_spec.dtype
        for name, bound in (("minimum", minimum), ("maximum", maximum)):
            self.register_buffer(name, bound.clone(), persistent=False)
        self.register_buffer("middle", middle, persistent=False)
        self.register_buffer("half_width", 0.5 * maximum - 0.5 * minimum, persistent=False)

    def forward(self, unit: torch.Tensor) -> torch.Tensor:
        """`[..., *shape]` in [-1, 1] -> the action, in the dtype of the spec; differentiable."""
        unit = unit.to(self._dtype)
        if self._is_symmetric:
            return unit * self.half_width
        return torch.clamp(torch.addcmul(self.middle, self.half_width, unit), self.minimum, self.maximum)


class DiagonalNormal(torch.nn.Module):
    """Independent normals, one for each of the D elements of the action.

    The parameters are D means and then D logarithms of standard deviations, used within [-20, 20]: further out the
    log probabilities would be infinite; there is no gradient out there. An action is a sample clipped to the bounds of
    the spec; the log probability and the entropy are those of the sample before it is clipped, in the action's units.

    Args:
        action_spec: a floating-point spec, bounded or not.
    """

    has_rsample = True
    minimum: torch.Tensor
    maximum: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec):
        super().__init__()
        self.num_dims = math.prod(action_spec.shape)
        self.num_parameters = 2 * self.num_dims
        self.log_std_indices = tuple(range(self.num_dims, self.num_parameters))
        self._shape = action_spec.shape
        self._dtype = action_spec.dtype
        minimum, maximum = action_spec.bounds()
        self.clips = bool(minimum.isfinite().any() or maximum.isfinite().any())
        self.register_buffer("minimum", minimum, persistent=False)
        self.register_buffer("maximum", maximum, persistent=False)

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        mean, log_std = self._mean_and_log_std(parameters)
        noise = torch.randn_like(mean)
        log_prob = -(0.5 * noise.square() + log_std + _HALF_LOG_TWO_PI).sum(-1)
        return as_action(torch.addcmul(mean, log_std.exp(), noise).to(self._dtype), self._shape), log_prob

    def rsample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution: mean + std * noise. Where `clip` moves a sample, its action has no gradient."""
        return self.sample(parameters)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return as_action(parameters[..., : self.num_dims].to(self._dtype), self._shape)

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution."""
        return torch.clamp(sample, self.minimum, self.maximum) if self.clips else sample

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        mean, log_std = self._mean_and_log_std(parameters)
        noise = (as_vector(sample, self._shape).to(mean.dtype) - mean) * torch.exp(-log_std)
        log_prob = -(0.5 * noise.square() + log_std + _HALF_LOG_TWO_PI).sum(-1)
        return log_prob, (log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(-1)

    def _mean_and_log_std(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean, log_std.clamp(-_LARGEST_LOG_STD, _LARGEST_LOG_STD)


@gin.configurable
class SquashedNormal(torch.nn.Module):
    """Independent normals u, squashed by tanh and stretched to the bounds, for each of the D elements of the action.

        action = middle + half_width * tanh(u),    u ~ Normal(mean, std)

    Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018b, https://arxiv.org/abs/1812.05905),
    appendix C. The parameters are D means and then D logarithms of standard deviations, used within
    [`min_log_std`, `max_log_std`], without a gradient further out.

    A *sample* is u; `clip` makes the action of it, and `clips` is True. So nothing has to be inverted, and the log
    probability of what was drawn is finite and exact even where tanh rounds to a bound. It is the density of
    tanh(u), the action in units of half the width of the box, whatever the environment's units:

        log p = log Normal(u; mean, std) - sum log(1 - tanh(u)^2)

    In the environment's units it is less by `sum(log(half_width))`, a constant. The mode is u = mean, the median of
    the action: the density itself may be highest on the bounds. The entropy has no closed form: it is summed over 24
    points of the normal, right to 0.005 nats for a std up to 5 and to 0.03 at the default largest one, with the
    gradient of this sum. It is largest, near log 2 for each element, where the action is nearly uniform.

    Args:
        action_spec: a floating-point spec with finite bounds. An element whose bounds are equal is always that.
        min_log_std: of u, where a std of 1 fills most of the box; at least -20.
        max_log_std: likewise; above `min_log_std`, at most 20.

    Raises:
        ValueError: an element has no bound, or the limits are out of range.
    """

    clips = True
    has_rsample = True
    nodes: torch.Tensor
    node_weights: torch.Tensor

    def __init__(self, action_spec: BoundedTensorSpec, min_log_std: float = -20.0, max_log_std: float = 2.0):
        super().__init__()
        if not -_LARGEST_LOG_STD <= min_log_std < max_log_std <= _LARGEST_LOG_STD:
            raise ValueError(
                f"SquashedNormal.min_log_std is {min_log_std} and max_log_std is {max_log_std}; expected -20 <="
                " min_log_std < max_log_std <= 20"
            )
        self._limits = (min_log_std, max_log_std)
        self.num_dims = math.prod(action_spec.shape)
        self.num_parameters = 2 * self.num_dims
        self.log_std_indices = tuple(range(self.num_dims, self.num_parameters))
        self._shape = action_spec.shape
        self._stretch = BoxStretch(action_spec, "squashed normal")
        nodes = torch.linspace(-_LARGEST_NODE, _LARGEST_NODE, _NUM_NODES, dtype=torch.float64)
        self.register_buffer("nodes", nodes.float(), persistent=False)
        self.register_buffer("node_weights", torch.softmax(-0.5 * nodes.square(), dim=0).float(), persistent=False)

    def sample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution."""
        mean, log_std = self._mean_and_log_std(parameters)
        noise = torch.randn_like(mean)
        sample = torch.addcmul(mean, log_std.exp(), noise)
        return as_action(sample, self._shape), self._log_prob(noise, log_std, sample)

    def rsample(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution; `clip` keeps the gradient."""
        return self.sample(parameters)

    def mode(self, parameters: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution: the mean of u."""
        return as_action(parameters[..., : self.num_dims], self._shape)

    def clip(self, sample: torch.Tensor) -> torch.Tensor:
        """See ActionDistribution: tanh, stretched to the bounds; differentiable."""
        return self._stretch(torch.tanh(sample))

    def evaluate(self, parameters: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See ActionDistribution; the entropy is a sum over points of the normal."""
        mean, log_std = self._mean_and_log_std(parameters)
        sample = as_vector(sample, self._shape).to(mean.dtype)
        log_prob = self._log_prob((sample - mean) * torch.exp(-log_std), log_std, sample)
        points = torch.addcmul(mean.unsqueeze(-1), log_std.exp().unsqueeze(-1), self.nodes.to(mean.dtype))
        squashing = _log_two_cosh(points) @ self.node_weights.to(mean.dtype)
        return log_prob, (log_std - 2.0 * squashing + (0.5 + _HALF_LOG_TWO_PI + 2.0 * _LOG_TWO)).sum(-1)

    def _mean_and_log_std(self, parameters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean, log_std.clamp(*self._limits)

    def _log_prob(self, noise: torch.Tensor, log_std: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        terms = torch.addcmul(log_std, noise, noise, value=0.5).sub(_log_two_cosh(sample), alpha=2.0)
        return torch.rsub(terms.sum(-1), -(_HALF_LOG_TWO_PI + 2.0 * _LOG_TWO) * self.num_dims)


def _log_two_cosh(number: torch.Tensor) -> torch.Tensor:
    """log(2 cosh u), for log(1 - tanh(u)^2) = 2 log 2 - 2 log(2 cosh u): nothing cancels where tanh is near 1."""
    return torch.logaddexp(number, -number)
