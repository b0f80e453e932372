import numpy as np
import pytest

from alfish.experience_replayers.episode_index import EpisodeIndex

_STEP_TYPES = {"F": 0, "M": 1, "L": 2}


def _step_types(*letters: str) -> np.ndarray:
    return np.array([[_STEP_TYPES[letter] for letter in row] for row in letters], np.uint8).T


def _table(index: EpisodeIndex, positions: range, env_id: int = 0) -> tuple[list[int], list[int]]:
    position = np.array(positions)
    envs = np.full(len(positions), env_id)
    return index.begin(position, envs).tolist(), index.end(position, envs).tolist()


@pytest.mark.parametrize(
    ("letters", "begin", "end"),
    [
        ("FMLFM", [0, 0, 0, 3, 3], [2, 2, 2, 4, 4]),
        ("FMLLF", [0, 0, 0, 3, 4], [2, 2, 2, 3, 4]),  # a cut: row 3 is an episode of its own
        ("FLLLF", [0, 0, 2, 3, 4], [1, 1, 2, 3, 4]),
        ("MMFML", [0, 0, 2, 2, 2], [1, 1, 4, 4, 4]),  # begins in mid-episode; FIRST closes what lacks a LAST row
        ("LFFFM", [0, 1, 2, 3, 3], [0, 1, 2, 4, 4]),
        ("LMMFM", [0, 1, 1, 3, 3], [0, 2, 2, 4, 4]),  # an episode that begins without a FIRST row
    ],
)
@pytest.mark.parametrize("window", [1, 2, 5])
def test_begin_and_end(letters: str, begin: list[int], end: list[int], window: int):
    index = EpisodeIndex(1, 5)
    for start in range(0, 5, window):
        index.append(_step_types(letters[start : start + window]))
    assert _table(index, range(5)) == (begin, end)


def test_environments_are_independent():
    index = EpisodeIndex(2, 4)
    index.append(_step_types("FMLF", "FLFM"))
    assert _table(index, range(4), 0) == ([0, 0, 0, 3], [2, 2, 2, 3])
    assert _table(index, range(4), 1) == ([0, 0, 2, 2], [1, 1, 3, 3])


def test_environments_at_their_own_pace():
    index = EpisodeIndex(3, 4)
    index.append(_step_types("FML"), first_env=1)
    index.append(_step_types("FM", "MF"), first_env=1)
    index.append(_step_types("F"))
    index.append(_step_types("M", "M", "M"))
    assert index.num_added.tolist() == [2, 6, 3]
    assert _table(index, range(2), 0) == ([0, 0], [1, 1])
    assert _table(index, range(2, 6), 1) == ([0, 3, 3, 3], [2, 5, 5, 5])
    assert _table(index, range(3), 2) == ([0, 1, 1], [0, 2, 2])


def test_steps_to_the_end():
    index = EpisodeIndex(2, 5)
    index.append(_step_types("FMLFM", "LFMMM"))
    position, env_id = np.meshgrid(np.arange(5), np.arange(2))
    assert index.steps_to_end(position, env_id).tolist() == [[2, 1, 0, 1, 0], [0, 3, 2, 1, 0]]
    index.append(_step_types("M"), first_env=1)  # only the open episode of that environment goes on
    assert index.steps_to_end(position[:, 1:], env_id[:, 1:]).tolist() == [[1, 0, 1, 0], [4, 3, 2, 1]]


def test_an_overwritten_begin_stays_known_and_a_late_end_reaches_all_rows():
    index = EpisodeIndex(1, 3)
    for letters in ("FM", "MM", "MM", "M"):
        index.append(_step_types(letters))
    assert _table(index, range(4, 7)) == ([0, 0, 0], [6, 6, 6])
    index.append(_step_types("LF"))
    assert _table(index, range(6, 9)) == ([0, 0, 8], [7, 7, 8])


def test_a_window_full_of_one_row_episodes():
    index = EpisodeIndex(1, 3)
    index.append(_step_types("FMM"))
    for start in (3, 6, 9):
        index.append(_step_types("LLL"))
        assert _table(index, range(start, start + 3))[1] == list(range(start, start + 3))
    assert _table(index, range(9, 12))[0] == [9, 10, 11]


@pytest.mark.parametrize(("position", "env_id"), [(1, 0), (5, 0), (3, 1)])
def test_rows_that_are_not_stored_are_refused(position: int, env_id: int):
    index = EpisodeIndex(1, 3)
    index.append(_step_types("FMM"))
    index.append(_step_types("MM"))
    for lookup in (index.begin, index.end, index.steps_to_end):
        with pytest.raises(ValueError, match="not stored; stored are"):
            lookup(np.array([position]), np.array([env_id]))


def test_positions_beyond_32_bits():
    index = EpisodeIndex(1, 4)
    index._num_added[:] = 2**32 - 3
    index.append(_step_types("FM"))
    index.append(_step_types("LF"))
    index.append(_step_types("M"))
    position = np.arange(2**32 - 2, 2**32 + 2)
    assert index.begin(position, np.zeros(4, int)).tolist() == [2**32 - 3] * 2 + [2**32] * 2
    assert index.end(position, np.zeros(4, int)).tolist() == [2**32 - 1] * 2 + [2**32 + 1] * 2
    block, end = index.blocks(position[:3], np.zeros(3, int), 1, 1, 2)
    assert (block - 2**32).tolist() == [[-3, -2, -1, -1], [-2, -1, -1, -1], [0, 0, 1, 1]]
    assert (end - 2**32).tolist() == [-1, -1, 1]


def test_a_length_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="EpisodeIndex.length is 2147483648 rows per environment; it must be below"):
        EpisodeIndex(1, 2**31)
