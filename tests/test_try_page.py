"""The page at /, and the document's beside it, as a person in front of a browser has them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64encode

import aiohttp
import pytest

from browser_pages import CHROMIUM, ELSEWHERE, opened
from conftest import register
from mataserver import testing
from mataserver.http import examples

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HINT = "Choose a picture, drop one on this page, or start the camera."
KEYS = ["test-key", {"key": "door-key", "name": "door", "scopes": ["infer"]}]
STATUS = "at('status').textContent"
PICTURE = f"""await (await fetch("data:image/png;base64,{examples.PICTURE}")).blob()"""


@pytest.fixture
async def served(tmp_path):
    """A server with two models that come with their packages."""
    register(tmp_path / "data", {"opencv-qr": "detect", "opencv-faces": "detect"})
    points = testing.installed("opencv")
    async with testing.serving(
        tmp_path / "data", entry_points=points, engine="thread", api_keys=KEYS
    ) as made:
        yield made


@contextlib.asynccontextmanager
async def shown(url, folder, key=None):
    """Yield the page at ``url``, signed in with ``key``."""
    async with asyncio.timeout(90), opened(url, folder) as page:
        await page.until("typeof begin === 'function' && " + STATUS)
        if key:
            await page.evaluate(f"begin(signIn({{ key: {json.dumps(key)} }}))")
        yield page


async def asked(served, method, path):
    """Return what the server answers its operator."""
    async with (
        aiohttp.ClientSession(served.url, headers=served.headers) as http,
        http.request(method, path) as answer,
    ):
        return await answer.json()


async def test_what_was_said_of_a_wrong_key_does_not_outlast_it(served, tmp_path):
    """Once the right key is entered the page tells what to do, no longer what was wrong."""
    async with shown(f"{served.url}/", tmp_path, "wrong") as page:
        assert await page.evaluate(STATUS) == "Invalid API key"
        await page.evaluate("begin(signIn({ key: 'test-key' }))")
        assert await page.evaluate(STATUS) == HINT
        assert await page.evaluate("at('status').className") == ""
        assert await page.evaluate("at('key').placeholder") == "signed in"


async def test_a_link_that_is_followed_again(served, tmp_path):
    """In the browser that it signed in it does no harm; in another the page says what helps."""
    code = (await asked(served, "POST", "/v1/session/link"))["code"]
    async with shown(f"{served.url}/#code={code}", tmp_path) as page:
        assert await page.until(STATUS) == HINT
        await page.evaluate(f"begin(follow('{code}'))")
        assert await page.evaluate(STATUS) == HINT
        await page.evaluate(f"signOut().then(() => begin(follow('{code}')))")
        assert ". Enter the key: the server tells" in await page.evaluate(STATUS)


async def test_signing_out(served, tmp_path):
    """The button is there for who is signed in; afterwards the cookie is worth nothing."""
    async with shown(f"{served.url}/", tmp_path) as page:
        assert await page.evaluate("at('leave').hidden")
        await page.evaluate("begin(signIn({ key: 'test-key' }))")
        assert not await page.evaluate("at('leave').hidden")
        await page.evaluate("at('leave').click()")
        await page.until(STATUS + " === 'Signed out.'")
        assert await page.evaluate("fetch('v1/models').then((answer) => answer.status)") == 401
        assert await page.evaluate("at('model').options.length") == 0


async def test_a_key_that_may_infer_only(served, tmp_path):
    """It may not list the models: the name is typed. With another key they are listed again."""
    async with shown(f"{served.url}/", tmp_path, "door-key") as page:
        assert await page.evaluate(STATUS) == HINT
        script = (
            f"""(async () => {{ at("model").value = "opencv-qr"; await infer({PICTURE}); }})()"""
        )
        await page.evaluate(script)
        assert '"label": "mataserver"' in await page.evaluate("at('answer').textContent")
        await page.evaluate("begin(signIn({ key: 'test-key' }))")
        assert await page.evaluate("at('model').options.length") == 2
        assert await page.evaluate("at('model').value") == "opencv-qr"


async def test_another_model_is_asked_about_the_same_picture(served, tmp_path):
    """Choosing a model asks it; what cannot be answered leaves no older answer standing."""
    async with shown(f"{served.url}/", tmp_path, "test-key") as page:
        await page.evaluate(f"""(async () => {{
          at("model").value = "opencv-qr"; await infer({PICTURE});
          at("model").value = "opencv-faces"; at("model").onchange();
        }})()""")
        await page.until(STATUS + ".startsWith('detect by opencv-faces in')")
        assert '"model": "opencv-faces"' in await page.evaluate("at('answer').textContent")
        text = b64encode(b"%PDF-1.4").decode()
        await page.evaluate(f"infer(new Blob([atob('{text}')]))")
        assert "it is a PDF" in await page.evaluate(STATUS)
        assert await page.evaluate("at('answer').hidden")


async def test_a_double_click_starts_one_camera(served, tmp_path):
    """The second click does nothing while the first one is at work; "Stop" leaves none behind."""
    async with shown(f"{served.url}/", tmp_path, "test-key") as page:
        await page.evaluate("at('camera').click(); at('camera').click()")
        await page.until(STATUS + ".endsWith('results per second')")
        await asyncio.sleep(0.5)
        assert len(await asked(served, "GET", "/v1/sessions")) == 1
        await page.evaluate("at('camera').click()")
        while await asked(served, "GET", "/v1/sessions"):
            await asyncio.sleep(0.05)
        await page.evaluate("at('camera').click()")
        await page.until(STATUS + ".endsWith('results per second')")
        assert len(await asked(served, "GET", "/v1/sessions")) == 1


async def test_the_camera_needs_https_elsewhere(served, tmp_path):
    """Over plain HTTP from another machine a browser has no camera for a page, which says so."""
    url = served.url.replace("127.0.0.1", ELSEWHERE)
    async with shown(f"{url}/", tmp_path, "test-key") as page:
        assert await page.evaluate(STATUS) == HINT
        await page.evaluate("startCamera()")
        assert "over HTTPS or from localhost only" in await page.evaluate(STATUS)
        assert not await page.evaluate("at('camera').disabled")


async def test_who_is_signed_in_may_try_the_documents_operations(served, tmp_path):
    """What changes something carries the session's token, without another sign-in at /docs."""
    block = "document.querySelector('#operations-models-post_v1_models_warmup')"
    async with shown(f"{served.url}/", tmp_path, "test-key") as page:
        await page.call("Page.navigate", url=f"{served.url}/docs")
        await page.until(f"!!{block}?.querySelector('.opblock-summary-control')")
        await page.evaluate(f"{block}.querySelector('.opblock-summary-control').click()")
        for button in (".try-out__btn", ".execute"):
            await page.until(f"!!{block}.querySelector('{button}')")
            await page.evaluate(f"{block}.querySelector('{button}').click()")
        status = f"{block}.querySelector('.live-responses-table tr.response .response-col_status')"
        assert (await page.until(f"{status}?.textContent")).startswith("200")
