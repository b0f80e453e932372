"""Blocks of rows out of a ring: which rows a block holds, and what is known of them."""

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

    def gather(self, rows: SampledRows) -> tuple[Experience, BatchInfo]:
        """The blocks of n segments, without importance weights.

        Args:
            rows: the first row of each segment.

        Raises:
            ValueError: a row of a block is not stored.
        """
        position, env_id = rows
        needed = self._needed
        block, end = self._episodes.blocks(position, env_id, needed.past, self._segment_length, needed.future)
        slots = self._ring.slots(block, env_id)
        observation = self._ring.take(slots[:, : self._num_observations], _observation)
        stored = self._ring.take(slots, _all_but_observation)
        age = (self._ring.newest[env_id][:, None] - block) * self._ring.num_envs
        # Of each sequence, the state before its first row: a network computes the others anew.
        state = nest.map_structure(
            lambda leaf: leaf[:, 0], self._ring.take(slots[:, needed.past : needed.past + 1], _state)
        )
        batch_info = BatchInfo(stored.action, torch.from_numpy(block), age=torch.from_numpy(age), state=state)
        if needed.tail is not None:
            tail = gather_tail(self._ring, needed.tail, block[:, -1], end, env_id)
            batch_info = batch_info._replace(tail=tail)
        return stored._replace(time_step=stored.time_step._replace(observation=observation)), batch_info


def _observation(rows: Experience) -> nest.Nest:
    return rows.time_step.observation


def _state(rows: Experience) -> nest.Nest:
    return rows.state


def _all_but_observation(rows: Experience) -> Experience:
    return rows._replace(time_step=rows.time_step._replace(observation=()), state=())
