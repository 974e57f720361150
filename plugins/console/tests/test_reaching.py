"""Everybody: no serious finding of axe on any page, light, dark and on a phone; keys and focus."""

from __future__ import annotations

import planted_sam
import pytest
from console_pages import CHROMIUM, served, shown

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
PAGES = {
    "try?model=fake-detect": "[...document.querySelectorAll('.found li')].length > 0",
    "try?model=fake-classify": "document.querySelectorAll('.classes li').length == 5",
    "try?model=lines": "document.querySelectorAll('.texts span').length == 2",
    "compare?model=fake-detect&with=fake-segment": "!!document.querySelector('.pairs .sw')",
    "ask": "!!document.querySelector('.asking img')",
    "segment": "!!document.querySelector('.clicks img')",
    "live": "!!document.querySelector('.bar .primary')",
    "jobs": "document.body.innerText.includes('No job yet')",
    "models": "document.querySelectorAll('tr[data-model]').length > 5",
    "server": "document.querySelectorAll('.chart, .settings tbody tr').length > 20",
    "more": "document.body.innerText.includes('Operate')",
}


@pytest.mark.parametrize(
    "screen", [{}, {"dark": True}, {"width": 390, "height": 844, "phone": True}]
)
async def test_nobody_stumbles(tmp_path, screen):
    """Axe finds nothing serious, and no page is wider than its screen."""
    points = [planted_sam.POINT]
    async with (
        served(tmp_path, "database", "accounts", "jobs", points=points) as server,
        shown(server.url, tmp_path, None) as person,
    ):
        await person.screen(**screen)
        assert await person.faults() == []
        await person.enter()
        await person.sees("Choose a picture" if "phone" in screen else "Drop a picture here")
        assert await person.faults() == []
        await person.give()
        for place, ready in PAGES.items():
            await person.go(place)
            await person.until(ready)
            assert await person.faults() == [], place
            wide = "document.documentElement.scrollWidth - innerWidth"
            assert await person.evaluate(wide) <= 0, place


async def leap(person, letter):
    """Press G and a letter at once: the page waits 1.5 s for it, which a busy machine may take."""
    await person.evaluate(f"""for (const key of ["g", "{letter}"]) document.activeElement
        .dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}))""")


async def test_keys(tmp_path):
    """G and a letter goes to a page, and not while a field has the focus or a dialog is open."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await leap(person, "m")
        await person.until("location.hash.startsWith('#/models')")
        await person.until("!!document.querySelector('.filter input')")
        await person.evaluate("document.querySelector('.filter input').focus()")
        await leap(person, "t")
        assert await person.evaluate("location.hash") == "#/models"
        await person.evaluate("document.activeElement.blur()")
        await person.press("?")
        await person.until("!!document.querySelector('dialog[open]')")
        await leap(person, "t")
        assert await person.evaluate("location.hash") == "#/models"
        await person.click("Close", "dialog")
        await person.until("!document.querySelector('dialog[open]')")
        await leap(person, "t")
        await person.until("location.hash.startsWith('#/try')")
        await person.click("Model:")
        await person.until("!!document.activeElement.closest('.menu')")
        await person.press("ArrowDown")
        await person.until("document.activeElement.getAttribute('role') === 'option'")
        await person.press("Escape")
        assert await person.evaluate("document.activeElement.className") == "picker"


CONTRAST = """(() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const probe = document.body.appendChild(document.createElement("i"));
  const of = (name) => {
    probe.style.color = `var(--${name})`;
    return light(getComputedStyle(probe).color);
  };
  const least = (name, ground) => {
    const [one, other] = [of(name), of(ground)].sort((a, b) => b - a);
    return (one + 0.05) / (other + 0.05);
  };
  const texts = ["text", "text-2", "text-3", "accent-text", "ok", "warn", "bad", "field"];
  const grounds = ["bg", "surface", "sunken"];
  return Math.min(...texts.flatMap((name) => grounds.map((ground) => least(name, ground))));
})()"""
"""The least contrast of a text, or the edge of a field, with the grounds that it stands on."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_more_contrast_is_given(tmp_path, scheme):
    """Who asks the system for it has seven to one everywhere."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await person.page.call("Emulation.setEmulatedMedia", features=features)
        assert await person.evaluate(CONTRAST) < 4
        features.append({"name": "prefers-contrast", "value": "more"})
        await person.page.call("Emulation.setEmulatedMedia", features=features)
        assert await person.evaluate(CONTRAST) >= 7
        assert await person.faults() == []
