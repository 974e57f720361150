"""A session that is over under an open page: what failed for it is asked again by who signs in."""

from __future__ import annotations

import asyncio
from pathlib import Path

import planted_cloud
import pytest
from console_pages import CHROMIUM, END, asked, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]


@pytest.fixture(autouse=True)
def planted(monkeypatch):
    """The processes of jobs find the stand-in beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


async def before(person, key="test-key"):
    """Sign in as soon as the page asks for it, which it may do without a reload alone."""
    await person.until("!!document.querySelector('.signin')")
    await person.enter(key)
    await person.until("!document.querySelector('.signin')")


async def test_a_cloud(tmp_path):
    """Its points, its cameras and its photographs are there after the next sign-in."""
    async with (
        served(tmp_path, "database", "jobs", points=[planted_cloud.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        begun = (await asked(server, "POST", "/upload"))["job_id"]
        while (await asked(server, "GET", f"/v1/jobs/{begun}"))["state"] != "done":
            await asyncio.sleep(0.05)
        await person.evaluate(f"""window.same = true; window.real = fetch;
          window.fetch = async (path, options) => {{
            const answer = await real(path, options);
            if (path === "v1/jobs/{begun}") {{ window.fetch = real; await {END}; }}
            return answer;
          }}; 0""")
        await person.go(f"jobs?id={begun}")
        await before(person)
        await person.until("!!document.querySelector('.facts-left')")
        await person.until("""(() => {
          const all = [...document.querySelectorAll(".photos img")];
          return all.length === 4 && all.every((each) => each.complete && each.naturalWidth > 0);
        })()""")
        assert await person.evaluate("document.querySelectorAll('.note.bad').length") == 0
        assert await person.evaluate("window.same")


async def test_a_run(tmp_path):
    """A picture that was asked about is answered."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.evaluate(END)
        await person.give()
        await before(person)
        await person.until("document.querySelectorAll('.found li[data-n]').length > 3")
        assert await person.evaluate("document.querySelectorAll('.note.bad').length") == 0


async def test_what_changes_something(tmp_path):
    """It is done for the same person, and never in the name of another one."""
    keys = ["test-key", {"key": "other-key", "name": "other", "scopes": ["admin"]}]
    async with served(tmp_path, api_keys=keys) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        for key, name, loaded in (
            ("test-key", "fake-detect", "fake-detect"),
            ("other-key", "many", "fake-ocr"),
        ):
            await person.until(f"!!document.querySelector('tr[data-model={name}] .btn')")
            await person.evaluate(END)
            await person.click("Load", f"tr[data-model={name}]")
            await before(person, key)
            if name != loaded:
                await person.click("Load", f"tr[data-model={loaded}]")
            await person.until(f"!!document.querySelector('tr[data-model={loaded}] .state.ok')")
        assert (await asked(server, "GET", "/v1/models/many"))["state"] == "unloaded"


async def test_somebody_else(tmp_path):
    """Nothing that the one looked at is left for the other, in the same tab either."""
    keys = ["test-key", {"key": "other-key", "name": "other", "scopes": ["admin"]}]
    async with served(tmp_path, api_keys=keys) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give(name="secret.png")
        await person.until("document.querySelectorAll('.found li[data-n]').length > 3")
        await person.evaluate(END)
        await person.click("Run", ".left")
        await before(person, "other-key")
        await person.until("document.querySelector('.me')?.innerText.startsWith('other')")
        await person.sees("Drop a picture here")
        assert "secret.png" not in await person.text()


async def test_a_refusal_of_before_the_next_sign_in(tmp_path):
    """One that comes late is of the session that was over: who is signed in again stays so."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 3")
        await person.evaluate(f"""{END}.then(() => {{
          window.real = fetch; window.held = [];
          window.fetch = async (path, options) => {{
            const answer = await real(path, options);
            if (path === "v1/sessions" && answer.status === 401)
              await new Promise((go) => held.push(go));
            return answer;
          }};
          document.dispatchEvent(new Event("visibilitychange"));
          return 0;
        }})""")
        await person.until("window.held.length > 0 && !!document.querySelector('.signin')")
        await person.enter()
        await person.until("!document.querySelector('.signin')")
        await person.evaluate("""window.fetch = real; held.map((go) => go());
          new Promise((done) => setTimeout(() => done(0), 200))""")
        assert not await person.evaluate("!!document.querySelector('.signin')")
