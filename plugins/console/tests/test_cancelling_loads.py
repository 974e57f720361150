"""A model that takes long to load: what it waits for is seen, and it can be cancelled."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, asked, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
SLOW = {"fake": {"load_seconds": 15}}
ROW = "tr[data-model=fake-detect]"
ERRORS = "[...document.querySelectorAll('[role=alert], .note.bad, .err')].map((e) => e.innerText)"


async def state(server):
    """Return the state of the model as the server says it."""
    return (await asked(server, "GET", "/v1/models/fake-detect"))["state"]


async def test_a_load_is_cancelled_on_models(tmp_path):
    """The row says since when it loads and what it does; Cancel ends that without an error."""
    async with served(tmp_path, plugins=SLOW) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.click("Load", ROW)
        await person.sees("s, reading its weights")
        assert await person.text(f"{ROW} .state") == "loading"
        assert await person.faults() == []
        await person.click("Cancel", ROW)
        await person.until(f"document.querySelector('{ROW} .state')?.innerText === 'unloaded'")
        assert await state(server) == "unloaded"
        assert "reading its weights" not in await person.text()
        await person.until(f"document.querySelector('{ROW} .actions .btn').innerText === 'Load'")
        assert await person.evaluate(ERRORS) == []


async def test_a_load_that_somebody_else_began(tmp_path):
    """It is shown and cancelled all the same; who began it is told."""
    async with served(tmp_path, plugins=SLOW) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until(f"!!document.querySelector('{ROW}')")
        await person.evaluate("""import("./console/api.mjs").then(({ ask }) => {
          window.told = ask("v1/models/warmup", { json: { model: "fake-detect" } })
            .then(() => "", (error) => error.message); return 0; })""")
        await person.sees("reading its weights")
        await person.click("More for", ROW)
        await person.click("Cancel the load", ROW)
        assert "was cancelled" in await person.evaluate("window.told")
        await person.until(f"document.querySelector('{ROW} .state')?.innerText === 'unloaded'")


async def test_a_load_is_cancelled_on_try(tmp_path):
    """A run that waits for a load says so, and ends with it."""
    async with served(tmp_path, plugins=SLOW) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give()
        await person.sees("Loading fake-detect")
        await person.sees("s: reading its weights")
        await person.click("Cancel the load")
        await person.until("!document.querySelector('.stagebox .running')")
        await person.until("document.querySelector('.picker .state')?.innerText === 'unloaded'")
        assert await state(server) == "unloaded"
        assert await person.evaluate(ERRORS) == []


async def test_a_load_is_told_on_ask_and_live(tmp_path):
    """A question and a camera that wait for a model say what it does meanwhile."""
    async with served(tmp_path, plugins=SLOW) as server, shown(server.url, tmp_path) as person:
        await person.go("ask?model=fake-vlm")
        await person.give()
        await person.click("What is in the picture?")
        await person.sees("Loading fake-vlm")
        await person.sees("s: reading its weights")
        await person.click("Stop")
        await person.go("live?model=fake-detect")
        await person.click("Start")
        await person.sees("Loading fake-detect")
        await person.sees("s: reading its weights")
        assert await person.faults() == []


async def test_who_may_not_cancel(tmp_path):
    """A key without models:write sees the load, and has nothing to end it with."""
    keys = ["test-key", {"key": "eye", "name": "eye", "scopes": ["infer", "models:read"]}]
    async with (
        served(tmp_path, plugins=SLOW, api_keys=keys) as server,
        shown(server.url, tmp_path, "eye") as person,
    ):
        await person.go("try?model=fake-detect")
        await person.give()
        await person.sees("s: reading its weights")
        buttons = "[...document.querySelectorAll('.stagebox .foot button')].map((e) => e.innerText)"
        assert await person.evaluate(buttons) == ["Stop"]
        await person.go("models")
        await person.sees("s, reading its weights")
        assert "Cancel" not in await person.text(ROW)


async def test_a_model_that_does_not_fit(tmp_path):
    """The page says how much it needs, and how much is free."""
    async with (
        served(tmp_path, max_ram_fraction=1e-6) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("models")
        await person.click("Load", ROW)
        await person.sees("Not enough memory to load fake-detect: 256 MB of RAM needed, 0 MB free")
