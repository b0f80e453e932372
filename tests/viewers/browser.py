"""A headless Chromium, driven over a pipe by the DevTools protocol, with the standard library only."""

import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --remote-debugging-pipe"
# Becomes the browser, with the two pipes as descriptors 3 and 4, whatever numbers they had.
LAUNCHER = """
import fcntl, os, sys
pipes = [int(number) for number in sys.argv[1:3]]
kept = [fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in pipes]
for pipe in pipes:
    os.close(pipe)
for number, pipe in enumerate(kept, 3):
    os.dup2(pipe, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser():
    """The path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Browser:
    """One tab. Messages are JSON, each ended by a zero byte; the browser reads descriptor 3 and writes descriptor 4."""

    def __init__(self, program):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reading, self._to = os.pipe()
        self._from, writing = os.pipe()
        # No sandbox: tests often run as root in a container, where there is none.
        command = [program, *FLAGS.split(), f"--user-data-dir={self._folder.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(reading), str(writing), *command],
            pass_fds=(reading, writing),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reading)
        os.close(writing)
        self._numbers, self._received, self._session = itertools.count(1), b"", {}
        self.events = []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._session = {"sessionId": session}
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def call(self, method, **parameters):
        """Calls a method of the protocol and returns its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self):
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._from], [], [], max(deadline - time.monotonic(), 0.0))
            assert ready, "the browser does not answer"
            content = os.read(self._from, 1 << 20)
            assert content, "the browser has ended"
            self._received += content
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        """Opens a page anew and waits until it has loaded."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not self._take("Page.loadEventFired") or self.run("document.readyState") != "complete":
            self.events.append(self._receive())

    def _take(self, method):
        return any(event["method"] == method for event in self.events)

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *keys):
        """Presses keys, by their names in KeyboardEvent.key."""
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def click(self, selector):
        """Clicks the middle of an element."""
        box = self.run(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            " found.scrollIntoView({block: 'center'}); const box = found.getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def resize(self, width, height, mobile=False):
        """The size of the window in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def prefer(self, scheme):
        """Prefers "light" or "dark" pages."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def complaints(self):
        """Exceptions and messages since the page was opened, and what it asked the network for."""
        found = []
        for event in self.events:
            if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
                found.append(event["params"])
            if event["method"] == "Network.requestWillBeSent":
                address = event["params"]["request"]["url"]
                found += [] if address.startswith(("file:", "data:", "about:")) else [address]
        return found

    def close(self):
        """Ends the browser."""
        os.close(self._to)
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._from)
        self._folder.cleanup()
