"""Lists of Fleet that are longer than what the server tells at a time."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, asked, shown
from test_fleet import fleet, part, pushed

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
COUNT = 60
FEWER = """window.real = fetch; window.fetch = (path, options) =>
  real(String(path).replace("limit=1000", "limit=25"), options); 0"""
"""Has the page ask for a fortieth of what it would: more than 1,000 take long to make."""


@pytest.mark.parametrize("way", ["letters", "more"])
async def test_what_is_on_a_later_page_of_the_list(tmp_path, way):
    """Letters find it, a change is seen there, and all of the list can be drawn."""
    async with fleet(tmp_path) as (server, _), shown(server.url, tmp_path) as person:
        for number in range(COUNT):
            await asked(server, "POST", "/api/apps", json={"name": f"app-{number:02}"})
        await person.evaluate(FEWER)
        await part(person, "apps")
        await person.sees(f"The first 24 of {COUNT}.")
        if way == "letters":
            await person.fill(".filter input", "app-57")
            await person.click("Remove", "[data-app=app-57]")
            await person.until("!!document.querySelector('[data-app=app-57] .danger')")
            await person.click("Remove", "[data-app=app-57]")
            await person.sees("Nothing here matches.")
        else:
            for drawn in (48, COUNT):
                await person.click("More", ".content")
                await person.until(f"document.querySelectorAll('[data-app]').length === {drawn}")
            assert not await person.evaluate("!!document.querySelector('.content [role=status]')")


WIDE = """(() => {
  const real = window.fetch;
  const name = (at) => `gpu-${at}-${"with-a-long-name-".repeat(5)}.cluster.local`;
  const tritons = Array.from({ length: 200 }, (_, at) => ({ id: at, name: name(at),
    versions: ["1"], wanted: ["1"], state: at === 150 ? "failed" : "ready",
    reason: at === 150 ? "The Triton is offline" : "" }));
  const models = [{ id: 1, name: "shelf", description: "", latest_version: 1, versions: [{}],
    state: "partial", tritons, inference_count: 12345678, last_inference: "2026-01-01",
    reason: "" }];
  window.fetch = (path, options) => (String(path).startsWith("api/models?")
    ? Promise.resolve(new Response(JSON.stringify({ total: 1, models }))) : real(path, options));
})()"""
"""A model that is wanted at 200 Tritons."""


@pytest.mark.parametrize("width", [360, 1024, 1440])
async def test_a_model_at_many_tritons(tmp_path, width):
    """Its row names a few, the one that has it not first; long names are no wider than the page."""
    tags = "[...document.querySelectorAll('tr[data-model=shelf] .tag')]"
    async with fleet(tmp_path) as (server, _), shown(server.url, tmp_path) as person:
        await person.screen(width, 844, phone=width < 400)
        await person.evaluate(f"{WIDE}, 0")
        await part(person, "models")
        await person.until(f"{tags}.length === 8 && {tags}[0].innerText.startsWith('gpu-150-')")
        row = await person.text("tr[data-model=shelf]")
        assert ".cluster.local: The Triton is offline" in row
        root = "document.documentElement"
        assert await person.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
        assert await person.faults() == []
        await person.click("192 more")
        await person.until(f"{tags}.length === 200")


@pytest.mark.parametrize("width", [360, 1024, 1440])
async def test_why_a_version_is_missing_at_a_long_name(tmp_path, width):
    """The overview's reason has room for several words a line, beside columns of long names."""
    name = "gpu-2-with-a-rather-long-name-in-the-rack"
    why = "[...document.querySelectorAll('[data-versions=shelf] .err')]"
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        for each, port in ((name, 9), ("gpu-1", triton.port)):
            given = {"name": each, "host": "127.0.0.1", "port": port}
            await asked(server, "POST", "/api/tritons", json=given)
        await pushed(server, "shelf")
        await asked(server, "POST", "/api/models/shelf/load", json={})
        await person.screen(width, 844, phone=width < 400)
        await part(person, "overview")
        await person.until(f"{why}.length === 1")
        lines = await person.evaluate(f"Math.round({why}[0].offsetHeight / 16)")
        assert lines <= 4
        wide = await person.evaluate("""Math.max(...[...document.querySelectorAll(
          '.tscroll thead th')].map((each) => each.offsetWidth))""")
        assert wide <= 200
