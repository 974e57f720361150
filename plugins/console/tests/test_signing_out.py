"""Somebody signs out while another tab of theirs asks, or the server refuses it."""

from __future__ import annotations

import json

import pytest
from console_pages import CHROMIUM, END, SQUARE, served, shown
from tabs import LIST, another

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


async def test_signing_out_and_in_is_of_all_tabs(tmp_path):
    """Who signs out leaves nothing to see in another tab; who signs in may write in both."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give(SQUARE, "secret.png")
        await person.sees("secret.png")
        async with another(person, server, tmp_path, "#/models") as other:
            await other.until(f"{LIST}.length > 3")
            await other.click("Sign out")
            await person.until("!!document.querySelector('.signin')")
            await other.until("!!document.querySelector('.signin')")
            assert "secret.png" not in await person.text()
            await other.enter()
            await person.until(
                "!document.querySelector('.signin') && !!document.querySelector('.bar')"
            )
            await other.go("models")
            for each in (person, other):
                await each.go("models")
                await each.click("Load", "tr[data-model=many]")
                await each.click("Unload", "tr[data-model=many]")
                await each.until("!!document.querySelector('tr[data-model=many] .state.off')")
                assert not await each.evaluate("document.querySelector('tr .err')?.innerText")


async def test_somebody_else_in_another_tab(tmp_path):
    """Nothing of the one is left for the other, and what they may not is not offered."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give(SQUARE, "secret.png")
        await person.sees("secret.png")
        async with another(person, server, tmp_path) as other:
            await other.evaluate(END)
            await other.go("models")
            await other.until("!!document.querySelector('.signin')")
            await other.enter("door-key")
            await other.until("!document.querySelector('.signin')")
            await person.until("document.querySelector('.me')?.innerText.startsWith('door')")
            assert "secret.png" not in await person.text()


SIGNING_OUT = """(() => {
  const real = fetch, seen = [];
  let refused;
  new MutationObserver(() => seen.push(...document.querySelectorAll(".gate")))
    .observe(document.body, { childList: true, subtree: true });
  const drawn = () => new Promise((done) =>
    requestAnimationFrame(() => requestAnimationFrame(done)));
  window.fetch = async (path, options) => {
    const answer = await real(path, options);
    if (options?.method === "POST") refused = answer.status;
    if (options?.method !== "DELETE") return answer;
    document.querySelector("[data-model=many] button").click();
    while (!refused) await drawn();
    await drawn();
    sessionStorage.gates = JSON.stringify([refused, seen.length]);
    return answer;
  };
})()"""
"""Holds the answer to a sign-out back until something that the page asked meanwhile was refused."""


async def test_what_is_refused_while_somebody_signs_out(tmp_path):
    """No sign-in stands there for a moment, to be written into, before the page goes."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until(f"{LIST}.length > 3")
        await person.evaluate(f"{SIGNING_OUT}, 0")
        await person.click("Sign out")
        await person.until("!!sessionStorage.gates && !!document.querySelector('.signin')")
        assert json.loads(await person.evaluate("sessionStorage.gates")) == [401, 0]


REFUSED = """(() => {
  const real = fetch;
  window.seen = [];
  new MutationObserver(() => seen.push(...document.querySelectorAll(".gate")))
    .observe(document.body, { childList: true, subtree: true });
  const drawn = () => new Promise((done) =>
    requestAnimationFrame(() => requestAnimationFrame(done)));
  window.fetch = async (path, options) => {
    const answer = await real(path, options);
    if (answer.status === 401) drawn().then(drawn).then(() => { window.refused = true; });
    return answer;
  };
})()"""
UNTOLD = """(() => {
  const real = fetch;
  window.fetch = async (path, options) => {
    const answer = await real(path, options);
    if (options?.method === "DELETE") await new Promise((go) => { window.told = go; });
    return answer;
  };
})()"""


async def test_what_another_tab_asks_while_somebody_signs_out(tmp_path):
    """No sign-in stands there for a moment, either; both tabs show one at the end."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        async with another(person, server, tmp_path, "#/models") as other:
            await person.until(f"{LIST}.length > 3")
            await other.until(f"{LIST}.length > 3")
            await person.evaluate(f"{UNTOLD}, 0")
            await other.evaluate(f"{REFUSED}, 0")
            await person.click("Sign out")
            await person.until("!!window.told")  # the server has ended the session
            await other.click("Load", "tr[data-model=many]")
            await other.until("!!window.refused")
            assert await other.evaluate("seen.length") == 0
            await person.evaluate("told(), 0")
            for each in (person, other):
                await each.until("!!document.querySelector('.signin')")


FAILS = """(() => {
  const real = fetch;
  window.fetch = async (path, options) => {
    if (options?.method !== "DELETE") return real(path, options);
    window.fetch = real;
    return new Response("{}", { status: 503 });
  };
})()"""


@pytest.mark.parametrize("way", ["refused", "gone"])
async def test_a_sign_out_that_comes_to_nothing(tmp_path, way):
    """Another tab asks for a sign-in again as soon as its session is over."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        async with another(person, server, tmp_path, "#/models") as other:
            await other.until(f"{LIST}.length > 3")
            if way == "refused":
                await person.evaluate(f"{FAILS}, 0")
                await person.click("Sign out")
                await person.until("fetch.toString().includes('native')")
                await person.evaluate(END)
                await other.click("Load", "tr[data-model=many]")
            else:  # the tab goes before it is told that the session has ended
                await person.evaluate(f"{UNTOLD}, 0")
                await person.click("Sign out")
                await person.until("!!window.told")
                await person.page.call("Page.navigate", url="about:blank")
            await other.until("!!document.querySelector('.signin')")
