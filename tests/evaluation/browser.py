"""Drives headless Chromium over the DevTools protocol, for the tests that open a page; takes pictures for a person.

It needs aiohttp, which comes with Ray.
"""

import asyncio
import base64
import shutil
import signal
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--hide-scrollbars"),
]


class Page:
    """One open page: `messages` are its console's errors and warnings, `requests` the URLs that it asked for."""

    def __init__(self, socket):
        self.socket, self.number = socket, 0
        self.messages, self.requests, self.loaded = [], [], False

    async def call(self, method, **params):
        """Ask for a method of the protocol; what happens meanwhile is noted."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        while True:
            answer = await self.socket.receive_json(timeout=60)
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    async def open(self, url):
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        deadline = time.monotonic() + 60
        while not self.loaded:
            assert time.monotonic() < deadline
            message = await self.socket.receive_json(timeout=60)
            self._note(message.get("method"), message.get("params", {}))

    async def run(self, script):
        """The value of a JavaScript expression."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def picture(self, path, width, scheme="light", height=None):
        """A PNG of the page `width` pixels wide; the whole page unless a height is given."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height or 900, deviceScaleFactor=1, mobile=False
        )
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=height is None)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    async def print(self, path):
        answer = await self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def _note(self, method, params):
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.messages.append(params["exceptionDetails"]["text"])
        elif method == "Log.entryAdded":
            self.messages.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.messages.append(str(params["args"]))


def visit(path, folder, use):
    """Open the local file `path` in a browser with its profile in `folder`; returns what `await use(page)` returns."""
    return asyncio.run(_visit(Path(path), Path(folder), use))


async def _visit(path, folder, use):
    import aiohttp

    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        port = await _port(folder / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(t for t in await answer.json(content_type=None) if t["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.open(path.resolve().as_uri())
                return await use(page)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _port(file, process):
    deadline = time.monotonic() + 60
    while not (file.is_file() and file.read_text().strip()):
        assert process.poll() is None and time.monotonic() < deadline, "the browser did not start"
        await asyncio.sleep(0.1)
    return int(file.read_text().split()[0])
