"""A real Chromium for tests, driven by the DevTools protocol over two pipes: no library, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
    "--force-color-profile=srgb",
)  # fmt: skip
LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from file 3 and writes to file 4."""
PATIENCE = 30.0


def find_browser() -> str | None:
    """The browser of this machine."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """One tab.  `events` are all that the browser reported so far.

    `local`: it can reach 127.0.0.1; otherwise there is no network at all.
    """

    def __init__(self, to: int, back: int, local: bool = False) -> None:
        self._to, self._back, self._rest, self._count = to, back, b"", 0
        self._site = ""
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Performance.enable", timeDomain="threadTicks")
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.send(f"{domain}.enable")
        if not local:
            self.send(
                "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
            )

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result; raises RuntimeError with the browser's word."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") != self._count:
                self.events.append(answer)
                continue
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            found: dict[str, Any] = answer["result"]
            return found

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._back, 1 << 20)
            if not part:
                raise RuntimeError("the browser ended")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, script: str) -> Any:
        """The value of an expression in the page; raises RuntimeError when it throws."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> float:
        """Open a file afresh and wait until its script is done; seconds from the navigation until it can be used."""
        return self.visit(path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))

    def visit(self, address: str) -> float:
        """As `open`, of an address; requests below an address of a server are no complaints."""
        self.send("Page.navigate", url="about:blank")
        self.events.clear()
        self._site = address.partition("#")[0] if address.startswith("http:") else ""
        self.send("Page.navigate", url=address)
        self.wait("document.documentElement?.dataset.ready === 'yes' && document.readyState === 'complete'")
        return float(self.run("performance.getEntriesByName('ready')[0]?.startTime ?? 0")) / 1000

    def wait(self, condition: str) -> None:
        """Until the condition holds in the page."""
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}: {self.complaints()}")
            time.sleep(0.01)

    def click(self, selector: str) -> None:
        """A real click in the middle of the element."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def choose(self, selector: str, value: str) -> None:
        """Set a form control as a person would have."""
        self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            " for (const name of ['input', 'change']) e.dispatchEvent(new Event(name, {bubbles: true})); })()"
        )

    def key(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screen(self, width: int, height: int, dark: bool = False, phone: bool = False) -> None:
        """Size and colour scheme of the screen."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="", features=[scheme])

    def picture(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, all of it or what is on the screen."""
        found = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        """The page as it prints."""
        found = self.send("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def work(self) -> float:
        """Seconds of CPU of the page's main thread since it was opened: other processes do not change them."""
        found = {one["name"]: one["value"] for one in self.send("Performance.getMetrics")["metrics"]}
        return float(found["TaskDuration"])

    def complaints(self) -> list[str]:
        """Errors, warnings, broken policies, dialogs and requests other than the page's own."""
        self.run("0")  # whatever was on its way has arrived
        return [text for event in self.events if (text := _complaint(event, self._site))]


def _complaint(event: dict[str, Any], site: str) -> str:
    name, found = event.get("method", ""), event.get("params", {})
    if name == "Runtime.exceptionThrown":
        return f"exception: {found['exceptionDetails'].get('exception', {}).get('description', found)}"
    if name == "Runtime.consoleAPICalled":
        return f"console.{found['type']}: {[a.get('value') for a in found['args']]}"
    if name == "Log.entryAdded":
        return f"log: {found['entry']['text']}"
    if name == "Audits.issueAdded":
        return f"issue: {found['issue']['code']}"
    if name == "Page.javascriptDialogOpening":
        return f"dialog: {found['message']}"
    if name == "Network.requestWillBeSent" and found["type"] != "Document":
        url = found["request"]["url"]
        return "" if site and url.startswith(site) else f"request: {url}"
    return ""


@contextmanager
def browser(path: str, local: bool = False) -> Iterator[Browser]:
    """A browser of its own profile, ended with its last test; `local` as in Browser."""
    from_us, to_us = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = (*FLAGS, f"--user-data-dir={profile}", "about:blank")
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(from_us[0]), str(to_us[1]), path, *flags],
            pass_fds=(from_us[0], to_us[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us[0])
        os.close(to_us[1])
        try:
            yield Browser(from_us[1], to_us[0], local)
        finally:
            process.terminate()
            process.wait(20)
            os.close(from_us[1])
            os.close(to_us[0])
