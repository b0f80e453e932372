import errno
import logging as standard_logging
import math
from collections.abc import Mapping

import pytest
import torch

from alfish.data_structures import Progress
from alfish.summary.writers import Summaries


class Recorder:
    def __init__(self):
        self.written: list[dict[str, float]] = []
        self.timing: list[dict[str, float]] = []
        self.closed = False

    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        self.written.append(dict(values))
        self.timing.append(dict(timing))

    def close(self) -> None:
        self.closed = True


class FullDisk(Recorder):
    def write(self, progress: Progress, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        super().write(progress, values, timing)
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


class Counter(Recorder):
    def state_dict(self):
        return {"count": len(self.written)}

    def load_state_dict(self, state):
        self.written = [{}] * state["count"]


@pytest.fixture(autouse=True)
def _absl_to_caplog(caplog):
    caplog.set_level(standard_logging.WARNING, logger="absl")


def test_values_of_all_kinds_become_floats_in_order():
    recorder = Recorder()
    metrics = {
        "loss": torch.tensor(0.5, requires_grad=True),
        "count": 3,
        "integer": torch.tensor(2**40),
        "flag": torch.tensor([True]),
        "half": torch.tensor(1.5, dtype=torch.bfloat16),
        "nan": torch.tensor(float("nan")),
        "infinite": math.inf,
    }
    Summaries([recorder]).write(Progress(), metrics, {"time/env": 0.25})
    (written,) = recorder.written
    assert list(written) == list(metrics)
    assert all(type(value) is float for value in written.values())
    assert math.isnan(written.pop("nan"))
    expected = {"loss": 0.5, "count": 3, "integer": 2**40, "flag": 1, "half": 1.5, "infinite": math.inf}
    assert written == expected
    assert recorder.timing == [{"time/env": 0.25}]


def test_a_value_that_is_not_a_number_is_left_out_with_one_warning(caplog):
    recorder = Recorder()
    summaries = Summaries([recorder])
    for _ in range(3):
        summaries.write(Progress(), {"loss": 1.0, "logits": torch.zeros(2, 3), "name": "x"})
    assert recorder.written == [{"loss": 1.0}] * 3
    assert len(caplog.records) == 2
    assert "'logits'" in caplog.text
    assert "(2, 3)" in caplog.text


def test_a_failing_writer_stops_nothing_and_is_named_once(caplog):
    broken, recorder = FullDisk(), Recorder()
    summaries = Summaries([broken, recorder])
    for _ in range(3):
        summaries.write(Progress(), {"loss": 1.0})
    summaries.close()
    assert len(recorder.written) == len(broken.written) == 3
    assert recorder.closed
    assert len(caplog.records) == 1
    assert "FullDisk" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_keyboard_interrupt_passes():
    class Interrupted(Recorder):
        def write(self, progress, values, timing):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Summaries([Interrupted()]).write(Progress(), {})


def test_states_go_to_the_writers_they_came_from(caplog):
    first, second = Counter(), Counter()
    first.written = [{}] * 5
    state = Summaries([Recorder(), first, second]).state_dict()
    resumed, other = Counter(), Counter()
    Summaries([resumed, other, Counter()]).load_state_dict(state)  # one more than saved
    assert (len(resumed.written), len(other.written)) == (5, 0)
    assert not caplog.records


def test_a_writer_that_cannot_go_on_is_warned_about(caplog):
    summaries = Summaries([Counter()])
    summaries.load_state_dict({"Counter": {}})
    assert "Counter could not go on" in caplog.text
