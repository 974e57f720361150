"""Fleet: Tritons, models, applications, consumers and what is asked, before an operator's eyes."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import aiohttp
import pytest
from console_pages import CHROMIUM, ELSEWHERE, asked, served, shown

FLEET = str(Path(__file__).parents[2] / "fleet" / "tests")
if FLEET not in sys.path:  # behind all others, which have a conftest too
    sys.path.append(FLEET)

from onnx_files import adding  # noqa: E402
from stand_in_triton import StandIn  # noqa: E402

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
PARTS = ("database", "accounts", "fleet")


@contextlib.asynccontextmanager
async def fleet(tmp_path, **settings):
    """Yield a server with a fleet that may ask this machine, and a Triton's stand-in."""
    given = {"outbound_hosts": ["127.0.0.1"], **settings}
    triton = StandIn()
    await triton.start()
    try:
        async with served(tmp_path, *PARTS, **given) as server:
            yield server, triton
    finally:
        await triton.die()


async def part(person, name):
    """Open a part of the page."""
    await person.go(f"fleet?part={name}")
    await person.until(f"""!!document.querySelector('.bar [aria-pressed=true]')
      && location.hash.includes({name!r})""")


async def pushed(server, name):
    """Give the fleet a model."""
    form = aiohttp.FormData({"name": name}, quote_fields=False)
    form.add_field("files[]", adding(1), filename="1/model.onnx")
    return await asked(server, "POST", "/api/models", data=form)


async def test_from_nothing_to_an_answer(tmp_path):
    """A Triton, a model, an application and a consumer are made; its key is asked with."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await person.go("fleet")
        await person.sees("None yet. A Triton is registered")
        await person.click("Register a Triton")
        for name, value in (("name", "gpu-1"), ("host", "127.0.0.1"), ("port", triton.port)):
            await person.fill(f"dialog input[name={name}]", value)
        await person.click("Register", "dialog form")
        await person.until("!!document.querySelector('[data-triton=gpu-1] .state.ok')")
        assert await person.faults() == []

        await part(person, "models")
        await person.click("Add a model")
        await person.fill("dialog input[name=name]", "shelf")
        await person.choose("dialog input[type=file]", adding(1), "model.onnx")
        await person.click("Add", "dialog form")
        await person.until("!!document.querySelector('tr[data-model=shelf]')")
        await person.click("Load", "tr[data-model=shelf]")
        await person.until("!!document.querySelector('tr[data-model=shelf] .state.ok')")
        assert "shelf" in triton.models

        await part(person, "apps")
        await person.click("New application")
        await person.fill("dialog input[name=name]", "shop")
        await person.click("Make the application")
        await person.click("Model", "[data-app=shop]")
        await person.pick("shelf")
        await person.click("Offer it")
        # The dialog closes once it is answered, and would close the next one with it.
        await person.until("!document.querySelector('dialog')")
        await person.click("Consumer", "[data-app=shop]")
        await person.fill("dialog input[name=consumer]", "till")
        await person.click("Let it in")
        key = await person.until("document.querySelector('.secret')?.innerText")
        await person.click("Done")
        await person.sees("till")
        assert await person.faults() == []
        told = f"""fetch("gateway/shop/v2/models/shelf", {{ headers: {{ apikey: "{key}" }} }})
          .then((answer) => answer.status)"""
        await person.until(f"{told}.then((status) => status === 200)")

        await part(person, "traffic")
        await person.until("document.querySelectorAll('.chart').length === 1")
        await person.until("""[...document.querySelectorAll('[aria-label="Who asks"] tbody tr')]
          .some((row) => row.innerText.includes("till"))""")
        assert await person.faults() == []


async def test_what_fails_is_told(tmp_path):
    """A Triton that died, a name that is taken: each says so where it stands."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        given = {"name": "gpu-1", "host": "127.0.0.1", "port": triton.port}
        await asked(server, "POST", "/api/tritons", json=given)
        await person.go("fleet")
        await person.until("!!document.querySelector('[data-triton=gpu-1] .state.ok')")
        await triton.die()
        await person.until("!!document.querySelector('[data-triton=gpu-1] .state.bad')")
        assert await person.text("[data-triton=gpu-1] .err")
        await person.click("Register a Triton")
        for name, value in (("name", "gpu-1"), ("host", "127.0.0.1"), ("port", "9")):
            await person.fill(f"dialog input[name={name}]", value)
        await person.click("Register", "dialog form")
        await person.until("document.querySelector('dialog .note.bad')?.innerText")
        await person.click("Close", "dialog")
        await person.click("Forget", "[data-triton=gpu-1]")
        await person.sees("It is no longer looked at.")
        await person.click("Forget", "[data-triton=gpu-1]")
        await person.until("!document.querySelector('[data-triton=gpu-1]')")


async def test_the_fleet_at_a_glance(tmp_path):
    """Figures of what is asked, versions wanted and served, what became of a Triton."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        for name, port in (("gpu-1", triton.port), ("gpu-2", 9)):
            given = {"name": name, "host": "127.0.0.1", "port": port, "metrics_port": port}
            await asked(server, "POST", "/api/tritons", json=given)
        await pushed(server, "shelf")
        await asked(server, "POST", "/api/models/shelf/load", json={})
        await asked(server, "POST", "/api/apps", json={"name": "shop"})
        await asked(server, "POST", "/api/apps/shop/routes/shelf")
        made = await asked(server, "POST", "/api/apps/shop/consumers/till", json={})
        await person.go("fleet")
        await person.until("""[...document.querySelectorAll('[data-versions=shelf] td')]
          .map((each) => each.innerText).join()
            === 'shelf\\ngpu-2: The Triton is offline,1,1,failed'""")
        meters = await person.evaluate(
            """[...document.querySelectorAll('[data-triton=gpu-1] .meter i')]
              .map((e) => e.style.width)"""
        )
        assert meters == ["50%", "4.16667%"]  # of the stand-in's load, and 1 GB of 24 GB
        assert "the address does not answer" in await person.text("[data-triton=gpu-2]")
        assert await person.text("[data-figure='Tritons ready'] dd") == "1 of 2"
        asking = f"""fetch("gateway/shop/v2/models/shelf",
          {{ headers: {{ apikey: "{made["key"]}" }} }}).then((answer) => answer.status)"""
        for name in ("Requests", "p95"):
            figure = f"document.querySelector(\"[data-figure='{name}'] dd\").innerText"
            await person.until(f"{asking}.then(() => parseFloat({figure}) > 0)")
        assert (await person.text("[data-figure=Errors] dd")).startswith("0")
        row = await person.text("[data-traffic=shop]")
        assert "/gateway/shop" in row
        assert " ms" in row
        assert await person.faults() == []
        await triton.die()
        await person.until("""[...document.querySelectorAll('.chart .said')]
          .some((each) => each.textContent === 'gpu-1 offline')""")
        await person.until(f"{asking}.then(() => document.querySelectorAll('.chart .bad').length)")
        assert await person.faults() == []


async def test_a_consumers_key(tmp_path):
    """It is made, given anew and revoked; the one before and the revoked one are gone."""
    async with fleet(tmp_path) as (server, _), shown(server.url, tmp_path) as person:
        await part(person, "consumers")
        await person.click("New consumer")
        await person.fill("dialog input[name=name]", "till")
        await person.click("Make the consumer")
        first = await person.until("document.querySelector('.secret')?.innerText")
        await person.click("Done")
        await person.click("Another key", "tr[data-consumer=till]")
        await person.sees("The one before is refused")
        await person.click("Another key", "tr[data-consumer=till]")
        second = await person.until("document.querySelector('.secret')?.innerText")
        assert second != first
        await person.click("Done")
        await person.click("Revoke", "tr[data-consumer=till]")
        await person.sees("Its key is refused")
        await person.click("Revoke", "tr[data-consumer=till]")
        await person.until("!!document.querySelector('tr[data-consumer=till] .state.off')")
        assert not (await asked(server, "GET", "/api/consumers/till"))["active"]


async def test_a_key_is_copied_where_a_page_has_no_clipboard(tmp_path):
    """Over plain HTTP from elsewhere too, out of the dialog that shows it."""
    async with fleet(tmp_path) as (server, _):
        url = server.url.replace("127.0.0.1", ELSEWHERE)
        async with shown(url, tmp_path) as person:
            assert not await person.evaluate("Boolean(navigator.clipboard)")
            await part(person, "consumers")
            await person.click("New consumer")
            await person.fill("dialog input[name=name]", "till")
            await person.click("Make the consumer")
            key = await person.until("document.querySelector('.secret')?.innerText")
            noting = "addEventListener('copy', ({ target }) => { window.copied = target.value; })"
            await person.evaluate(noting)
            await person.point(".secret + .btn", 0.5, 0.5)
            assert await person.until("window.copied") == key
            await person.sees("Copied")


async def test_on_a_phone(tmp_path):
    """Every part has its tab on the screen, and what can be done with a row stands in it."""
    places = """[...document.querySelectorAll('.narrow .seg button')]
      .map((e) => e.getBoundingClientRect()).map(({ left, right }) => [left, right])"""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await person.screen(width=320, height=740, phone=True)
        given = {"name": "gpu-1", "host": "127.0.0.1", "port": triton.port}
        await asked(server, "POST", "/api/tritons", json=given)
        await person.go("fleet")
        await person.until("!!document.querySelector('[data-triton=gpu-1] .state')")
        tabs = await person.evaluate(places)
        assert len(tabs) == 6
        assert all(0 <= left < right <= 320 for left, right in tabs)
        await pushed(server, "shelf")
        await asked(server, "POST", "/api/models/shelf/load", json={})
        await person.go("fleet?part=models")
        await person.until(
            "document.querySelector('tr[data-model=shelf]')?.innerText.includes('gpu-1')"
        )
        assert await person.faults() == []
        await asked(server, "POST", "/api/models/shelf/unload", json={})
        await person.go("fleet")
        await person.until("!!document.querySelector('[data-triton=gpu-1] .state')")
        assert await person.faults() == []
        for said in ("It is no longer looked at.", ""):
            await person.until("document.querySelector('[data-triton] .btn')?.offsetWidth > 0")
            await person.point("[data-triton] .btn", 0.5, 0.5)
            await person.sees(said)
        await person.sees("None yet. A Triton is registered")


async def test_who_may_only_look(tmp_path):
    """Somebody with ``fleet:read`` sees everything and is offered no change."""
    keys = ["test-key", {"key": "look", "name": "look", "scopes": ["fleet:read", "models:read"]}]
    async with (
        fleet(tmp_path, api_keys=keys) as (server, triton),
        shown(server.url, tmp_path, "look") as person,
    ):
        given = {"name": "gpu-1", "host": "127.0.0.1", "port": triton.port}
        await asked(server, "POST", "/api/tritons", json=given)
        await pushed(server, "shelf")
        await person.go("fleet")
        await person.sees("gpu-1")
        await part(person, "models")
        await person.sees("shelf")
        offered = await person.evaluate(
            "[...document.querySelectorAll('.content .btn, .bar .btn')].map((e) => e.innerText)"
        )
        assert offered == []


MANY = """(() => {
  const real = window.fetch;
  const many = (make) => Array.from({ length: 1000 }, (_, at) => make(`name-${at}`, at));
  const lists = {
    "api/models": { total: 1000, models: many((name) => ({ id: name, name, description: "",
      latest_version: 1, versions: [{}], state: "unloaded", tritons: [], inference_count: 0,
      last_inference: null, reason: "" })) },
    "api/apps": { total: 1000, apps: many((name) => ({ id: name, name, host: null, routes: [],
      consumers: [] })) },
    "api/consumers": { total: 1000, consumers: many((name) => ({ id: name, name, tags: "",
      active: true, rate: null, quota: null })) },
  };
  const counts = many((name) => `mataserver_gateway_requests_total{application="shop",` +
    `model="${name}",consumer="till"} 1`).join("\\n");
  window.fetch = (path, options) => {
    const list = lists[String(path).split("?")[0]];
    if (String(path) === "metrics") return Promise.resolve(new Response(counts));
    return list ? Promise.resolve(new Response(JSON.stringify(list))) : real(path, options);
  };
  return 0;
})()"""


async def test_a_thousand_of_each(tmp_path):
    """The page draws some of them, says of how many, and finds the others by their letters."""
    async with fleet(tmp_path) as (server, _), shown(server.url, tmp_path) as person:
        await person.evaluate(MANY)
        for name, row, first in (
            ("models", "tr[data-model]", 100),
            ("apps", "section[data-app]", 24),
            ("consumers", "tr[data-consumer]", 100),
            ("traffic", "[aria-label='Who asks'] tbody tr", 100),
        ):
            rows = f'document.querySelectorAll("{row}").length'
            await person.go(f"fleet?part={name}")
            await person.sees(f"The first {first} of 1,000.")
            assert await person.evaluate(rows) == first
            await person.click("More", ".content")
            await person.until(f"{rows} === {2 * first}")
            await person.fill(".filter input", "NAME-999")
            await person.until(f"{rows} === 1")
            await person.fill(".filter input", "nobody")
            await person.sees("Nothing here matches.")
            assert await person.faults() == []
