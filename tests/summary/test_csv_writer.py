import csv
import errno
import math
import os
import pathlib
import resource
import signal

import pytest

from alfish.data_structures import Progress
from alfish.summary.csv_writer import CsvWriter

HEADER = "iteration,env_steps,updates,metric,value\n"


def write(writer: CsvWriter, iteration: int, **values: float) -> None:
    writer.write(Progress(iteration, 10 * iteration, 100 * iteration), values, {"time/env": 0.123})


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "run" / "metrics.csv"


def test_one_row_per_value_with_all_digits_and_no_clock(path):
    writer = CsvWriter(path)
    write(writer, 1, loss=0.1 + 0.2, best=-math.inf)
    # On the disk before the writer is closed.
    assert path.read_text() == HEADER + "1,10,100,loss,0.30000000000000004\n1,10,100,best,-inf\n"
    write(writer, 2, loss=math.nan)
    writer.close()
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [float(row["value"]) for row in rows[:2]] == [0.1 + 0.2, -math.inf]
    assert rows[2] == {"iteration": "2", "env_steps": "20", "updates": "200", "metric": "loss", "value": "nan"}


def test_names_with_commas_stay_one_column(path):
    writer = CsvWriter(path)
    writer.write(Progress(), {'a,"b"': 1.0}, {})
    writer.close()
    assert [row["metric"] for row in csv.DictReader(path.read_text().splitlines())] == ['a,"b"']


@pytest.mark.parametrize("torn", ["", "3,30,300,lo", "3,30,300,loss,3.0\n4,4"])
def test_resuming_drops_what_was_written_after_the_checkpoint(path, torn):
    writer = CsvWriter(path)
    write(writer, 1, loss=1.0)
    state = writer.state_dict()
    write(writer, 2, loss=2.0)
    writer.close()
    with path.open("a") as file:
        file.write(torn)

    resumed = CsvWriter(path)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    write(resumed, 2, loss=2.5)
    resumed.close()
    assert path.read_text() == HEADER + "1,10,100,loss,1.0\n2,20,200,loss,2.5\n"


def test_a_state_from_before_the_first_row(path):
    state = CsvWriter(path).state_dict()
    writer = CsvWriter(path)
    write(writer, 1, loss=1.0)
    writer.close()
    resumed = CsvWriter(path)
    resumed.load_state_dict(state)
    write(resumed, 1, loss=3.0)
    resumed.close()
    assert path.read_text() == HEADER + "1,10,100,loss,3.0\n"


def test_a_file_shorter_than_the_checkpoint_says_so_and_is_repaired(path, caplog):
    writer = CsvWriter(path)
    write(writer, 1, loss=1.0)
    write(writer, 2, loss=2.0)
    state = writer.state_dict()
    writer.close()
    whole = path.read_text()
    path.write_text(whole[:-3])  # as after a power failure, in the middle of a row

    resumed = CsvWriter(path)
    resumed.load_state_dict(state)
    write(resumed, 3, loss=3.0)
    resumed.close()
    assert f"has {len(whole) - 3} bytes, but had {len(whole)}" in caplog.text
    assert path.read_text() == HEADER + "1,10,100,loss,1.0\n3,30,300,loss,3.0\n"


def test_a_torn_row_longer_than_a_block_is_cut(path):
    path.parent.mkdir()
    path.write_text(HEADER + "x" * 10_000)
    writer = CsvWriter(path)
    writer.load_state_dict({"offset": 10**9})
    writer.close()
    assert path.read_text() == HEADER


def test_a_file_of_a_run_that_left_no_checkpoint_is_kept_beside(path, caplog):
    path.parent.mkdir()
    for number, name in enumerate(("metrics.csv.old", "metrics.csv.old-2", "metrics.csv.old-3"), 1):
        path.write_text(f"precious {number}\n")
        writer = CsvWriter(path)
        write(writer, 1, loss=1.0)
        writer.close()
        assert path.read_text() == HEADER + "1,10,100,loss,1.0\n"
        assert caplog.records[-1].getMessage() == (
            f"no checkpoint was found, so the run begins anew; the earlier metrics are kept as {path.with_name(name)}"
        )
        assert path.with_name(name).read_text() == f"precious {number}\n"
    assert path.with_name("metrics.csv.old").read_text() == "precious 1\n"


def test_a_full_disk_leaves_no_half_row(path):
    writer = CsvWriter(path)
    write(writer, 1, loss=1.0)
    before = path.read_text()
    # The kernel then writes up to the limit and refuses the rest, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            write(writer, 2, loss=2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == before
    write(writer, 3, loss=3.0)
    writer.close()
    assert path.read_text() == before + "3,30,300,loss,3.0\n"
