"""Child processes that do not outlive their parent. Imports no torch, so that worker processes start fast."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import connection

if sys.platform == "linux":
    import fcntl


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
    """Makes this process, and the group that it leads, end as soon as its parent is gone.

    Of a multiprocessing child; however the parent ends, and whatever this process is doing: on Linux, even in code
    that never lets another thread run, such as a loop in C that keeps Python's lock.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a child process only"
    if sys.platform == "linux":
        _be_killed_by_the_kernel(parent.sentinel)
    # Also where the kernel does it: the parent may have gone before it was asked to.
    threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _be_killed_by_the_kernel(pipe: int) -> None:
    """Has the kernel send SIGKILL when the other end of a pipe, in which nobody writes, is closed."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpid() if _leads_its_group() else os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _wait_and_end(sentinel: int) -> None:
    connection.wait([sentinel])
    if _leads_its_group():
        kill_group(os.getpid())
    os._exit(1)


def _leads_its_group() -> bool:
    return os.getpgrp() == os.getpid()
