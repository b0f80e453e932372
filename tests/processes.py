"""Whether processes are still there."""

import pathlib
import time


def is_alive(pid):
    """False for one that is dead, whether or not anybody has asked how it ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids):
    """Fails if one of them is still alive after 5 s."""
    end = time.monotonic() + 5
    while any(map(is_alive, pids)):
        assert time.monotonic() < end, "processes are left behind"
        time.sleep(0.02)
