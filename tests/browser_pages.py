"""Chromium for the tests of pages, asked through its debugger; its camera is a made-up one."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import ClassVar

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ELSEWHERE = "box.test"
"""A name of this machine that is another one's for the browser: no secure context over HTTP."""
MODEST = ["setpriv", "--bounding-set=-sys_nice"] if os.geteuid() == 0 else []
"""Root's Chromium would put itself before everything else that runs, also the server it asks."""
PLAIN = "WebUIOmniboxPopup,WebUIOmniboxFullPopup,WebUIOmniboxAimPopup"
"""Parts of its address bar, pages of their own: two processes more for each page, whose start takes
more than the page's."""
ENOUGH = 30.0
"""Seconds for what a Chromium does at once where it does it at all."""


class Page:
    """A page's debugger; ``asked`` holds the addresses of its requests so far.

    Where the browser asks whether to leave a page, it is left.

    ``beside(url)`` opens another tab of the same browser, as a context manager.
    """

    def __init__(self, socket):
        self._socket = socket
        self._number = 0
        self.asked = []
        self.beside = None

    async def call(self, method, **params):
        """Call a method of the protocol; return its result."""
        self._number += 1
        own = self._number
        await self._socket.send_json({"id": own, "method": method, "params": params})
        while (said := await self._socket.receive_json()).get("id") != own:
            # An answer of a call that was cancelled has no method.
            if said.get("method") == "Network.requestWillBeSent":
                self.asked.append(said["params"]["request"]["url"])
            if said.get("method") == "Page.javascriptDialogOpening":  # whether to leave it: yes
                self._number += 1
                yes = {"method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                await self._socket.send_json({"id": self._number, **yes})
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


class Browser:
    """A Chromium for the tests of a module; each page has a context, as in a new one."""

    _started: ClassVar[dict[tuple[str, ...], Browser]] = {}

    def __init__(self, flags):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            [
                *(*MODEST, CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-port=0", "--disable-renderer-backgrounding"),
                f"--disable-features={PLAIN}",
                *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
                f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1",
                *(*flags, f"--user-data-dir={self._folder.name}", "about:blank"),
            ],
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self._end)
        self._host, self.place = self._address()

    @classmethod
    def of(cls, flags):
        """Return the browser with these flags, started where it does not run."""
        found = cls._started.get(flags)
        if found is None or not found.runs:
            found = cls._started[flags] = cls(flags)
        return found

    @classmethod
    def end(cls):
        """End all of them."""
        while cls._started:
            cls._started.popitem()[1]._end()

    def _address(self):
        """Return where it listens, and the path of its own debugger."""
        written, until = Path(self._folder.name, "DevToolsActivePort"), time.monotonic() + ENOUGH
        while not written.exists() or "\n" not in (text := written.read_text()):
            assert self._process.poll() is None, "Chromium ended"
            if time.monotonic() > until:
                self.kill()
                raise AssertionError("Chromium does not listen")
            time.sleep(0.02)
        port, path = text.split()
        return f"http://127.0.0.1:{port}", path

    @property
    def runs(self):
        """Whether it can be asked."""
        return self._process.poll() is None

    def kill(self):
        """End it where it hangs, and with it its own processes; the next page has another."""
        self._process.kill()
        self._process.wait()

    @contextlib.asynccontextmanager
    async def answering(self):
        """Ask it something that takes no time; it is ended if it does not answer."""
        try:
            async with asyncio.timeout(ENOUGH):
                yield
        except TimeoutError:
            self.kill()
            raise

    def _end(self):
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENOUGH)
        self.kill()
        self._folder.cleanup()

    def debugger(self, target):
        """Return the address of a page's debugger."""
        return f"{self._host}/devtools/page/{target}"

    @property
    def own(self):
        """The address of its own debugger."""
        return f"{self._host}{self.place}"


async def left(page):
    """Leave a page for an empty one.

    Chromium 156 never ends a context that is disposed of while a page in it that listens to
    ``pagehide`` is on its way to another one: about every seventh time, whatever the page does.
    """
    await page.call("Page.navigate", url="about:blank")
    while True:
        with contextlib.suppress(KeyError):  # what was asked is gone
            if await page.evaluate("location.href + document.readyState") == "about:blankcomplete":
                return
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def opened(url, *flags):
    """Open a page in Chromium, with more flags, as somebody who was never there; yield it."""
    browser = await asyncio.to_thread(Browser.of, flags)
    async with aiohttp.ClientSession() as http, http.ws_connect(browser.own) as control:
        maker = Page(control)
        context = (await maker.call("Target.createBrowserContext"))["browserContextId"]
        own = {"browserContextId": context}

        @contextlib.asynccontextmanager
        async def tab(url):
            target = (await maker.call("Target.createTarget", url="about:blank", **own))["targetId"]
            async with http.ws_connect(browser.debugger(target), max_msg_size=0) as socket:
                page = Page(socket)
                page.beside = tab
                await page.call("Network.enable")
                await page.call("Page.enable")
                await page.call("Page.navigate", url=url)
                try:
                    yield page
                finally:
                    async with browser.answering():
                        await left(page)

        try:
            async with tab(url) as page:
                yield page
        finally:
            if browser.runs:
                async with browser.answering():
                    await maker.call("Target.disposeBrowserContext", **own)
