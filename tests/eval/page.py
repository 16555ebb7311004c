"""A page in real headless Chromium, driven through its DevTools protocol; it reaches no network."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_PATIENCE = 120.0


class Page:
    """One tab. Keeps the console's errors, uncaught exceptions and every address that was asked for."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.errors: list[str] = []
        self.asked: list[str] = []
        self._loop.run_until_complete(self._connect(address))
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)

    async def _connect(self, address: str) -> None:
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one command; events that come before it are kept."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _PATIENCE))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._keep(message)

    def _keep(self, message: dict[str, Any]) -> None:
        method, said = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(said["args"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(json.dumps(said["entry"])[:500])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path: Path, fragment: str = "") -> None:
        """Opens a file and waits until the page says that its samples are there."""
        self.call("Page.navigate", url="about:blank")
        self.errors.clear()
        self.asked.clear()
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        self.settle()

    def settle(self) -> None:
        """Waits until the page has filtered."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if self.run("document.readyState === 'complete' && document.body?.dataset.state !== 'busy'"):
                assert self.run("document.body.dataset.state") == "ready", self.run("document.body.innerText")[:500]
                return
            time.sleep(0.02)
        raise AssertionError("the page did not come to rest")

    def set(self, identity: str, value: str) -> None:
        """Chooses an option, ticks a box or types into a field, as a user's events do, and waits."""
        self.run(
            f"""(() => {{ const node = document.getElementById({json.dumps(identity)}), value = {json.dumps(value)};
            if (node.type === "checkbox") node.click();
            else {{ node.value = value; node.dispatchEvent(new Event("input", {{bubbles: true}}));
                    node.dispatchEvent(new Event("change", {{bubbles: true}})); }} }})()"""
        )
        self.settle()

    def choose(self, identity: str, text: str) -> None:
        """Chooses the option whose text begins so."""
        options = self.run(
            f"[...document.getElementById({json.dumps(identity)}).options].map((one) => [one.text, one.value])"
        )
        value = next(value for shown, value in options if shown == text or shown.startswith(f"{text} ("))
        self.set(identity, value)

    def click(self, identity: str) -> None:
        """Clicks and waits."""
        self.run(f"document.getElementById({json.dumps(identity)}).click()")
        self.settle()

    @property
    def count(self) -> int:
        """The number of samples that pass the filters, as the page says it; its text and its data agree."""
        text, rows = self.run(
            "[document.getElementById('count').textContent, document.getElementById('count').dataset.rows]"
        )
        assert text.split(" of ")[0].replace(",", "") == rows
        return int(rows)

    def close(self) -> None:
        """Lets the connection go."""
        self._loop.run_until_complete(self._socket.close())
        self._loop.run_until_complete(self._session.close())
        self._loop.close()


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Starts the browser with a fresh profile and gives its first tab; it and its children end with the block."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--mute-audio"]
    options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += ["--disable-background-networking", "--disable-dev-shm-usage", "about:blank"]
    silent = subprocess.DEVNULL
    process = subprocess.Popen([CHROMIUM, *options], stdout=silent, stderr=silent, start_new_session=True)
    try:
        port = _port(profile / "DevToolsActivePort", process)
        page = Page(_tab(port))
        try:
            yield page
        finally:
            page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) >= 2:
            return int(lines[0])
        assert process.poll() is None, f"the browser ended with status {process.returncode}"
        time.sleep(0.05)
    raise AssertionError("the browser does not listen")


def _tab(port: int) -> str:
    async def ask() -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/json/list") as reply:
            tabs = [tab for tab in await reply.json() if tab["type"] == "page"]
            return str(tabs[0]["webSocketDebuggerUrl"])

    return asyncio.run(ask())
