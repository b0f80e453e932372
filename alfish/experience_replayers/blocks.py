"""Blocks of rows out of a ring: which rows a block holds, and what is known of them."""

import numpy as np
import torch

from alfish import nest
from alfish.data_structures import BatchInfo, Experience, RowsNeeded
from alfish.experience_replayers.episode_index import EpisodeIndex
from alfish.experience_replayers.ring import Ring
from alfish.experience_replayers.samplers import SampledRows
from alfish.experience_replayers.tails import gather_tail


class Blocks:
    """Gathers blocks, as ReplayBuffer describes them.

    Args:
        ring: the rows.
        episodes: of the same rows.
        rows_needed: the rows around a segment.
        segment_length: T.
    """

    def __init__(self, ring: Ring, episodes: EpisodeIndex, rows_needed: RowsNeeded, segment_length: int):
        self._ring = ring
        self._episodes = episodes
        self._needed = rows_needed
        self._segment_length = segment_length
        self._num_observations = rows_needed.past + segment_length + rows_needed.future_observations
        self._offsets = np.arange(-rows_needed.past, segment_length + rows_needed.future)

    def gather(self, rows: SampledRows) -> tuple[Experience, BatchInfo]:
        """The blocks of n segments, without importance weights.

        Args:
            rows: the first row of each segment.

        Raises:
            ValueError: a row of a block is not stored.
        """
        position, env_id = rows
        begin = self._episodes.begin(position, env_id)
        end = self._episodes.end(position + self._segment_length - 1, env_id)
        block = np.clip(position[:, None] + self._offsets, begin[:, None], end[:, None])
        observation = self._ring.gather(block[:, : self._num_observations], env_id[:, None], _observation)
        stored = self._ring.gather(block, env_id[:, None], _all_but_observation)
        age = (self._ring.newest[env_id][:, None] - block) * self._ring.num_envs
        batch_info = BatchInfo(stored.action, torch.from_numpy(block), age=torch.from_numpy(age))
        if self._needed.tail is not None:
            tail = gather_tail(self._ring, self._needed.tail, block[:, -1], end, env_id)
            batch_info = batch_info._replace(tail=tail)
        return stored._replace(time_step=stored.time_step._replace(observation=observation)), batch_info


def _observation(rows: Experience) -> nest.Nest:
    return rows.time_step.observation


def _all_but_observation(rows: Experience) -> Experience:
    return rows._replace(time_step=rows.time_step._replace(observation=()))
