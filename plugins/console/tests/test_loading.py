"""What the page asks for when it is opened: all at once, nothing twice, and little."""

from __future__ import annotations

import importlib.resources
import json

import planted_film
import planted_sam
import pytest
from console_pages import CHROMIUM, served, shown

from mataserver_console import modules

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
PAGES = ["try", "compare", "ask", "segment", "live", "jobs", "fleet", "models", "server"]
WEB = importlib.resources.files("mataserver_console") / "web"
ASKED = """(() => {
  const [named, asked] = [
    [...document.querySelectorAll("[rel=modulepreload], script")].map((e) => e.href ?? e.src),
    performance.getEntriesByType("resource").map((e) => e.name),
  ].map((all) => all.filter((each) => each.endsWith(".mjs")));
  return named.every((each) => asked.includes(each)) && JSON.stringify([named, asked]);
})()"""
NETWORK = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
HERE = "!window.old && !!document.querySelector('.app:not(.shell) h1')?.innerText"


def test_the_modules_of_each_page():
    """The page names, for each of its pages, those that no other brings, and nothing twice."""
    parts = modules.parts(WEB)
    assert sorted(parts) == sorted(["", *PAGES])
    assert {"api.mjs", "vendor/preact.mjs"} <= {*parts[""]}
    assert {"jobs.mjs", "cloud.mjs", "upload.mjs"} <= {*parts["jobs"]}
    assert "cloud_scene.mjs" not in parts["jobs"]  # the viewer comes behind the photographs
    for page in PAGES:
        every = parts[""] + parts[page]
        assert len(every) == len({*every})
        for name in every:
            assert WEB.joinpath(*name.split("/")).is_file()
            lower = {*modules.below(WEB, name)}
            assert lower <= {*every}, name  # app.mjs is imported by none


async def opened(person, page):
    """Open a page as one that was never there."""
    await person.evaluate(
        f"window.old = true; history.replaceState(null, '', '#/{page}'); location.reload()"
    )


async def test_no_module_waits_for_another(tmp_path):
    """Every module of a page is asked for by name, once, and what is asked early is used."""
    plugins = ("jobs", "accounts", "fleet", "database")
    async with served(tmp_path, *plugins) as server, shown(server.url, tmp_path) as person:
        for page in PAGES:
            await opened(person, page)
            await person.until(HERE)
            unused = await person.until("JSON.stringify(boot.early.size ? boot.unused : [])")
            assert json.loads(unused) == [], page
            named, asked = json.loads(await person.until(ASKED))
            assert sorted(asked) == sorted(named), page
            assert f"{server.url}/console/{page}.mjs" in asked


async def test_the_frame_is_there_before_the_program(tmp_path):
    """What a page is called and its frame are in the document: they wait for no module."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.page.call("Network.setBlockedURLs", urls=["*.mjs"])
        await opened(person, "models")
        await person.until("!window.old && document.querySelector('.shell h1')?.innerText")
        assert await person.text(".bar") == "Models"
        assert "mataserver" in await person.text(".side")
        before = await person.evaluate(PLACES)
        await person.page.call("Network.setBlockedURLs", urls=[])
        await opened(person, "models")
        await person.until(HERE)
        assert await person.evaluate(PLACES) == before


PLACES = """JSON.stringify([".side", ".brand", ".bar", ".bar h1"].map((each) => {
  const { left, top, height } = document.querySelector(each).getBoundingClientRect();
  return [left, top, height];
}))"""


LATE = """(() => {
  const real = fetch, held = [];
  window.fetch = async (path, ...given) => {
    const answer = await real(path, ...given);
    if (["metrics", "v1/plugins"].includes(path)) await new Promise((go) => held.push(go));
    return answer;
  };
  window.release = () => { window.fetch = real; held.forEach((go) => go()); };
})()"""
"""Holds back what Models shows above its list, and below it."""
TOPS = "[...document.querySelectorAll('tr[data-model]')].map((e) => e.getBoundingClientRect().top)"


async def test_what_comes_late_moves_nothing(tmp_path):
    """The list of models stays where it is, and what is not known yet is not said to be nothing."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(390, 844, phone=True)
        made = await person.page.call("Page.addScriptToEvaluateOnNewDocument", source=LATE)
        await opened(person, "models")
        before = await person.until(f"{TOPS}.length > 3 && {TOPS}")
        assert "of \u2013 used" in await person.text("[data-device]")
        assert not await person.evaluate("!!document.querySelector('#more')")
        await person.page.call("Page.removeScriptToEvaluateOnNewDocument", **made)
        await person.evaluate("release(); 0")
        await person.sees("GB used")
        await person.sees("More models")
        assert await person.evaluate(TOPS) == before


async def test_what_is_loaded(tmp_path):
    """The first page is under 300 kB as it is sent, of this server alone, with nothing inline."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        sizes = await person.evaluate("""performance.getEntries()
          .filter((e) => e.name.includes("/console/") || e.entryType === "navigation")
          .map((e) => e.encodedBodySize)""")
        assert 20_000 < sum(sizes) < 300_000
        known = (server.url, "data:", "blob:")
        assert [each for each in person.page.asked if not each.startswith(known)] == []
        policy = await person.evaluate(
            "fetch('').then((answer) => answer.headers.get('content-security-policy'))"
        )
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        inline = "document.querySelectorAll('script:not([src]), style').length"
        assert await person.evaluate(inline) == 0


async def test_a_page_that_could_not_come(tmp_path):
    """It says that the server does not answer, and comes by itself when that does."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.page.call("Network.emulateNetworkConditions", offline=True, **NETWORK)
        await person.go("server")
        await person.until(
            "document.querySelector('.content .note')?.innerText.includes('No answer')"
        )
        assert await person.text("h1") == "Server"
        await person.page.call("Network.emulateNetworkConditions", offline=False, **NETWORK)
        await person.sees("Requests can be served.")


async def test_a_part_of_a_page_that_could_not_come(tmp_path):
    """Segment's video is loaded when it is opened: it comes as the page itself does."""
    points, known = [planted_film.POINT], planted_film.NAMES
    plugins = {"sam": {"model": "planted-film"}}
    async with (
        served(tmp_path, "sam", points=points, registered=known, plugins=plugins) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("segment")
        await person.sees("Drop a picture here")
        await person.page.call("Network.emulateNetworkConditions", offline=True, **NETWORK)
        await person.click("Video", ".seg")
        await person.until(
            "document.querySelector('.content .note')?.innerText.includes('No answer')"
        )
        await person.page.call("Network.emulateNetworkConditions", offline=False, **NETWORK)
        await person.sees("Drop a video here")


async def test_a_module_that_does_not_come_once(tmp_path):
    """The server answers all else: no silence ends that would bring the page."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.page.call("Network.setBlockedURLs", urls=["*/server.mjs*"])
        await person.go("server")
        await person.until(
            "document.querySelector('.content .note')?.innerText.includes('No answer')"
        )
        await person.page.call("Network.setBlockedURLs", urls=[])
        await person.sees("Requests can be served.")


async def test_a_module_that_fails(tmp_path):
    """A fault of the page is told as what it is, not as one of the network."""
    async with (
        served(tmp_path, points=[planted_sam.POINT]) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate("window.WeakSet = undefined; 0")
        await person.go("segment")
        await person.until("!!document.querySelector('.content .note')")
        assert await person.text("h1") == "This page failed"
        assert "WeakSet" in await person.text(".content .note")


TABS = "[...document.querySelectorAll('.tabs-bottom a, .side a')].map((each) => each.hash)"
"""Where each leads: the text of one is the server's state, which comes when it comes."""
SEEN = "document.querySelector('.app:not(.shell) h1')"


async def test_the_ways_to_pages_do_not_move(tmp_path):
    """Before it is known which plugins there are the navigation is that of the visit before."""
    hold = LATE.replace('"metrics", ', "").replace("window.", "window.held = held; window.", 1)
    points = [planted_sam.POINT]
    async with (
        served(tmp_path, points=points) as server,
        shown(server.url, tmp_path, None) as person,
    ):
        await person.screen(390, 844, phone=True)
        made = await person.page.call("Page.addScriptToEvaluateOnNewDocument", source=hold)
        await person.reload()
        await person.enter()
        await person.until(f"held.length && !!{SEEN}?.innerText")
        assert await person.evaluate("document.querySelectorAll('.tabs-bottom a').length") == 0
        await person.evaluate("release(); 0")
        await person.until("document.querySelectorAll('.tabs-bottom a').length === 5")
        whole = await person.evaluate(TABS)
        assert len({*whole}) > 5
        await person.reload()
        await person.until(f"!!{SEEN}?.innerText")
        assert await person.evaluate("document.querySelectorAll('.tabs-bottom a').length") == 5
        assert await person.evaluate(TABS) == whole
        await person.page.call("Page.removeScriptToEvaluateOnNewDocument", **made)
