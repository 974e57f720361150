"""A clock that is wrong where somebody looks: times are told by the server's own."""

from __future__ import annotations

import aiohttp
import pytest
from console_pages import CHROMIUM, SQUARE, asked, served, shown
from test_two_tabs import slow_job

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
WRONG = """(() => {
  const now = Date.now.bind(Date);
  Date.now = () => now() + HOURS * 3_600_000;
})()"""
HEAD = "(document.querySelector('.jobhead')?.innerText ?? '')"


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_that_is_hours_off(tmp_path, hours):
    """A job runs since now, a model was used now, and a key ends after the days it was given."""
    async with (
        served(tmp_path, "database", "jobs", "accounts") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.evaluate(WRONG.replace("HOURS", str(hours)))
        form = aiohttp.FormData({"model": "many"})
        form.add_field("file", SQUARE, filename="square.png")
        await asked(server, "POST", "/v1/infer/upload", data=form)
        begun = await slow_job(server)
        await person.go(f"jobs?id={begun}")
        await person.until("!!document.querySelector('.jobhead .state.busy')")
        said = await person.until(f"/, \\d+ s(,|$)/m.test({HEAD}) && {HEAD}")
        assert "-" not in said.split("\n")[-1].split(",")[-1]
        assert " h " not in said
        await asked(server, "POST", f"/v1/jobs/{begun}/cancel")
        await person.until("!!document.querySelector('.joblist .state.off')")
        await person.until(
            "/\\b(now|\\d+ (s|min) ago)\\b/.test(document.querySelector('.joblist').innerText)"
        )
        await person.go("models")
        used = "document.querySelector('tr[data-model=many] .soft')?.innerText"
        await person.until(f"/^(now|\\d+ (s|min) ago)$/.test({used})")
        await person.go("server")
        await person.click("New key")
        await person.fill("dialog input[name=name]", "door")
        await person.fill("dialog input[name=days]", "1")
        await person.click("Make the key")
        await person.until("!!document.querySelector('dialog code, dialog .secret')")
        (key,) = (await asked(server, "GET", "/v1/keys"))["keys"]
        assert abs(key["expires_at"] - key["created_at"] - 86_400) < 60
