"""A headless Chromium, driven over its debugging port: what a page shows, and what it asks for."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)  # fmt: skip
FLAGS = ("--headless", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1500,950", "--no-first-run",
         "--disable-background-networking", "--remote-debugging-port=0")  # fmt: skip


class Page:
    """`requests`: addresses that the page asked for; `errors`: what its scripts threw."""

    def __init__(self, socket):
        self.socket, self.number, self.requests, self.errors = socket, 0, [], []

    def call(self, method, **given):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": given}))
        while True:
            answer = json.loads(self.socket.recv(timeout=300))
            if answer.get("id") == self.number:
                return answer.get("result", answer)
            if answer["method"] == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer["method"] == "Runtime.exceptionThrown":
                self.errors.append(answer["params"]["exceptionDetails"])

    def ask(self, script):
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, ready, seconds=300):
        """Until `ready()`, which may look at `requests`, is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if ready():
                return
            self.ask("1")  # reads what has happened meanwhile
            time.sleep(0.5)
        raise AssertionError(f"the page says {self.ask('document.body.innerText')!r:.2000}")

    def screenshot(self):
        """A PNG of what is seen."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def opened(url: str, folder: Path) -> Iterator[Page]:
    """The page at an address; folder: an empty one for the profile."""
    from websockets.sync.client import connect

    process = subprocess.Popen([CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        port, end = folder / "DevToolsActivePort", time.monotonic() + 120
        while not port.exists() or not port.read_text().strip():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json", timeout=120) as answer:
            targets = json.load(answer)
        target = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
        with connect(target, max_size=None, open_timeout=300) as socket:
            page = Page(socket)
            for part in ("Network", "Runtime", "Page"):
                page.call(f"{part}.enable")
            page.call("Page.navigate", url=url)
            yield page
    finally:
        process.terminate()
        process.wait(60)
