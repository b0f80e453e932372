"""Child processes that do not outlive their parent. Imports no torch, so that worker processes start fast."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


def lead_a_group() -> None:
    """Makes this process the leader of a group, to which all processes belong that it starts: they end with it."""
    os.setpgid(0, 0)


def kill_group(leader: int) -> None:
    """Ends all processes of a group, whether its leader is alive or not; none if the process leads no group.

    Args:
        leader: its process id.
    """
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS forbids it where only dead ones are left
        return


def end_with_the_parent() -> None:
    """Starts a thread that ends this process, and the group that it leads, as soon as its parent is gone.

    Of a multiprocessing child; however the parent ends, and whatever this process is doing.
    """
    threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child process only"
    connection.wait([parent.sentinel])
    if os.getpgrp() == os.getpid():
        kill_group(os.getpid())
    os._exit(1)
