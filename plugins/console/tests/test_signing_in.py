"""Signing in: by key, by link, and what a page shows who may not do all."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import urllib.request

import pytest
from console_pages import CHROMIUM, asked, served, shown

from mataserver import testing

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
SECRETS = """JSON.stringify([location.href, document.documentElement.outerHTML, { ...localStorage },
  { ...sessionStorage }, [...document.querySelectorAll("input")].map((e) => e.value)])"""


def test_plugin_is_sound():
    """It is found, its hook is well formed, and it imports no framework."""
    assert testing.check_plugin("console") == []


async def test_a_key(tmp_path):
    """A wrong one is told in a sentence; the right one opens the console, which keeps no key."""
    async with served(tmp_path) as server, shown(server.url, tmp_path, "wrong") as person:
        await person.sees("Invalid API key")
        await person.enter()
        await person.sees("Drop a picture here")
        assert "Invalid API key" not in await person.text()
        assert "test-key" not in await person.evaluate(SECRETS)


async def test_a_link(tmp_path):
    """It signs in and leaves the address at once; used again it says what helps."""
    async with served(tmp_path) as server:
        code = (await asked(server, "POST", "/v1/session/link"))["code"]
        async with shown(f"{server.url}/#code={code}", tmp_path, None) as person:
            await person.sees("Drop a picture here")
            assert code not in await person.evaluate(SECRETS)
            await person.evaluate(f"location.hash = 'code={code}'; location.reload()")
            await person.until("!!document.querySelector('.app:not(.shell)')")
            await person.click("Sign out")
            await person.sees("Sign in to go on")
            await person.evaluate(f"location.hash = 'code={code}'; location.reload()")
            await person.sees("The link was used already, or is older than ten minutes")


async def test_signing_out(tmp_path):
    """The cookie is worth nothing then, the picture is forgotten, and the form is back."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.give()
        await person.sees("square.png")
        await person.click("Sign out")
        await person.sees("Sign in to go on")
        assert await person.evaluate("fetch('v1/models').then((answer) => answer.status)") == 401
        await person.enter()
        await person.sees("Drop a picture here")


async def test_a_key_that_may_infer_only(tmp_path):
    """It may not list the models: the name is typed. Pages that it may not read are not offered."""
    async with served(tmp_path) as server, shown(server.url, tmp_path, "door-key") as person:
        await person.fill("input.typed", "fake-detect")
        await person.give()
        await person.sees("64x64")
        assert "Models" not in await person.text(".side")


async def test_a_name_where_users_are_not_known(tmp_path):
    """Without the plugin for users the form says so."""
    async with served(tmp_path) as server, shown(server.url, tmp_path, None) as person:
        await person.click("Use a name and password")
        await person.fill("input[name=name]", "ada")
        await person.fill("input[name=password]", "correct horse")
        await person.click("Sign in")
        await person.sees("This server knows keys only")


async def test_who_is_signed_in_may_try_the_documents_operations(tmp_path):
    """What changes something carries the session's token, without another sign-in at /docs."""
    block = "document.querySelector('#operations-models-post_v1_models_warmup')"
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.page.call("Page.navigate", url=f"{server.url}/docs")
        await person.until(f"!!{block}?.querySelector('.opblock-summary-control')")
        await person.evaluate(f"{block}.querySelector('.opblock-summary-control').click()")
        await person.until(f"!!{block}.querySelector('.try-out__btn')")
        await person.evaluate(f"{block}.querySelector('.try-out__btn').click()")
        body = '{"model": "fake-detect"}'
        await person.until(f"!!{block}.querySelector('textarea')")
        await person.fill("#operations-models-post_v1_models_warmup textarea", body)
        await person.evaluate(f"{block}.querySelector('.execute').click()")
        status = f"{block}.querySelector('.live-responses-table tr.response .response-col_status')"
        assert (await person.until(f"{status}?.textContent")).startswith("200")


async def started(folder, port):
    """Start a server as its operator does; return its process once it answers."""
    environment = {**os.environ, "HOME": str(folder), "MATA_SERVER_API_KEY": "test-key"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mataserver", "serve", "--port", str(port)),
        env=environment, cwd=folder,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    while True:
        try:
            url = f"http://127.0.0.1:{port}/health"
            await asyncio.to_thread(urllib.request.urlopen, url, None, 2)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return process


async def test_a_restart_under_an_open_page(tmp_path):
    """The page says when it tries again; then it asks to sign in, and nothing is lost."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = await started(tmp_path, port)
    try:
        async with shown(f"http://127.0.0.1:{port}/#/try?model=opencv-faces", tmp_path) as person:
            await person.give()
            await person.sees("Nothing found")
            process.terminate()
            await process.wait()
            await person.fill(".params input[type=number]", "0.25")
            await person.sees("No answer from 127.0.0.1. Next try in")
            assert "square.png" in await person.text()
            process = await started(tmp_path, port)
            await person.sees("Sign in to go on")
            await person.enter()
            await person.until("!document.querySelector('.gate, .silence')")
            assert "square.png" in await person.text()
            assert "confidence=0.25" in await person.evaluate("location.hash")
    finally:
        process.terminate()
        await process.wait()
