"""Children that end with their parent, whatever they are doing."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest
from processes import is_alive, wait_until_gone

PARENT = """
    import multiprocessing, os, re, subprocess, sys, time
    from alfish.environments.orphans import end_with_the_parent, lead_a_group

    def keep_the_lock(pipe, leads):
        if leads:
            lead_a_group()
        helper = subprocess.Popen(["sleep", "600"], start_new_session=not leads)
        if not leads:
            helper.kill()
        end_with_the_parent()
        pipe.send((os.getpid(), helper.pid))
        re.match("(a+)+$", "a" * 64 + "b")  # in C, for years, with Python's lock

    if __name__ == "__main__":
        context = multiprocessing.get_context({method!r})
        here, there = context.Pipe()
        context.Process(target=keep_the_lock, args=(there, {leads})).start()
        pids = here.recv()
        time.sleep(0.2)  # so that it has come to where it stays
        print(*pids, flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that lets no thread run")
@pytest.mark.parametrize(("method", "leads"), [("forkserver", True), ("spawn", True), ("spawn", False)])
def test_a_child_in_code_that_lets_no_thread_run_ends_with_its_parent(tmp_path, method, leads):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT).format(method=method, leads=leads))
    environ = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environ) as parent:
        child, helper = (int(pid) for pid in parent.stdout.readline().split())
        was_alive = is_alive(child)
        parent.kill()
    try:
        assert was_alive
        wait_until_gone([child, helper])
    finally:
        for pid in (child, helper):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
