"""Chromium for the tests of pages, asked through its debugger; its camera is a made-up one."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ELSEWHERE = "box.test"
"""A name of this machine that is another one's for the browser: no secure context over HTTP."""


class Page:
    """A page's debugger; ``asked`` holds the addresses of its requests so far."""

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self.asked = []

    async def call(self, method, **params):
        """Call a method of the protocol; return its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while (said := await self._socket.receive_json()).get("id") != self._number:
            if said["method"] == "Network.requestWillBeSent":
                self.asked.append(said["params"]["request"]["url"])
        return said["result"]

    async def evaluate(self, script):
        """Return the value of a script, or of the promise that it makes."""
        made = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in made, made
        return made["result"].get("value")

    async def until(self, script):
        """Return the value of a script as soon as it is true."""
        while not (value := await self.evaluate(script)):
            await asyncio.sleep(0.05)
        return value


@contextlib.asynccontextmanager
async def opened(url, folder, *flags):
    """Open a page in Chromium, with more flags; yield its debugger."""
    process = await asyncio.create_subprocess_exec(
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"),
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
        *(*flags, f"--user-data-dir={folder / 'browser'}", "about:blank"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        while not (at := re.search(rb"ws://([\d.:]+)/", await process.stderr.readline())):
            pass
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://{at[1].decode()}/json") as answer:
                tabs = await answer.json(content_type=None)
            (tab,) = [each for each in tabs if each["type"] == "page"]
            async with http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Network.enable")
                await page.call("Page.navigate", url=url)
                yield page
    finally:
        process.terminate()
        await process.communicate()
