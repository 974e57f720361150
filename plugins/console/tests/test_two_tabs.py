"""Two tabs of one browser, pages that lead nowhere, and sessions that end under an open page."""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile

import aiohttp
import pytest
from console_pages import CHROMIUM, END, SQUARE, asked, served, shown
from tabs import LIST, another

from hub_stand_in import HubStandIn

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]


async def test_a_model_that_another_tab_removed(tmp_path):
    """It leaves the list, and Try says that there is none of that name."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=many")
        await person.give()
        await person.until("document.querySelectorAll('.found li[data-n]').length > 3")
        async with another(person, server, tmp_path, "#/models") as other:
            await other.click("More for many")
            await other.click("Remove", ".menu")
            await other.until("document.activeElement.innerText === 'Keep'")
            await other.click("Remove many")
            await other.until(f"!{LIST}.includes('many')")
        await person.evaluate("document.querySelector('.left .primary').click()")
        await person.until("document.querySelector('.right .note.bad')?.innerText.includes('many')")


async def slow_job(server, seconds=0.2):
    """Return a job of forty pictures, each of which takes some seconds."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for at in range(40):
            archive.writestr(f"{at}.png", SQUARE)
    form = aiohttp.FormData({"model": "fake-detect", "params": f'{{"seconds": {seconds}}}'})
    form.add_field("file", packed.getvalue(), filename="squares.zip")
    return (await asked(server, "POST", "/v1/jobs/infer", data=form))["id"]


async def test_a_job_that_another_tab_runs_again_and_removes(tmp_path):
    """Who looks at it sees it run, and then that there is none."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        begun = await slow_job(server)
        await asked(server, "POST", f"/v1/jobs/{begun}/cancel")
        await person.go(f"jobs?id={begun}")
        await person.until("document.querySelector('.jobhead .state')?.innerText === 'cancelled'")
        async with another(person, server, tmp_path, f"#/jobs?id={begun}") as other:
            await other.click("Run again")
            await person.page.call("Page.bringToFront")  # a hidden page asks for nothing
            await person.until("!!document.querySelector('.jobhead .state.busy')")
            await person.until("!!document.querySelector('.jobhead .state.ok')")
            await other.click("Remove")
            await other.sees("Its files go too.")
            await other.click("Remove")
            await person.page.call("Page.bringToFront")
            await person.sees("All jobs")
            assert not await person.evaluate("!!document.querySelector('.jobhead')")


async def test_addresses_that_lead_nowhere(tmp_path):
    """They say so, with a way on."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("nonsense")
        await person.sees("The address names no page of this console.")
        await person.go("fleet")
        await person.sees("Fleet is not part of this server")
        assert await person.faults() == []
        await person.click("Go to Try")
        await person.sees("Drop a picture here")
        await person.screen(390, 844, phone=True)
        await person.go("jobs?id=nope")
        await person.click("All jobs")
        await person.sees("No job yet.")
        for name in ("constructor", "toString", "__proto__"):  # what every object has
            async with another(person, server, tmp_path, f"#/{name}") as other:
                await other.sees("The address names no page of this console.")
                await other.go("more")
                await other.sees("Operate")
                await other.evaluate("new Promise((done) => setTimeout(() => done(0), 600))")
                assert not await other.evaluate("!!document.querySelector('.bar .running')")


async def test_a_job_is_followed_after_signing_in_again(tmp_path):
    """A session that ends while a job runs: its page goes on with the next one."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate("window.same = 1")
        begun = await slow_job(server)
        await person.go(f"jobs?id={begun}")
        await person.until("!!document.querySelector('.jobhead .state.busy')")
        await person.evaluate(END)
        await person.until("!!document.querySelector('.signin')")
        await person.enter()
        await person.until("!!document.querySelector('.jobhead .state.ok')")
        assert await person.evaluate("window.same") == 1


async def test_a_question_is_answered_by_the_keyboard(tmp_path):
    """What asks whether it is meant has the focus on what changes nothing, and gives it back."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await asked(server, "POST", "/v1/sessions", json={"model": "fake-track"})
        await person.go("live")
        focused = "document.activeElement.innerText"
        await person.until(
            f"document.querySelector('.sugg .asks button')?.focus(), {focused} === 'Close'"
        )
        await person.evaluate("document.activeElement.click()")
        await person.until(f"{focused} === 'Keep'")
        told = "document.activeElement.getAttribute('aria-describedby')"
        effect = await person.evaluate(f"document.getElementById({told}).innerText")
        assert effect == "It loses its place."
        await person.evaluate("document.activeElement.click()")
        await person.until(f"{focused} === 'Close'")


@pytest.mark.parametrize("width", [1280, 390])
async def test_long_names_and_many_rows(tmp_path, width):
    """No page is wider than its window, whatever its models are called."""
    long = "an-organisation-with-a-long-name/a-vision-transformer-" + "with-a-very-long-name-" * 4
    names = {long: "detect", **{f"org-{at}/model-{at}": "detect" for at in range(300)}}
    async with served(tmp_path, registered=names) as server, shown(server.url, tmp_path) as person:
        await person.screen(width, 844, phone=width < 400)
        for page in ("models", f"try?model={long}", f"compare?model={long}&with={long}", "server"):
            await person.go(page)
            await person.until("!!document.querySelector('.app:not(.shell) h1')")
            await asyncio.sleep(1)
            root = "document.documentElement"
            wide = f"[innerWidth, {root}.scrollWidth - {root}.clientWidth]"
            assert await person.evaluate(wide) == [width, 0], page
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length === 200")
        await person.click(f"More for {long}")
        await person.click("Remove", ".menu")
        await person.until("document.activeElement.innerText === 'Keep'")
        assert await person.evaluate(wide) == [width, 0]


async def test_forced_colours_leave_what_is_on(tmp_path):
    """A switch, a slider's way and a button that is pressed are told from those that are not."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        features = [{"name": "forced-colors", "value": "active"}]
        await person.page.call("Emulation.setEmulatedMedia", features=features)
        await person.go("try?model=many")
        await person.until("!!document.querySelector('.btn[aria-pressed]')")
        looks = """[".switch", ".btn[aria-pressed]"].map((kind) => {
          const { backgroundColor, outlineStyle } = getComputedStyle(document.querySelector(kind));
          return [backgroundColor, outlineStyle].join(); })"""
        before = await person.evaluate(looks)
        await person.click("Run on every change")
        await person.click("Boxes")
        await person.until("!!document.querySelector('.btn[aria-pressed=false]')")
        await person.evaluate("document.activeElement.blur()")
        await person.until(f"{looks}.every((look, at) => look !== {before}[at])")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in hub with a model that the fake plugin serves."""
    with HubStandIn() as made:
        for name in [each for each in os.environ if each.startswith(("HF_", "HUGGINGFACE_"))]:
            monkeypatch.delenv(name)
        for name, value in made.environment(tmp_path / "hf").items():
            if name.startswith("HF_"):
                monkeypatch.setenv(name, value)
        config = json.dumps({"model_type": "fake"}).encode()
        made.add("org/m0", {"config.json": config, "model.safetensors": bytes(200_000)})
        yield made


PULLED = "document.querySelector('tr .meter[aria-label=\"Pulling org/m0\"]')"


async def test_a_pull_in_another_tab(hub, tmp_path):
    """Every tab shows how far it is, one that comes later too, and may cancel it."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        async with another(person, server, tmp_path, "#/models") as other:
            await other.until(f"{LIST}.length > 3")
            hub.repos["org/m0"].hold_at = 100_000
            await person.fill("input[name=model]", "org/m0")
            await person.fill("select[name=task]", "detect")
            await person.click("Pull", "form")
            assert await asyncio.to_thread(hub.holding.wait, 30)
            for each in (person, other):
                await each.until(f"{PULLED}?.parentElement.innerText.includes('of 200')")
            async with another(person, server, tmp_path, "#/models") as third:
                await third.until(f"!!{PULLED}")
                await third.click("Cancel", "tr:has(.meter)")
                for each in (person, other, third):
                    await each.until(f"!{PULLED}")
            assert await asyncio.to_thread(hub.dropped.wait, 30)
            await person.fill("input[name=model]", "org/none")
            await person.click("Pull", "form")
            for each in (person, other):
                await each.until("!!document.querySelector('tr .err')?.innerText")
            await other.click("Dismiss")
            await person.until("!document.querySelector('tr .err')")


async def test_a_pull_of_somebody_else(hub, tmp_path):
    """What another program pulls has its row, with its failure, and may be cancelled there."""
    async with (
        served(tmp_path) as server,
        shown(server.url, tmp_path) as person,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        await person.go("models")
        hub.repos["org/m0"].hold_at = 100_000
        wanted = {"model": "org/m0", "task": "detect"}
        pull = asyncio.create_task(http.post("/v1/models/pull", json=wanted))
        assert await asyncio.to_thread(hub.holding.wait, 30)
        await person.until(f"{PULLED}?.parentElement.innerText.includes('of 200')")
        await person.click("Cancel", "tr:has(.meter)")
        assert (await pull).status == 409
        await person.until(f"!{PULLED}")
        assert (
            await http.post("/v1/models/pull", json=wanted | {"model": "org/none"})
        ).status == 400
        await person.until("!!document.querySelector('tr .err')?.innerText.includes('org/none')")
        await person.click("Dismiss")
        await person.until("!document.querySelector('tr .err')")
        async with http.get("/v1/pulls") as response:
            assert await response.json() == []


async def test_one_file_in_two_tabs(tmp_path):
    """The second waits until the first has sent it and begun its job, and then makes its own."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", SQUARE)
        archive.writestr("noise.bin", os.urandom(5_000_000))
    (tmp_path / "squares.zip").write_bytes(packed.getvalue())
    sends = """performance.getEntriesByType("resource")
      .filter((each) => /v1.uploads/.test(each.name)).length"""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate("""window.real = fetch; window.held = [];
          window.fetch = (path, options) => (options?.method !== "PATCH" ? real(path, options)
            : new Promise((go) => window.held.push(() => go(real(path, options))))); 0""")
        async with another(person, server, tmp_path, "#/jobs") as other:
            for each in (person, other):
                await each.go("jobs")
                await each.click("New job")
                await each.pick("fake-detect")
                await each.choose("input[name=file]", packed.getvalue(), "squares.zip")
                await each.click("Start", "dialog")
                if each is person:
                    await person.until("window.held.length === 1")
            await other.sees("Another tab sends this file. This one waits for it.")
            assert await other.evaluate(sends) == 0
            await person.evaluate("window.fetch = real; window.held[0](); 0")
            for each in (person, other):
                await each.until("location.hash.includes('id=')")
            assert (await asked(server, "GET", "/v1/jobs"))["total"] == 2
            places = [await each.evaluate("location.hash") for each in (person, other)]
            assert places[0] != places[1]
