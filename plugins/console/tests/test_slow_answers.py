"""A slow network, on which answers overtake each other: the newest that is known is shown."""

from __future__ import annotations

import json
from pathlib import Path

import planted_sam
import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown
from test_finding import press
from test_two_tabs import slow_job

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
PICTURES = Path(__file__).parents[3] / "examples" / "pictures"


async def hold(person, path):
    """Have the answers to a path come, but not get to the page, until they are let go."""
    await person.evaluate(f"""window.real ??= fetch; window.held = [];
      window.fetch = async (path, options) => {{
        const answer = await real(path, options);
        if (path === {json.dumps(path)}) await new Promise((go) => held.push(go));
        return answer;
      }}; 0""")


async def held(person, number=1):
    """Wait until so many answers are held."""
    await person.until(f"window.held.length >= {number}")


async def let_go(person, number):
    """Let the first ones go, and hold no more; the page has read them then."""
    await person.evaluate(f"""window.fetch = real; held.slice(0, {number}).map((go) => go());
      new Promise((done) => setTimeout(() => done(0), 200))""")


async def test_a_look_of_before_a_change(tmp_path):
    """An answer that was on its way while a model was loaded does not unload it on the page."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('tr[data-model=many] .state.off')")
        await hold(person, "v1/models")
        await held(person)
        await person.evaluate("window.fetch = real; 0")
        await person.click("Load", "tr[data-model=many]")
        await person.until("!!document.querySelector('tr[data-model=many] .state.ok')")
        await person.evaluate("""window.states = []; new MutationObserver(() =>
            states.push(document.querySelector("tr[data-model=many] .state").innerText))
          .observe(document.querySelector("tbody"),
            { subtree: true, childList: true, characterData: true }); 0""")
        await let_go(person, 1)
        assert "unloaded" not in await person.evaluate("window.states")


async def test_all_who_look_wait_for_one_answer(tmp_path):
    """Two parts of a page that show the same are of one request, however long it takes."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await hold(person, "metrics")
        await person.go("models")
        await person.until("document.querySelectorAll('tr[data-model]').length > 3")
        await held(person)
        await person.evaluate("new Promise((done) => setTimeout(() => done(0), 200))")
        assert await person.evaluate("window.held.length") == 1


async def test_a_job_that_ended_meanwhile(tmp_path):
    """A look at a job, asked for when its stream broke, does not take its end away."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate("""window.EventSource = class extends EventSource {
          constructor(url) { super(url); window.stream = this; } }; 0""")
        begun = await slow_job(server)
        await person.go(f"jobs?id={begun}")
        await person.until("!!document.querySelector('.jobhead .state.busy') && !!window.stream")
        await hold(person, f"v1/jobs/{begun}")
        await person.evaluate("stream.dispatchEvent(new Event('error')); 0")
        await held(person)
        await person.until("!!document.querySelector('.jobhead .state.ok')")
        await let_go(person, 1)
        assert await person.text(".jobhead .state") == "done"


async def test_a_proxy_that_has_no_server_for_a_moment(tmp_path):
    """A 502 ends an EventSource for good; the job is followed again all the same."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        begun = await slow_job(server)
        await person.evaluate(f"""window.real = fetch; window.refused = 0;
          window.fetch = (path, options) => (path === "v1/jobs/{begun}" && refused++ < 1
            ? Promise.resolve(new Response("Bad Gateway", {{ status: 502 }}))
            : real(path, options)); 0""")
        await person.go(f"jobs?id={begun}")
        await person.sees("Status 502")
        await person.until("!!document.querySelector('.jobhead .state.ok')")
        assert await person.evaluate("window.refused") > 1


async def test_a_picture_that_was_chosen_before_another(tmp_path):
    """An example that takes long to come does not replace the file that was given meanwhile."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await hold(person, "console/pictures/receipt.jpg")
        receipt = "[...document.querySelectorAll('.drop button:has(img[alt=\"A receipt\"])')]"
        await person.until(f"{receipt}[0]?.click(), {receipt}.length === 1")
        await held(person)
        assert await person.evaluate("!!document.querySelector('.stagebox .running')")
        await person.give(SQUARE, "square.png")
        await person.sees("square.png\n64 \u00d7 64")
        await let_go(person, 1)
        assert "square.png\n64 \u00d7 64" in await person.text()
        await person.evaluate("""window.fetch = () => Promise.reject(new TypeError("none")); 0""")
        await person.click("", ".examples")
        await person.until("!!document.querySelector('.pictures .err')?.innerText")
        assert "square.png\n64 \u00d7 64" in await person.text()


async def test_the_keyboard_points_on_segment(tmp_path):
    """With the focus on the picture there is a cross in its middle, and Enter clicks there."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.give((PICTURES / "astronaut.jpg").read_bytes(), "astronaut.jpg")
        await person.until("!!document.querySelector('.clicks img[alt=\"astronaut.jpg\"]')")
        undo = "document.querySelector('.toolbar [aria-label=\"Take back\"]')"
        assert await person.evaluate(f"{undo}.disabled")
        await person.evaluate("document.querySelector('.toolbar .btn').focus(); 0")
        for _ in range(4):  # Remove, Box, the opacity, the picture
            await press(person, "Tab", code=9)
        place = await person.until("document.querySelector('.cross b')?.innerText")
        await person.press("Enter")
        await person.until("document.querySelectorAll('.over .mask').length === 1")
        assert place == "256, 256"
        await person.until(f"!{undo}.disabled")
        made = await asked(server, "GET", "/models/info")
        assert made["image_model"]["loaded"]
