"""Models, Server, Jobs: what there is, what it does, and what somebody may do with it."""

from __future__ import annotations

import io
import zipfile

import aiohttp
import guest
import pytest
from console_pages import CHROMIUM, KEYS, SQUARE, asked, served, shown

from mataserver.engines.memory import Gpu, MemoryProbe

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"), pytest.mark.long]


async def test_units(tmp_path):
    """A time has the unit in which it is short."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        told = await person.evaluate("""import("./console/format.mjs").then(({ ms }) =>
          [0, 0.26, 41.4, 999.4, 999.6, 2500, 17000, null].map(ms))""")
        expected = ["0 ms", "0.3 ms", "41 ms", "999 ms", "1.0 s", "2.5 s", "17.0 s", "\u2013"]
        assert told == expected


def row(model, selector):
    """Return the script for a part of a model's row."""
    return f"""!!document.querySelector('tr[data-model="{model}"] {selector}')"""


async def test_models(tmp_path):
    """Load, pin, unload, remove and pull; each stands in its row at once."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("models")
        await person.click("Load", "tr[data-model=fake-detect]")
        await person.until(row("fake-detect", ".state.ok"))
        await person.click("More for fake-detect")
        await person.click("Pin in memory")
        await person.until(row("fake-detect", ".pinned"))
        await person.click("Unload", "tr[data-model=fake-detect]")
        await person.until(row("fake-detect", ".state.off"))
        await person.click("More for many")
        await person.click("Remove")
        await person.sees("It is taken off the list")
        await person.click("Remove many")
        await person.until(f"!{row('many', 'td')}")
        await person.click("Pull", ".sugg li:last-child")
        await person.until(row("many", "td"))
        names = [each["model"] for each in await asked(server, "GET", "/v1/models")]
        assert "many" in names


class OneGpu(MemoryProbe):
    """A machine with a GPU on which a model of another program is."""

    def gpus(self):
        """Return it."""
        return [Gpu(total=8_000_000_000, used=2_000_000_000)]


async def test_memory_of_the_devices(tmp_path):
    """A bar for the machine, in which its models have their parts, and one for its GPU."""
    device = "document.querySelector('[data-device=\"%s\"]')?.innerText"
    async with (
        served(tmp_path, probe=OneGpu()) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("models")
        await person.until(
            f"{device % 'Memory of this machine'}?.includes('No model is in memory')"
        )
        gpu = await person.until(device % "GPU 0")
        assert "2.0 GB of 8.0 GB used" in gpu
        assert "other programs\n2.0 GB" in gpu
        await person.click("Load", "tr[data-model=fake-detect]")
        await person.until(f"{device % 'Memory of this machine'}.includes('fake-detect')")
        assert await person.faults() == []


async def test_what_a_model_did(tmp_path):
    """How long it takes and how often it failed stand in its row."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        for behave in ("ok", "raise"):
            form = aiohttp.FormData({"model": "fake-detect", "behave": behave})
            form.add_field("file", SQUARE, filename="square.png")
            await asked(server, "POST", "/v1/infer/upload", data=form)
        await person.go("models")
        cells = "[...document.querySelectorAll('tr[data-model=fake-detect] td')]"
        took = await person.until(f"{cells}[5]?.innerText.includes('ms') && {cells}[5].innerText")
        assert float(took.split()[0]) >= 0
        assert await person.evaluate(f"{cells}[6].innerText") == "1"
        other = cells.replace("detect", "ocr")
        assert await person.evaluate(f"{other}.slice(5, 7).map((e) => e.innerText)") == [
            "\u2013",
            "0",
        ]


async def test_a_pull_that_fails(tmp_path):
    """Its sentence stands in its row, with a way to try again and one to dismiss it."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.screen(1100)
        await person.go("models")
        await person.fill("input[name=model]", "/etc/passwd")
        await person.click("Pull", "form")
        await person.until("document.querySelector('tr .err')?.innerText")
        assert await person.evaluate("document.querySelector('tr .actions').offsetWidth > 0")
        await person.click("Dismiss")
        await person.until("!document.querySelector('tr .err')")


async def test_who_may_not(tmp_path):
    """Somebody who may only look is offered nothing that changes."""
    keys = [{"key": "look-key", "name": "look", "scopes": ["models:read"]}, "test-key"]
    async with (
        served(tmp_path, api_keys=keys) as server,
        shown(server.url, tmp_path, "look-key") as person,
    ):
        await person.go("models")
        await person.sees("fake-detect")
        shown_buttons = await person.evaluate(
            "[...document.querySelectorAll('.cards .btn')].map((e) => e.innerText.trim())"
        )
        assert not set(shown_buttons) & {"Load", "Unload"}
        assert "Pull a model" not in await person.text()


async def test_the_server(tmp_path):
    """Health with its reasons, curves, plugins with theirs, and settings without secrets."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.go("server")
        await person.sees("Requests can be served.")
        await person.sees("fake-absent needs a_module_that_nobody_has")
        await person.sees("max_pixels")
        assert "test-key" not in await person.evaluate("document.body.innerText")
        await person.until("document.querySelectorAll('.chart').length >= 4")
        await person.fill("input[placeholder='Find a setting']", "max_pixels")
        await person.until("document.querySelectorAll('.settings tbody tr').length == 1")
        script = """import("./console/metrics.mjs").then(({ quantile, samples }) => [
          quantile([[1, 0], [2, 0], [Infinity, 0]], [[1, 0], [2, 4], [Infinity, 4]], 0.5),
          quantile([[1, 2], [Infinity, 2]], [[1, 2], [Infinity, 2]], 0.5),
          samples('a_total{b="c,d",e="f"} 3\\n# x\\nplain 2.5').length])"""
        assert await person.evaluate(script) == [1.5, None, 2]


async def test_not_ready(tmp_path):
    """What the server waits for is told, model by model."""
    models = [{"model": "fake-detect", "task": "detect", "preload": True}]
    plugins = {"fake": {"load_seconds": 8}}
    async with (
        served(tmp_path, models=models, plugins=plugins) as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("server")
        await person.sees("Not ready")
        await person.sees("fake-detect: loading")


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (429, '{"detail": "Too many requests"}', "Too many requests"),
        (403, "<html>", "Status 403"),
    ],
)
async def test_a_proxy_that_refuses(tmp_path, status, body, said):
    """An answer came: it says neither that there was none, nor that the server is not ready."""
    async with served(tmp_path) as server, shown(server.url, tmp_path) as person:
        await person.evaluate(f"""(() => {{
          const real = window.fetch;
          window.fetch = (path, options) => (path === "ready"
            ? Promise.resolve(new Response({body!r}, {{ status: {status} }}))
            : real(path, options));
          return import("./console/source.mjs").then(({{ refresh }}) => refresh("ready"));
        }})()""")
        await person.go("server")
        await person.sees(f"Whether requests can be served is not known: {said}")
        states = "[...document.querySelectorAll('.health .state, section .state')]"
        told = await person.evaluate(f"{states}.slice(0, 2).map((each) => each.innerText.trim())")
        assert told == ["Not known", "Not known"]


async def test_keys_and_users(tmp_path):
    """A user and a key are made; the key is shown once, works, and is refused once revoked."""
    async with (
        served(tmp_path, "database", "accounts") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("server")
        await person.click("New user")
        await person.fill("dialog input[name=name]", "ada")
        await person.fill("dialog input[name=password]", "correct horse battery")
        await person.click("Add the user")
        await person.until("!document.querySelector('dialog[open]')")
        await person.sees("ada")
        await person.click("New key")
        await person.fill("dialog input[name=name]", "door camera")
        await person.evaluate("document.querySelector('input[name=standalone]').click()")
        await person.click("Make the key")
        key = await person.until("document.querySelector('.secret')?.innerText")
        tried = f"""fetch("v1/session", {{ headers: {{ Authorization: "Bearer {key}" }} }})
          .then((answer) => answer.status)"""
        assert await person.evaluate(tried) == 200
        await person.click("Done")
        await person.until("!document.querySelector('.secret')")
        await person.click("Revoke")
        await person.sees("It is refused from now on.")
        await person.click("Revoke")
        await person.until("!document.body.innerText.includes('door camera')")
        assert await person.evaluate(tried) == 403
        await person.click("Sign out")
        await person.click("Use a name and password")
        await person.fill("input[name=name]", "ada")
        await person.fill("input[name=password]", "correct horse battery")
        await person.click("Sign in")
        await person.until("document.querySelector('.me')?.innerText.includes('ada')")


async def test_a_job(tmp_path):
    """It is uploaded, runs, and shows its result, log and files; then it is removed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for at in range(3):
            archive.writestr(f"{at}.png", SQUARE)
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.sees("No job yet.")
        assert "Choose a job" not in await person.text()
        await person.click("New job")
        await person.until("document.activeElement.className === 'picker'")
        await person.page.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
        await person.pick("fake-detect")
        await person.choose("dialog input[type=file]", packed.getvalue(), "three.zip")
        await person.click("Start", "dialog")
        await person.until("!!document.querySelector('.jobhead .state.ok')")
        await person.sees("results.jsonl")
        assert "64x64" in await person.text(".jobmid")
        assert "three.zip" in await person.text(".jobhead")
        assert "GMT+5:30" in await person.text(".jobhead")
        # The list is read anew when the job's end is told: by a request of its own.
        await person.until("document.querySelector('.joblist').innerText.includes('three.zip')")
        await person.click("Remove")
        await person.sees("Its files go too.")
        await person.click("Remove")
        await person.sees("No job yet.")


async def test_a_data_set_has_its_name(tmp_path):
    """A reconstruction is called as it was named; a ZIP among photographs is refused."""
    async with (
        served(tmp_path, "database", "jobs", "reconstruct") as server,
        shown(server.url, tmp_path) as person,
    ):
        await person.go("jobs")
        await person.click("New job")
        await person.click("A cloud from photographs", "dialog")
        both = [tmp_path / "a.png", tmp_path / "b.zip"]
        for path in both:
            path.write_bytes(SQUARE)
        await person.until("!!document.querySelector('dialog input[multiple]')")
        await person.choose_all("dialog input[type=file]", both)
        await person.click("Start", "dialog")
        await person.sees("Choose one ZIP, or photographs: not both.")
        await person.choose_all("dialog input[type=file]", both[:1])
        await person.fill("dialog input[name=name]", " Stairs ")
        await person.click("Start", "dialog")
        await person.until(
            "document.querySelector('.jobhead h2')?.innerText === 'reconstruct, Stairs'"
        )
        (job,) = (await asked(server, "GET", "/v1/jobs"))["jobs"]
        assert job["spec"]["dataset_name"] == "Stairs"
        assert "photographs.zip" in await person.text(".jobhead")


async def archived(person):
    """Return the files of a ZIP that the page makes, by name."""
    making = """import("./console/zip.mjs").then(async ({ zipped }) => {
      const files = [new File(["one"], "a.jpg"), new File(["", "zwei"], "süß 2.jpg")];
      const bytes = new Uint8Array(await (await zipped(files, "photographs.zip")).arrayBuffer());
      return [...bytes];
    })"""
    made = bytes(await person.evaluate(making))
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


async def test_an_upload_goes_on(tmp_path):
    """One that was stopped goes on where it was, and one without a network as soon as there is."""
    sending = """import("./console/upload.mjs").then(async ({ sent }) => {
      const file = new File([new Uint8Array(5e6)], "x.bin", { lastModified: 1 });
      const stop = new AbortController();
      const told = [];
      const once = (done) => { told.push(done); if (done > 0) stop.abort(); };
      const name = await sent(file, once, stop.signal).catch((error) => error.name);
      window.told = [];
      window.going = null;
      const { signal } = new AbortController();
      window.again = () => sent(file, (done) => window.told.push(done), signal)
        .then((id) => { window.going = id; });
      return [name, told];
    })"""
    async with (
        served(tmp_path, "database", "jobs") as server,
        shown(server.url, tmp_path) as person,
    ):
        assert await person.evaluate(sending) == ["AbortError", [0, 2**21]]
        weather = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        await person.page.call("Network.emulateNetworkConditions", offline=True, **weather)
        await person.evaluate("void window.again()")
        await person.until("window.told.includes(-1)")
        await person.page.call("Network.emulateNetworkConditions", offline=False, **weather)
        upload = await person.until("window.going")
        told = await person.evaluate("window.told.filter((done) => done >= 0)")
        assert told == [2**21, 2**22, 5_000_000]
        again = await person.evaluate(f"""fetch("v1/uploads/{upload}", {{
          method: "HEAD", headers: {{ "Tus-Resumable": "1.0.0" }} }})
          .then((answer) => answer.headers.get("Upload-Offset"))""")
        assert again == "5000000"
        assert await archived(person) == {"a.jpg": b"one", "süß 2.jpg": b"zwei"}


async def test_a_guests_page(tmp_path):
    """A page that another plugin brings stands in the group that it names, for who may see it."""
    async with served(tmp_path, points=[guest.POINT]) as server:
        async with shown(server.url, tmp_path) as person:
            link = "document.querySelector('.side a[title=\"The lab\"]')"
            await person.until(f"!!{link}")
            assert "Operate" in await person.evaluate(f"{link}.closest('div').innerText")
            await person.evaluate(f"{link}.click()")
            await person.sees("Hello from the lab")
        async with shown(server.url, tmp_path / "other", "door-key") as person:
            await person.sees("Try")
            assert "The lab" not in await person.text()


async def test_the_first_job(tmp_path):
    """Files are chosen in the middle; who may not begin one is not asked to."""
    reader = {"key": "reader-key", "name": "reader", "scopes": ["jobs:read"]}
    async with served(tmp_path, "database", "jobs", api_keys=[*KEYS, reader]) as server:
        async with shown(server.url, tmp_path) as person:
            await person.go("jobs")
            await person.sees("Drop pictures, a video or a ZIP here")
            assert await person.faults() == []
            await person.choose("input[data-first]", SQUARE, "first.png")
            await person.until("document.querySelector('dialog input[type=file]')?.files.length")
            await person.pick("fake-detect")
            await person.click("Start", "dialog")
            await person.until("!!document.querySelector('.jobhead .state.ok')")
            assert "pictures.zip" in await person.text(".jobhead")
        async with shown(server.url, tmp_path, "reader-key") as person:
            await person.go("jobs")
            await person.sees("No job yet.")
            assert "Drop" not in await person.text()
            assert "New job" not in await person.text()
