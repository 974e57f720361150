"""The console in Chromium, as a person has it before them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path

import aiohttp
from PIL import Image
from planted import POINT, TASKS

from browser_pages import CHROMIUM, ELSEWHERE, opened
from conftest import FAKES, picture, register
from mataserver import testing

__all__ = ["CHROMIUM", "ELSEWHERE"]
KEYS = ["test-key", {"key": "door-key", "name": "door", "scopes": ["infer"]}]
AXE = Path(__file__).parent / "axe.min.js"
SQUARE = picture(64, 64, (10, 8, 30, 28))

END = """fetch("v1/session").then((answer) => answer.json())
  .then((me) => fetch("v1/session", { method: "DELETE", headers: { "X-CSRF-Token": me.csrf } }))
  .then(() => 0)"""
"""Ends the session of a browser, which the page is not told of."""


class Person:
    """What somebody does with a page, and sees on it."""

    def __init__(self, page, folder):
        self.page = page
        self.evaluate = page.evaluate
        self._folder = folder

    async def until(self, script):
        """Return the value of a script as soon as it is true, over a reload too."""
        while True:
            with contextlib.suppress(KeyError):  # the page that was asked is gone
                if value := await self.evaluate(script):
                    return value
            await asyncio.sleep(0.05)

    async def sees(self, text):
        """Wait until the page shows a text."""
        await self.until(f"document.body?.innerText.includes({json.dumps(text)})")

    async def text(self, selector="body"):
        """Return what a part of the page shows."""
        return await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    async def click(self, text, within="body"):
        """Click what has a text, or a label, as soon as it is there."""
        await self.until(f"""(() => {{
          const kinds = {json.dumps(within)} + " :is(button, a, summary)";
          const all = [...document.querySelectorAll(kinds)];
          const named = (e) => e.getAttribute("aria-label") ?? e.innerText.trim();
          const wanted = {json.dumps(text)};
          const found = all.find((e) => named(e) === wanted && !e.disabled)
            ?? all.find((e) => named(e).startsWith(wanted) && !e.disabled);
          found?.click();
          return Boolean(found);
        }})()""")

    async def fill(self, selector, value):
        """Write into a field."""
        await self.until(f"!!document.querySelector({json.dumps(selector)})")
        await self.evaluate(f"""(() => {{
          const field = document.querySelector({json.dumps(selector)});
          const kind = Object.getPrototypeOf(field);
          Object.getOwnPropertyDescriptor(kind, "value").set.call(field, {json.dumps(str(value))});
          field.dispatchEvent(new Event("input", {{ bubbles: true }}));
          field.dispatchEvent(new Event("change", {{ bubbles: true }}));
        }})()""")

    async def pick(self, model):
        """Choose a model in a dialog."""
        await self.click("Model:", "dialog")
        await self.click(model, "dialog [role=listbox]")

    async def enter(self, key="test-key"):
        """Sign in with a key."""
        await self.fill("input[name=key]", key)
        await self.click("Sign in")

    async def go(self, place):
        """Go to a page of the console."""
        await self.evaluate(f"location.hash = {json.dumps('#/' + place)}")

    async def reload(self):
        """Load the page anew; the old one, which goes on for a while, is asked no more."""
        await self.evaluate("window.old = true; location.reload()")
        await self.until("!window.old && !!document.body")

    async def choose(self, selector, data, name):
        """Choose a file, as the dialog of files does."""
        path = self._folder / name
        if not path.exists() or path.read_bytes() != data:  # else it is the same file, of then
            path.write_bytes(data)
        await self.choose_all(selector, [path])

    async def choose_all(self, selector, paths):
        """Choose several files at once."""
        while True:
            await self.until(f"!!document.querySelector({json.dumps(selector)})")
            with contextlib.suppress(KeyError):  # the page drew another one since it was found
                root = (await self.page.call("DOM.getDocument"))["root"]["nodeId"]
                found = await self.page.call("DOM.querySelector", nodeId=root, selector=selector)
                node = found["nodeId"]
                files = [str(path) for path in paths]
                await self.page.call("DOM.setFileInputFiles", files=files, nodeId=node)
                return

    async def give(self, data=SQUARE, name="square.png"):
        """Choose a picture."""
        await self.choose("input[data-picture]", data, name)

    async def point(self, selector, x, y, button="left", to=None):
        """Click at a share of an element's width and height, or drag from there to another."""
        place = f"document.querySelector({json.dumps(selector)})"
        await self.until(f"{place}?.getBoundingClientRect().width > 0")
        left, top, width, height = await self.evaluate(
            f"(({{ left, top, width, height }}) => [left, top, width, height])"
            f"({place}.getBoundingClientRect())"
        )
        steps = [("mousePressed", x, y), ("mouseReleased", *(to or (x, y)))]
        if to:
            steps.insert(1, ("mouseMoved", *to))
        for kind, across, down in steps:
            await self.page.call(
                "Input.dispatchMouseEvent", type=kind, button=button, clickCount=1,
                x=left + across * width, y=top + down * height,
            )  # fmt: skip

    async def press(self, key):
        """Press a key."""
        await self.evaluate(f"""(document.activeElement ?? document.body).dispatchEvent(
          new KeyboardEvent("keydown", {{ key: {json.dumps(key)}, bubbles: true }}))""")

    async def screen(self, width=1280, height=800, *, dark=False, phone=False):
        """Give the page another screen."""
        await self.page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=phone,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.page.call("Emulation.setEmulatedMedia", features=[scheme])

    async def faults(self):
        """Return what axe finds serious, each with the elements that it is about."""
        if not await self.evaluate("typeof axe === 'object'"):
            await self.evaluate(AXE.read_text() + "; 0")
        # A colour that is on its way to another one is neither's.
        await self.evaluate("""new Promise((drawn) => requestAnimationFrame(() => drawn()))
          .then(() => Promise.allSettled(document.getAnimations()
            .filter((each) => Number.isFinite(each.effect.getComputedTiming().endTime))
            .map((each) => each.finished))).then(() => 0)""")
        found = await self.evaluate("""axe.run(document, { resultTypes: ["violations"] })
          .then((all) => JSON.stringify(all.violations
            .filter((each) => ["serious", "critical"].includes(each.impact))
            .map((each) => [each.id, each.nodes.map((node) =>
              node.html.slice(0, 200) + node.failureSummary)])))""")
        return json.loads(found)


@contextlib.asynccontextmanager
async def shown(url, folder, key="test-key", flags=(), seconds=100):
    """Yield a person before the console at ``url``, signed in with ``key`` if there is one."""
    async with asyncio.timeout(seconds), opened(url, *flags) as page:
        person = Person(page, folder)
        await person.screen()
        await person.until("!!document.querySelector('.signin, .app:not(.shell)')")
        if key:
            await person.enter(key)
            known = "'.signin .note, .app:not(.shell) h1'"
            await person.until(f"!!document.querySelector({known})?.innerText")
        yield person


@contextlib.asynccontextmanager
async def served(tmp_path, *names, points=(), registered=(), **settings):
    """Yield a server with the fake models, the planted ones, and the console."""
    fakes = {f"fake-{task}": task for task in FAKES}
    register(tmp_path / "data", {**fakes, **TASKS, **dict(registered)})
    every = [testing.FAKE, POINT, *points, *testing.installed("console", *names)]
    given = {"engine": "thread", "api_keys": KEYS, **settings}
    async with testing.serving(tmp_path / "data", entry_points=every, **given) as made:
        yield made


async def asked(server, method, path, **arguments):
    """Return what the server answers its operator."""
    async with (
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
        http.request(method, path, **arguments) as answer,
    ):
        return await answer.json() if answer.status != 204 else None


NODE = shutil.which("node")
"""Runs the code for JavaScript, where it is installed."""


async def ran(person, tab, folder):
    """Return what the code of one tab prints, run as it is copied with the key of the server."""
    await person.click(tab, ".codebox")
    code = await person.text(".codebox pre")
    assert "test-key" not in code
    runs = {"curl": "{}", "Python": "python - <<'END'\n{}\nEND"}
    script = runs.get(tab, "node --input-type=module <<'END'\n{}\nEND").replace("{}", code)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    made = await asyncio.create_subprocess_shell(
        script,
        cwd=folder,
        env={**os.environ, "KEY": "test-key", "PATH": path},
        stdout=asyncio.subprocess.PIPE,
    )
    said = (await made.communicate())[0].decode()
    assert made.returncode == 0, (code, said)
    return said


TABS = ("curl", "Python", *(("JavaScript",) if NODE else ()))


def large(width, height):
    """Return a JPEG of many pixels and few bytes, with a red box."""
    image = Image.new("RGB", (width, height), (60, 60, 60))
    image.paste((255, 0, 0), (100, 80, 3000, 2800))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return buffer.getvalue()
