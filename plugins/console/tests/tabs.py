"""Another tab of the same browser."""

from __future__ import annotations

import contextlib

from console_pages import Person

LIST = "[...document.querySelectorAll('tr[data-model]')].map((row) => row.dataset.model)"


@contextlib.asynccontextmanager
async def another(person, server, folder, place=""):
    """Yield the same person before another tab of their browser."""
    async with person.page.beside(f"{server.url}/{place}") as page:
        other = Person(page, folder)
        await other.screen()
        await other.until("!!document.querySelector('.signin, .app:not(.shell) h1')")
        yield other
