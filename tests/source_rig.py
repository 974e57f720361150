"""Servers with sources of plugins, and what tests ask of them."""

from __future__ import annotations

import importlib.metadata
import itertools
import textwrap

import aiohttp

from conftest import picture
from mataserver.testing import FAKE, serving

_NUMBERS = itertools.count()


class Asked:
    """Requests of one server."""

    def __init__(self, server, http):
        self.server, self.http = server, http

    async def pull(self, model, task="detect"):
        """Pull; return status, and the detail or status of the answer."""
        body = {"model": model, "task": task}
        async with self.http.post("/v1/models/pull", json=body) as answer:
            said = await answer.json()
            return answer.status, said.get("detail") or said["status"]

    async def json(self, path, method="GET"):
        async with self.http.request(method, path) as answer:
            return await answer.json()

    async def infer(self, model):
        headers = {"Content-Type": "image/png"}
        async with self.http.post(
            "/v1/infer", params={"model": model}, data=picture(), headers=headers
        ) as answer:
            return answer.status


class Asking:
    """A server with some plugins beside the fake one, as a context that gives an ``Asked``."""

    def __init__(self, folder, *points, **settings):
        self._server = serving(folder / "data", entry_points=[FAKE, *points], **settings)

    async def __aenter__(self):
        server = await self._server.__aenter__()
        self._http = aiohttp.ClientSession(server.url, headers=server.headers)
        return Asked(server, self._http)

    async def __aexit__(self, *exc):
        await self._http.close()
        await self._server.__aexit__(*exc)


def kept(tmp_path):
    """Return the files of pulled models, without the lock."""
    root = tmp_path / "data" / "pulled"
    return sorted(each.name for each in root.glob("*/*/**/*") if not each.is_dir())


def plugin_writer(folder, monkeypatch):
    """Return a function that writes a plugin's module and returns its entry point."""
    place = folder / "modules"
    place.mkdir()
    monkeypatch.syspath_prepend(place)

    def write(source, name="odd"):
        module = f"source_{next(_NUMBERS)}"
        (place / f"{module}.py").write_text(textwrap.dedent(source))
        return importlib.metadata.EntryPoint(name, module, "mataserver")

    return write
