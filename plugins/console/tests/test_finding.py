"""Ctrl+K, the list of keys, and letters that are turned off."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
CTRL = 2
NONE = "!document.querySelector('dialog[open]')"
CHOSEN = """(() => { const field = document.querySelector("dialog [role=combobox]");
  return document.getElementById(field?.getAttribute("aria-activedescendant"))?.innerText; })()"""


async def press(person, key, modifiers=0, code=0):
    """Press a key as a keyboard does."""
    text = {"text": key} if len(key) == 1 and not modifiers else {}
    if key == "Enter":
        text = {"text": "\r"}
    given = {"key": key, "modifiers": modifiers, "windowsVirtualKeyCode": code}
    await person.page.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
    await person.page.call("Input.dispatchKeyEvent", type="keyUp", **given)


async def find(person, words):
    """Open what finds, and write into it."""
    await press(person, "k", CTRL, 75)
    await person.until("document.activeElement.getAttribute('role') === 'combobox'")
    await person.page.call("Input.insertText", text=words)


async def test_what_is_found(tmp_path):
    """A model, a page, an action: the keyboard alone goes there, from a field too."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('.filter input')")
        await person.evaluate("document.querySelector('.filter input').focus()")
        await find(person, "FAKE det")
        await person.until(f"{CHOSEN}?.includes('fake-detect')")
        assert await person.faults() == []
        await press(person, "Enter", code=13)
        await person.until("location.hash === '#/try?model=fake-detect'")
        await person.until(NONE)
        await find(person, "vlm")
        await person.until(f"{CHOSEN}?.includes('fake-vlm')")
        await press(person, "Enter", code=13)
        await person.until("location.hash === '#/ask?model=fake-vlm'")
        await find(person, "theme")
        await person.until(f"{CHOSEN}?.includes('system')")
        for _ in range(2):
            await press(person, "ArrowDown", code=40)
        await person.until(f"{CHOSEN}?.includes('dark')")
        await press(person, "Enter", code=13)
        await person.until("document.documentElement.dataset.theme === 'dark'")
        await person.until("document.querySelector('.me button:last-child').title.includes('dark')")
        await find(person, "nobody has this")
        await person.sees("Nothing here is called so.")
        await press(person, "Escape", code=27)
        await person.until(NONE)


async def test_a_key_that_may_infer_only_finds_its_pages(tmp_path):
    """What a key may not see is not offered."""
    async with served(tmp_path) as server, shown(server.url, tmp_path, "door-key") as person:
        await find(person, "")
        await person.until("document.querySelectorAll('dialog [role=option]').length > 3")
        kinds = "[...document.querySelectorAll('dialog [role=option]')].map((e) => e.innerText)"
        found = " ".join(await person.evaluate(kinds))
        assert "Try" in found
        assert "Models" not in found
        assert "fake-detect" not in found


async def test_letters_are_turned_off(tmp_path):
    """The list of keys turns single letters off and on again; Ctrl+K works all the time."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("try?model=fake-detect")
        await person.give()
        await person.until("!!document.querySelector('.toolbar [aria-pressed=true]')")
        await person.evaluate("document.activeElement.blur()")
        await press(person, "?")
        await person.sees("Previous result, next result")
        assert await person.faults() == []
        await person.click("Single letters, digits and signs", "dialog")
        await press(person, "Escape", code=27)
        await person.until(NONE)
        for key in ("b", "g", "m", "?"):
            await press(person, key)
        boxes = "document.querySelector('.toolbar .btn').getAttribute('aria-pressed')"
        assert await person.evaluate(boxes) == "true"
        assert "#/try" in await person.evaluate("location.hash")
        assert await person.evaluate(NONE)
        await find(person, "keys")
        await press(person, "Enter", code=13)
        await person.sees("Previous result, next result")
        await person.click("Single letters, digits and signs", "dialog")
        await press(person, "Escape", code=27)
        await person.until(NONE)
        await person.evaluate("document.activeElement.blur()")
        await press(person, "b")
        await person.until(f"{boxes} === 'false'")


MANY = """(() => {
  const real = window.fetch;
  const known = { task: "detect", state: "unloaded", source: "hf", memory_mb: null, size_mb: 12,
    loaded_at: null, last_used: null, pinned: false, error: null };
  const models = Array.from({ length: 3000 }, (_, at) => ({ model: `org/m-${at}`, ...known }));
  window.fetch = (path, options) => (String(path) === "v1/models"
    ? Promise.resolve(new Response(JSON.stringify(models))) : real(path, options));
  return 0;
})()"""


async def test_thousands_of_models(tmp_path):
    """The page draws some of them, says of how many, and finds and shows the others."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(MANY)
        await person.go("models")
        await person.sees("The first 200 of 3,000.")
        rows = "document.querySelectorAll('tr[data-model]').length"
        assert await person.evaluate(rows) == 200
        await person.click("More", ".cards")
        await person.until(f"{rows} === 400")
        await person.fill(".filter input", "m-2999")
        await person.until(f"{rows} === 1")
        await person.go("try?model=org/m-7")
        await person.click("Model:")
        await person.sees("The first 100 of 3,000")
        assert await person.evaluate("document.querySelectorAll('[role=option]').length") == 100
        assert await person.faults() == []
        await person.fill(".menu input", "m-2999")
        await person.until("document.querySelectorAll('[role=option]').length === 1")


AT_ONCE = """(() => {
  const press = () => document.body.dispatchEvent(
    new KeyboardEvent("keydown", { key: "k", ctrlKey: true, bubbles: true }));
  const watch = new MutationObserver(() => {
    if (!document.querySelector(".app:not(.shell)")) return;
    watch.disconnect();
    press();
  });
  watch.observe(document.body, { childList: true, subtree: true });
})()"""
"""Presses Ctrl+K at the moment at which the page stands there, before it was painted."""


async def test_a_key_pressed_as_soon_as_the_page_stands_there(tmp_path):
    """It counts."""
    async with served(tmp_path) as server, shown(server.url, tmp_path, key="") as person:
        await person.until("!!document.querySelector('.signin')")
        await person.evaluate(f"{AT_ONCE}, 0")
        await person.enter()
        await person.until("!!document.querySelector('dialog [role=combobox]')")


async def test_a_model_is_found_by_its_letters_in_a_form(tmp_path):
    """Enter chooses it and does not send the form, Escape closes the list and not the dialog."""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.click("New job")
        await person.until("document.activeElement.className === 'picker'")
        await press(person, "Enter", code=13)
        await person.until("document.activeElement.placeholder === 'Name, task or state'")
        await person.page.call("Input.insertText", text="nobody has this")
        await person.sees("No such model here.")
        await press(person, "Enter", code=13)
        assert await person.evaluate("document.activeElement.matches('.menu input:valid')")
        assert not await person.evaluate("!!document.querySelector('dialog :user-invalid')")
        await press(person, "Escape", code=27)
        await person.until("document.activeElement.className === 'picker'")
        assert await person.evaluate("!!document.querySelector('dialog[open]')")
        await press(person, "Enter", code=13)
        await person.until("document.activeElement.placeholder === 'Name, task or state'")
        await person.page.call("Input.insertText", text="depth")
        await person.until("document.querySelectorAll('dialog [role=option]').length === 1")
        await press(person, "Enter", code=13)
        await person.until("document.querySelector('input[name=model]').value === 'fake-depth'")
        assert await person.faults() == []


async def test_it_is_there_without_the_server(tmp_path):
    """Also the first time that it is wanted: it came after the page."""
    weather = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.until("!!document.querySelector('.filter input')")
        await person.until("""performance.getEntriesByType("resource")
          .some((each) => each.name.endsWith("/finder.mjs") && each.responseEnd)""")
        await person.page.call("Network.emulateNetworkConditions", offline=True, **weather)
        await find(person, "fake det")
        await person.until(f"{CHOSEN}?.includes('fake-detect')")
