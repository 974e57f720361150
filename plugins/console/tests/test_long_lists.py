"""Lists of Fleet that are longer than what the server tells at a time."""

from __future__ import annotations

import pytest
from console_pages import CHROMIUM, asked, shown
from test_fleet import fleet, part

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
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
