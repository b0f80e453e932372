"""Observation transforms: between a stored row and an algorithm, the same when acting and when training."""

import gin
import numpy as np
import torch

from alfish import nest, specs
from alfish.checks import check_at_least


class ObservationTransform:
    """Hands observations on as they are; the base of all transforms.

    A transform has two faces that must agree: `step` follows the rows as they are collected, `unroll` sees a block of
    stored rows at once.

    Args:
        observation_spec: the spec of a stored row's observation.

    Attributes:
        output_spec: the spec of what the algorithm sees.
        past_rows: how many stored rows before a row its transformed observation is made of.
    """

    past_rows: int = 0

    def __init__(self, observation_spec: nest.Nest):
        self.output_spec = observation_spec

    def initial_state(self, batch_size: int, device: torch.device | str) -> nest.Nest:
        """The state before the first row; `()` for none."""
        del batch_size, device
        return ()

    def step(self, observation: nest.Nest, state: nest.Nest, begins: torch.Tensor) -> tuple[nest.Nest, nest.Nest]:
        """Transforms one row.

        Args:
            observation: `[B, ...]`.
            state: what the step before returned.
            begins: `[B]` bool, True where the row is the first of its episode.

        Returns:
            The transformed observation `[B, ...]` and the next state.
        """
        del begins
        return observation, state

    def unroll(self, observation: nest.Nest, begins: torch.Tensor) -> nest.Nest:
        """Transforms a block.

        Args:
            observation: `[B, past_rows + T, ...]`.
            begins: `[B, past_rows + T]` bool.

        Returns:
            The transformed observation `[B, T, ...]`.
        """
        del begins
        return observation


@gin.configurable
class FrameStack(ObservationTransform):
    """Joins the last frames of an episode along the first axis, the newest last.

    `(C, H, W)` becomes `(num_frames · C, H, W)`, a vector `(D,)` becomes `(num_frames · D,)`. Before the first frame of
    an episode, that frame is repeated (Mnih et al. 2015, as implemented by common Atari wrappers).

    Args:
        observation_spec: the spec of a stored row's observation; every leaf has at least one axis.
        num_frames: how many frames, at least 1.

    Raises:
        ValueError: `num_frames` is smaller than 1, or an observation is a scalar.
    """

    def __init__(self, observation_spec: nest.Nest, num_frames: int = 4):
        super().__init__(observation_spec)
        check_at_least("FrameStack.num_frames", num_frames, 1)
        self.num_frames = num_frames
        self.past_rows = num_frames - 1

        def stacked(path: str, spec: specs.TensorSpec) -> specs.TensorSpec:
            if not spec.shape:
                raise ValueError(f"FrameStack cannot stack the scalar observation {path!r}; give it the shape (1,)")
            shape = (num_frames * spec.shape[0], *spec.shape[1:])
            if not isinstance(spec, specs.BoundedTensorSpec):
                return specs.TensorSpec(shape, spec.dtype)
            # Bounds say how bytes are scaled and how many values an integer has: of each frame they are the same.
            low, high = (
                np.concatenate([np.broadcast_to(bound, spec.shape)] * num_frames)
                for bound in (spec.minimum, spec.maximum)
            )
            return specs.BoundedTensorSpec.from_arrays(shape, spec.dtype, low, high)

        self.output_spec = nest.map_with_path(stacked, observation_spec)

    def initial_state(self, batch_size: int, device: torch.device | str) -> nest.Nest:
        return specs.zeros(self.output_spec, (batch_size,), device)

    def step(self, observation: nest.Nest, state: nest.Nest, begins: torch.Tensor) -> tuple[nest.Nest, nest.Nest]:
        def push(frame: torch.Tensor, stack: torch.Tensor) -> torch.Tensor:
            shifted = torch.cat((stack[:, frame.shape[1] :], frame), dim=1)
            repeated = torch.cat([frame] * self.num_frames, dim=1)
            return torch.where(begins.view(-1, *[1] * (frame.ndim - 1)), repeated, shifted)

        stack = nest.map_structure(push, observation, state)
        return stack, stack

    def unroll(self, observation: nest.Nest, begins: torch.Tensor) -> nest.Nest:
        rows = torch.arange(begins.shape[1], device=begins.device)
        begin_row = torch.where(begins, rows, 0).cummax(dim=1).values
        batch = torch.arange(begins.shape[0], device=begins.device)[:, None]
        newest = rows[self.past_rows :]
        sources = [
            torch.maximum(newest - back, begin_row[:, self.past_rows :]) for back in reversed(range(self.num_frames))
        ]

        def gather(frames: torch.Tensor) -> torch.Tensor:
            return torch.cat([frames[batch, source] for source in sources], dim=2)

        return nest.map_structure(gather, observation)


def episode_begins(is_first: torch.Tensor, is_last: torch.Tensor) -> torch.Tensor:
    """True where a row of a block is the first of its episode: FIRST, or after a LAST row (a cut, see TimeStep).

    Args:
        is_first: `[B, rows]` bool.
        is_last: `[B, rows]` bool.
    """
    begins = is_first.clone()
    begins[:, 1:] |= is_last[:, :-1]
    return begins


def zeroed_state(state: nest.Nest, begins: torch.Tensor) -> nest.Nest:
    """A recurrent state `[B, ...]` before a row, zeroed where the row is the first of its episode.

    Args:
        state: nest of `[B, ...]`.
        begins: `[B]` bool.
    """
    return nest.map_structure(lambda leaf: leaf.masked_fill(begins.view(-1, *[1] * (leaf.ndim - 1)), 0), state)
