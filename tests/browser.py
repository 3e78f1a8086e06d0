"""A real browser for the tests: headless Chromium, driven by its DevTools protocol over two pipes, so that nothing has
to be installed besides the browser."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars", "--no-first-run",
    "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
# Seconds that one command may take.
PATIENCE = 60.0
_KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " "), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}


def program():
    """The path of an installed browser, or None."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser; ``problems`` collects its errors and warnings."""

    def __init__(self, folder):
        to_browser, commands = os.pipe()
        answers, from_browser = os.pipe()
        # the browser reads from 3 and writes to 4; high numbers first, so that neither is overwritten
        read_end, write_end = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser, from_browser))

        def connect():
            os.dup2(read_end, 3)
            os.dup2(write_end, 4)

        self.process = subprocess.Popen(
            [program(), *_FLAGS, f"--user-data-dir={folder}", "about:blank"], preexec_fn=connect, pass_fds=(3, 4),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_browser, from_browser, read_end, write_end):
            os.close(end)
        self.commands, self.answers = commands, answers
        self.left, self.number, self.session, self.problems = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.commands)
            os.close(self.answers)

    def call(self, method, **parameters):
        """Carry out one command of the protocol and give its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            self._listen(answer)
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _next(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.left:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.answers, 1 << 20)
            assert part, "the browser ended"
            self.left += part
        message, self.left = self.left.split(b"\0", 1)
        return json.loads(message)

    def _listen(self, message):
        facts = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(facts["exceptionDetails"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.problems.append(str(facts["args"]))
        elif message.get("method") == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.problems.append(facts["entry"]["text"])

    def show(self, path, width=1200, height=900, scheme="light", unfolded=True):
        """Open a file in a window of this size, in the ``light`` or ``dark`` scheme, with all panels unfolded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + PATIENCE
        while self.run("document.readyState") != "complete" or self.run("location.href") == "about:blank":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.02)
        if unfolded:
            unfold = "document.querySelectorAll('.fold').forEach((one) => { one.open = true; })"
            self.run(f"new Promise((done) => {{ {unfold}; setTimeout(done, 50); }})")

    def run(self, script):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key):
        """Press and release a key."""
        code, text = _KEYS.get(key, (ord(key[0]), key if len(key) == 1 else ""))
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def picture(self, path, whole=True):
        """A screenshot of the page, or of what the window shows."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
