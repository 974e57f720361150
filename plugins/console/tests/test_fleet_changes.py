"""Fleet: what an operator changes, with its confirmation and its error."""

from __future__ import annotations

import aiohttp
import pytest
from console_pages import CHROMIUM, asked, shown
from test_fleet import adding, fleet, part, pushed

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]
MODEL = "fleet?part=models&model=shelf"
# The page stays as it is: what it asks about models waits until `go` is called.
HOLD = """(() => { const real = window.fetch; let gone;
  const held = new Promise((done) => { gone = done; });
  window.go = () => { window.fetch = real; gone(); return true; };
  window.fetch = (path, options) => (options?.method ?? "GET") === "GET"
    && /api\\/models(\\/shelf)?($|\\?)/.test(String(path))
    ? held.then(() => real(path, options)) : real(path, options); return true; })()"""
LOOKS = """performance.getEntriesByType("resource")
  .filter((each) => each.name.endsWith("api/models/shelf")).length"""
STALE = "Somebody else changed it meanwhile"


async def release(server, number, query=""):
    """Add a version of the model."""
    form = aiohttp.FormData(quote_fields=False, default_to_multipart=True)
    form.add_field("files[]", adding(number), filename="model.onnx")
    return await asked(server, "POST", f"/api/models/shelf/versions{query}", data=form)


async def prepared(server, triton):
    """Give the fleet a Triton, a model of two versions, an application and a consumer."""
    given = {"name": "gpu-1", "host": "127.0.0.1", "port": triton.port}
    await asked(server, "POST", "/api/tritons", json=given)
    await pushed(server, "shelf")
    await asked(server, "POST", "/api/models/shelf/load", json={})
    await release(server, 2, "?load=true")
    await asked(server, "POST", "/api/apps", json={"name": "shop"})
    await asked(server, "POST", "/api/apps/shop/routes/shelf")
    return await asked(server, "POST", "/api/apps/shop/consumers/till", json={"rate": 600})


async def sure(person, text, within):
    """Click what asks whether it is meant, and what it asks."""
    await person.click(text, within)
    await person.until(f"document.querySelectorAll({within!r} + ' .btn.danger').length === 1")
    await person.click(text, f"{within} .asks")


async def shows(person, selector, text):
    """Wait until a part of the page shows a text."""
    await person.until(f"document.querySelector({selector!r})?.innerText.includes({text!r})")


async def test_a_models_versions(tmp_path):
    """Which is live stands there; the way back, another one, and the removal of one in use."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await part(person, "models")
        await person.click("shelf", "tr[data-model=shelf]")
        await shows(person, "tr[data-version='2']", "live at 1")
        await shows(person, "tr[data-version='1']", "not loaded")
        await sure(person, "Roll back", "[data-one=shelf]")
        await shows(person, "tr[data-version='1']", "live at 1")
        assert triton.models["shelf"]["versions"] == ["1"]
        await sure(person, "Roll back", "[data-one=shelf]")
        await shows(person, "[data-one=shelf]", "has no version before 1")
        await sure(person, "Load", "tr[data-version='2']")
        await shows(person, "tr[data-version='2']", "live at 1")
        await person.click("Load versions")
        await person.until("document.querySelectorAll('dialog input[type=checkbox]').length === 2")
        await person.evaluate("document.querySelector('dialog input:not(:checked)').click()")
        seen = await person.evaluate(LOOKS)
        await person.until(f"{LOOKS} > {seen + 1}")  # what is ticked stays as the page looks again
        assert (
            await person.evaluate("document.querySelectorAll('dialog input:checked').length") == 2
        )
        await person.click("Load", "dialog form")
        await shows(person, "[data-place=gpu-1]", "serves 1, 2, wanted 1, 2")
        assert await person.faults() == []
        await sure(person, "Remove", "tr[data-version='2']")
        await person.until("""!document.querySelector("tr[data-version='2']")""")
        await shows(person, "[data-place=gpu-1]", "serves 1, wanted 1")
        await person.click("Version", "[data-one=shelf]")
        await person.choose("dialog input[type=file]", adding(3), "model.onnx")
        await person.click("Add", "dialog form")
        await shows(person, "tr[data-version='3']", "not loaded")
        await sure(person, "Unload", "[data-place=gpu-1]")
        await shows(person, "tr[data-version='1']", "not loaded")


async def test_an_old_page_changes_nothing(tmp_path):
    """What another changed since is shown, not overwritten: a version is not taken from use."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        both = {"versions": ["1", "2"]}
        await asked(server, "POST", "/api/models/shelf/load", json=both)
        await person.go(MODEL)
        await shows(person, "[data-place=gpu-1]", "wanted 1, 2")
        assert await person.evaluate(HOLD)
        await asked(server, "POST", "/api/models/shelf/load", json={"versions": ["2"]})
        for text, row in (
            ("Remove", "tr[data-version='2']"),
            ("Load", "tr[data-version='1']"),
            ("Unload", "[data-place=gpu-1]"),
            ("Roll back", "[data-one=shelf]"),
        ):
            await sure(person, text, row)
            await shows(person, f"{row} [role=alert]", STALE)
        assert triton.models["shelf"]["versions"] == ["2"]
        assert await person.evaluate("go()")
        await shows(person, "[data-place=gpu-1]", "serves 2, wanted 2")
        await sure(person, "Remove", "tr[data-version='1']")
        await person.until("""!document.querySelector("tr[data-version='1']")""")


async def test_an_old_list_changes_nothing(tmp_path):
    """The list of models too: what another has loaded since is not unloaded, loaded or removed."""
    on, off = "tr[data-model=shelf]", "tr[data-model=spare]"
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await pushed(server, "spare")
        await part(person, "models")
        await shows(person, on, "Unload")
        await shows(person, off, "Remove")
        assert await person.evaluate(HOLD)
        await asked(server, "POST", "/api/models/shelf/load", json={"versions": ["1"]})
        await asked(server, "PATCH", "/api/models/spare", json={"description": "Kept"})
        await sure(person, "Unload", on)
        await shows(person, f"{on} [role=alert]", STALE)
        await person.click("Load", off)
        await shows(person, f"{off} [role=alert]", STALE)
        await sure(person, "Remove", off)
        await person.until(f"!document.querySelector({off!r} + ' button:disabled')")
        assert triton.models["shelf"]["versions"] == ["1"]
        assert await person.evaluate("go()")
        await shows(person, off, "Kept")
        await sure(person, "Remove", off)
        await person.until(f"!document.querySelector({off!r})")


async def test_versions_are_chosen_of_what_was_shown(tmp_path):
    """Another's load while versions are chosen is told; what is chosen then is loaded."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await person.go(MODEL)
        await shows(person, "tr[data-version='2']", "live at 1")
        await person.click("Load versions")
        await person.until("document.querySelectorAll('dialog input[type=checkbox]').length === 2")
        await asked(server, "POST", "/api/models/shelf/load", json={"versions": ["1"]})
        await person.click("Load", "dialog form")
        await shows(person, "dialog .note.bad", STALE)
        assert triton.models["shelf"]["versions"] == ["1"]
        boxes = "[...document.querySelectorAll('dialog input:checked')].map((e) => e.value).join()"
        await person.until(f"{boxes} === '1'")
        await person.evaluate("document.querySelector('dialog input:not(:checked)').click()")
        await person.click("Load", "dialog form")
        await shows(person, "[data-place=gpu-1]", "serves 1, 2, wanted 1, 2")


async def test_how_requests_are_shared_out(tmp_path):
    """Shares and the mirror of a route are set, refused and shown, also what another set first."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await part(person, "apps")
        await person.click("Versions", "[data-route=shelf]")
        await person.fill("dialog input[name=share-1]", "0")
        await person.click("Share out", "dialog form")
        await person.until("document.querySelector('dialog .note.bad')?.innerText")
        change = {"weights": {"1": 1}}
        await asked(server, "PATCH", "/api/apps/shop/routes/shelf", json=change)
        await person.fill("dialog input[name=share-1]", "3")
        await person.click("Share out", "dialog form")
        await shows(person, "dialog .note.bad", "Somebody else changed it meanwhile")
        await person.until("document.querySelector('dialog input[name=share-1]').value === '1'")
        assert await person.faults() == []
        await person.fill("dialog input[name=share-1]", "9")
        await person.fill("dialog input[name=share-2]", "1")
        await person.fill("dialog select[name=mirror]", "2")
        await person.click("Share out", "dialog form")
        await shows(person, "[data-route=shelf]", "version 1: 90 %, version 2: 10 %")
        await shows(person, "[data-route=shelf]", "mirrored to version 2")
        await person.go(MODEL)
        await shows(person, "tr[data-version='2']", "10 % of shop")
        await shows(person, "tr[data-version='2']", "mirror of shop")


async def test_limits_and_settings(tmp_path):
    """A consumer's limits are raised and taken away, an application's retries changed."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await part(person, "consumers")
        await shows(person, "tr[data-consumer=till]", "600 a minute")
        await person.click("Limits", "tr[data-consumer=till]")
        await person.fill("dialog input[name=rate]", "")
        await person.fill("dialog input[name=quota]", "5000")
        await person.click("Save", "dialog form")
        await shows(person, "tr[data-consumer=till]", "5,000 a day")
        till = await asked(server, "GET", "/api/consumers/till")
        assert (till["rate"], till["quota"]) == (None, 5000)
        await part(person, "apps")
        await person.click("Settings", "[data-app=shop]")
        await person.fill("dialog input[name=host]", "no host")
        await person.click("Save", "dialog form")
        await person.until("document.querySelector('dialog .note.bad')?.innerText")
        host = await person.evaluate("document.querySelector('dialog input[name=host]').value")
        assert host == "no host"
        await person.fill("dialog input[name=host]", "shop.example.com")
        await person.fill("dialog input[name=retries]", "2")
        await person.click("Save", "dialog form")
        await shows(person, "[data-app=shop]", "Tried anew up to 2 times")
        await shows(person, "[data-app=shop]", "shop.example.com")


async def test_users_applications(tmp_path):
    """A developer is authorised for an application, which is then withdrawn."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        await prepared(server, triton)
        await asked(server, "POST", "/api/apps", json={"name": "kiosk"})
        given = {"name": "ada", "password": "correct horse", "role": "developer"}
        await asked(server, "POST", "/api/users", json=given)
        await part(person, "users")
        await person.click("Application", "tr[data-user=ada]")
        await person.until("document.querySelectorAll('dialog option').length === 2")
        await person.fill("dialog select[name=app]", "shop")
        await person.click("Authorise", "dialog form")
        await shows(person, "tr[data-user=ada] .tag", "shop")
        assert await person.faults() == []
        await sure(person, "Withdraw", "tr[data-user=ada]")
        await shows(person, "tr[data-user=ada]", "none")
        assert (await asked(server, "GET", "/api/users/ada/apps"))["apps"] == []


async def test_errors_as_they_happen(tmp_path):
    """The traffic shows what was refused with the reason, and what is refused while one looks."""
    async with fleet(tmp_path) as (server, triton), shown(server.url, tmp_path) as person:
        key = (await prepared(server, triton))["key"]

        async def refused(body):
            url = f"{server.url}/gateway/shop/v2/models/shelf/infer"
            async with (
                aiohttp.ClientSession(headers={"apikey": key}) as http,
                http.post(url, data=body) as answer,
            ):
                return answer.status

        errors = "[aria-label='Last errors']"
        await part(person, "traffic")
        await shows(person, errors, "No request was answered with an error")
        region = b'{"inputs": [{"parameters": {"shared_memory_region": "theirs"}}]}'
        assert await refused(region) == 400
        await shows(person, errors, "400")
        await shows(person, errors, "shared_memory_region")
        assert await refused(b"{}") == 404
        await shows(person, errors, "A server answered so.")
        await person.until(f"""document.querySelectorAll("{errors} li").length === 2""")
        assert await person.faults() == []
        await person.screen(390, 844, phone=True)  # a reason is read in full there too
        cut = f"[...document.querySelectorAll({errors!r} + ' .help')]"
        assert not await person.evaluate(
            f"{cut}.some((each) => each.scrollWidth > each.clientWidth"
            " || each.getBoundingClientRect().right > each.parentNode.getBoundingClientRect().right"
            " || getComputedStyle(each).whiteSpace === 'nowrap')"
        )
