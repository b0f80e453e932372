import io

import pytest

from alfish.data_structures import Progress
from alfish.summary.console_writer import ConsoleWriter

VALUES = {"loss": 0.12345, "episode/return_mean": 21.5, "entropy": 1.0}
TIMING = {"time/env": 0.3, "time/act": 0.695, "time/other": 0.005, "time/env_steps_per_second": 1000.0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_hold_everything_and_no_control_characters():
    stream = io.StringIO()
    writer = ConsoleWriter(100_000, stream)
    writer.write(Progress(env_steps=25_000), VALUES, TIMING)
    writer.write(Progress(env_steps=50_000), {}, {})
    writer.close()
    assert stream.getvalue() == (
        " 25.0 %  25,000 of 100,000 env steps  1,000/s  0:01:15 left  return 21.5  loss 0.1235  env 30% act 70%\n"
        " 50.0 %  50,000 of 100,000 env steps\n"
    )


def test_a_terminal_line_is_rewritten_in_place_and_fits():
    stream = Terminal()
    writer = ConsoleWriter(100_000, stream)
    writer.write(Progress(env_steps=25_000), VALUES, TIMING)
    writer.write(Progress(env_steps=50_000), VALUES, TIMING)
    assert "\n" not in stream.getvalue()
    lines = [line for line in stream.getvalue().split("\r") if line]
    assert [line.startswith("\x1b[K") for line in lines] == [True, True]
    assert max(len(line.removeprefix("\x1b[K")) for line in lines) < 80
    writer.close()
    assert stream.getvalue().endswith("\r\n")


def test_an_evaluation_stays_on_the_terminal():
    stream = Terminal()
    writer = ConsoleWriter(100, stream)
    writer.write(Progress(env_steps=50), {"evaluation/return": 7.25}, {})
    assert stream.getvalue().endswith("evaluation: return 7.25\n")
    writer.close()
    assert stream.getvalue().count("\n") == 1


def test_non_finite_values_are_shown():
    stream = io.StringIO()
    ConsoleWriter(10, stream).write(Progress(env_steps=20), {"loss": float("nan")}, {"time/env_steps_per_second": 1.0})
    assert "loss nan" in stream.getvalue()
    assert "0:00:00 left" in stream.getvalue()


def test_error_names_the_value():
    with pytest.raises(ValueError, match="total_env_steps is 0"):
        ConsoleWriter(0)
