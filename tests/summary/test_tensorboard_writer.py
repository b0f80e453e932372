import errno
import math
import os
import pathlib
import resource
import signal

import pytest
from tensorboard.backend.event_processing import event_accumulator

from alfish.data_structures import Progress
from alfish.summary.tensorboard_writer import TensorBoardWriter


def shown(folder: pathlib.Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_values_are_there_at_once(tmp_path):
    writer = TensorBoardWriter(tmp_path / "events")
    writer.write(Progress(env_steps=10), {"loss": 0.5}, {"time/env": 0.25})
    writer.write(Progress(env_steps=20), {"loss": math.nan}, {})
    losses = shown(tmp_path / "events", "loss")
    assert losses[0] == (10, 0.5)
    assert math.isnan(losses[1][1])
    assert shown(tmp_path / "events", "time/env") == [(10, 0.25)]
    writer.close()


def test_resuming_hides_what_came_after_the_checkpoint(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(Progress(env_steps=10), {"loss": 1.0}, {})
    state = writer.state_dict()
    writer.write(Progress(env_steps=20), {"loss": 2.0}, {})
    writer.write(Progress(env_steps=30), {"loss": 3.0}, {})
    writer.close()
    resumed = TensorBoardWriter(tmp_path)
    resumed.load_state_dict(state)
    resumed.write(Progress(env_steps=20), {"loss": 2.5}, {})
    resumed.close()
    assert shown(tmp_path, "loss") == [(10, 1.0), (20, 2.5)]


def test_nothing_is_made_before_the_first_write(tmp_path):
    TensorBoardWriter(tmp_path / "events").close()
    assert not (tmp_path / "events").exists()


def test_a_full_disk_leaves_no_half_event(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(Progress(env_steps=10), {"loss": 1.0}, {})
    (file,) = tmp_path.iterdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            writer.write(Progress(env_steps=20), {"loss": 2.0}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    writer.write(Progress(env_steps=30), {"loss": 3.0}, {})
    writer.close()
    assert shown(tmp_path, "loss") == [(10, 1.0), (30, 3.0)]
