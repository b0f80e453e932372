"""Observation transforms: between a stored row and an algorithm, the same when acting and when training."""

from collections.abc import Sequence

import gin
import numpy as np
import torch

from alfish import nest, specs
from alfish.checks import check_at_least


class ObservationTransform:
    """Hands observations on as they are; the base of all transforms.

    A transform has two faces that must agree: `step` follows the rows as they are collected, `unroll` sees a block of
    stored rows at once. Its state is not stored with the rows, so it remembers `past_rows` rows at most, as the last
    frames or their mean do; an average since the episode's beginning cannot be made again from a block.

    Args:
        observation_spec: the spec of a stored row's observation.

    Attributes:
        output_spec: the spec of what the algorithm sees.
        past_rows: how many stored rows before a row its transformed observation is made of; at least 1 with a state.
    """

    past_rows: int = 0

    def __init__(self, observation_spec: nest.Nest):
        self.output_spec = observation_spec

    @property
    def is_identity(self) -> bool:
        """Whether observations are handed on as they are, so that nothing need be called."""
        return type(self) is ObservationTransform

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
        observation_spec: the spec of a stored row's observation; every leaf that is stacked has at least one axis.
        num_frames: how many frames, at least 1.
        keys: the entries of a nested observation that are stacked, such as `("camera", "robot.joints")`: paths, of a
            leaf or of all leaves below it. The others, such as a mask of legal actions or a number of categories, are
            handed on as they are. None stacks all.

    Raises:
        ValueError: `num_frames` is smaller than 1, there is no such entry, or a scalar would be stacked.
    """

    def __init__(self, observation_spec: nest.Nest, num_frames: int = 4, keys: Sequence[str] | None = None):
        super().__init__(observation_spec)
        check_at_least("FrameStack.num_frames", num_frames, 1)
        self.num_frames = num_frames
        self.past_rows = num_frames - 1
        chosen = _chosen(observation_spec, keys)
        self.output_spec = nest.map_with_path(self._stacked_spec, observation_spec, chosen)
        # A stack of one frame is that frame: nothing is to be remembered.
        self._is_stacked = nest.map_structure(lambda is_chosen: is_chosen and num_frames > 1, chosen)
        self._stacked_leaves = nest.leaves(self._is_stacked)

    def _stacked_spec(self, path: str, spec: specs.TensorSpec, is_stacked: bool) -> specs.TensorSpec:
        if not is_stacked:
            return spec
        if not spec.shape:
            what = f"the scalar observation {path!r}" if path else "an observation that is a scalar"
            way_out = "name the entries to stack in FrameStack.keys, or " if path else ""
            raise ValueError(f"FrameStack cannot stack {what}; {way_out}let the environment give it the shape (1,)")
        shape = (self.num_frames * spec.shape[0], *spec.shape[1:])
        if not isinstance(spec, specs.BoundedTensorSpec):
            return specs.TensorSpec(shape, spec.dtype)
        # Bounds say how bytes are scaled and how many values an integer has: of each frame they are the same.
        low, high = (
            np.concatenate([np.broadcast_to(bound, spec.shape)] * self.num_frames)
            for bound in (spec.minimum, spec.maximum)
        )
        return specs.BoundedTensorSpec.from_arrays(shape, spec.dtype, low, high)

    def initial_state(self, batch_size: int, device: torch.device | str) -> nest.Nest:
        pairs = zip(nest.leaves(self.output_spec), self._stacked_leaves, strict=True)
        return tuple(spec.zeros((batch_size,), device) for spec, is_stacked in pairs if is_stacked)

    def step(self, observation: nest.Nest, state: nest.Nest, begins: torch.Tensor) -> tuple[nest.Nest, nest.Nest]:
        stacks = iter(state)

        def push(frame: torch.Tensor, is_stacked: bool) -> torch.Tensor:
            if not is_stacked:
                return frame
            shifted = torch.cat((next(stacks)[:, frame.shape[1] :], frame), dim=1)
            repeated = torch.cat([frame] * self.num_frames, dim=1)
            return torch.where(begins.view(-1, *[1] * (frame.ndim - 1)), repeated, shifted)

        seen = nest.map_structure(push, observation, self._is_stacked)
        pairs = zip(nest.leaves(seen), self._stacked_leaves, strict=True)
        return seen, tuple(leaf for leaf, is_stacked in pairs if is_stacked)

    def unroll(self, observation: nest.Nest, begins: torch.Tensor) -> nest.Nest:
        rows = torch.arange(begins.shape[1], device=begins.device)
        begin_row = torch.where(begins, rows, 0).cummax(dim=1).values
        batch = torch.arange(begins.shape[0], device=begins.device)[:, None]
        newest = rows[self.past_rows :]
        sources = [
            torch.maximum(newest - back, begin_row[:, self.past_rows :]) for back in reversed(range(self.num_frames))
        ]

        def gather(frames: torch.Tensor, is_stacked: bool) -> torch.Tensor:
            if not is_stacked:
                return frames[:, self.past_rows :]
            return torch.cat([frames[batch, source] for source in sources], dim=2)

        return nest.map_structure(gather, observation, self._is_stacked)


def _chosen(observation_spec: nest.Nest, keys: Sequence[str] | None) -> nest.Nest:
    """True for each leaf at or below one of `keys`, or for all."""
    if keys is None:
        return nest.map_structure(lambda spec: True, observation_spec)
    paths = [path for path, _ in nest.leaves_with_paths(observation_spec)]
    names = (keys,) if isinstance(keys, str) else tuple(keys)
    missing = [key for key in names if not any(_is_at_or_below(path, key) for path in paths)]
    if missing or not names:
        there = paths if any(paths) else "none"
        raise ValueError(
            f"FrameStack.keys is {keys!r}; expected entries of the observation, which has {there}, or None to stack all"
        )
    return nest.map_with_path(lambda path, spec: any(_is_at_or_below(path, key) for key in names), observation_spec)


def _is_at_or_below(path: str, key: str) -> bool:
    return bool(key) and f"{path}.".startswith(f"{key}.")


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
