"""A fleet as a document: ``mataserver fleet export`` and ``apply``, with stand-ins for Tritons."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
import yaml
from commands_client import client, url
from onnx_files import adding
from stand_in_triton import stand_ins
from test_models import push

from mataserver import Client, MataError
from mataserver_fleet import manifest, planning
from mataserver_fleet.document_apply import DocumentApplier
from mataserver_fleet.fleet_client import FleetClient

__all__ = ["client", "url"]


def document(*tritons, **more):
    """Return a fleet of some Tritons whose model is at all but the last one in version 1."""
    names = [f"gpu-{number}" for number in range(1, len(tritons) + 1)]
    ports = [each.port for each in tritons]
    found = {
        "tritons": {
            n: {"host": "127.0.0.1", "port": p, "gpus": 1}
            for n, p in zip(names, ports, strict=True)
        },
        "models": {
            "shelf": {"description": "reads", "everywhere": [1], "tritons": {names[-1]: [1, 2]}}
        },
        "consumers": {"till": {"tags": "shop", "rate": 60, "quota": None}},
        "apps": {
            "shop": {
                "host": "shop.example.com",
                "retries": 2,
                "resend": True,
                "routes": {"shelf": {"paths": ["/s"], "weights": {1: 0.9, 2: 0.1}, "mirror": 2}},
                "consumers": ["till"],
            }
        },
        "users": {"ada": {"tags": "night", "apps": ["shop"]}},
    }
    return {**found, **more}


@pytest.fixture
def apply(run, tmp_path):
    """Return what applies a document; it gives the status, the lines told and the refusal."""

    async def apply(content, *options):
        path = tmp_path / "fleet.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text)
        status, out, refusal = await run("apply", "-f", str(path), *options)
        return status, out.splitlines(), refusal

    return apply


async def files(client):
    """Make the model and the user that a document only names."""
    await push(client, "shelf", {"model.onnx": adding(1)})
    assert await _second(client) == 201
    await client.person("ada")


async def _second(client):
    from test_models import form

    path = "/api/models/shelf/versions"
    return (await client.ask("POST", path, data=form({"model.onnx": adding(2)})))[0]


async def test_a_fleet_is_made_once_and_told_as_it_is(client, run, apply):
    """What is told before is what is done; then nothing is left to do; the export says the same."""
    await files(client)
    async with stand_ins(2) as tritons:
        wanted = document(*tritons)
        status, told, _ = await apply(wanted, "--dry-run")
        assert (status, len(told)) == (0, 11)
        assert [line[0] for line in told].count("+") == 7
        assert (await client.ask("GET", "/api/tritons"))[1]["total"] == 0
        status, done, _ = await apply(wanted)
        assert [line for line in done if not line.startswith("key of till: fleet_")] == told
        assert (status, len(done)) == (0, len(told) + 1)
        assert tritons[0].models["shelf"]["versions"] == ["1"]
        assert tritons[1].models["shelf"]["versions"] == ["1", "2"]
        assert await apply(wanted) == (0, [], "")
        status, text, _ = await run("export")
        exported = yaml.safe_load(text)
        assert exported["models"]["shelf"]["tritons"] == {"gpu-2": [1, 2]}
        assert exported["apps"]["shop"]["routes"]["shelf"]["weights"] == {1: 0.9, 2: 0.1}
        for secret in ("fleet_", "password", "correct horse"):
            assert secret not in text
        assert await apply(text, "--prune") == (0, [], "")


async def test_a_change_is_what_differs(client, apply):
    """Only what differs is told and done; what is left out stays, and goes with ``--prune``."""
    await files(client)
    async with stand_ins(2) as tritons:
        await apply(document(*tritons))
        change = {
            "tritons": {"gpu-1": {"host": "127.0.0.1", "port": tritons[0].port, "gpus": 2}},
            "models": {"shelf": {"everywhere": [2]}},
            "apps": {"shop": {"retries": 3, "host": None, "routes": {"shelf": {"mirror": None}}}},
        }
        status, told, _ = await apply(change)
        assert (status, told) == (0, [
            "~ Triton gpu-1 gpus=1->2",
            "~ model shelf everywhere versions=[2]",
            '~ application shop host="shop.example.com"->null retries=2->3',
            "~ application shop: shelf mirror=2->null",
        ])  # fmt: skip
        assert tritons[0].models["shelf"]["versions"] == ["2"]
        assert await apply(change) == (0, [], "")
        status, told, _ = await apply({**change, "users": {"ada": {}}}, "--prune")
        assert (status, told) == (0, [
            "- application shop: till",
            "- user ada: shop",
            "- consumer till",
            "- Triton gpu-2",
        ])  # fmt: skip
        assert (await client.ask("GET", "/api/tritons"))[1]["total"] == 1
        assert (await client.ask("GET", "/api/models"))[1]["total"] == 1


async def test_what_cannot_be_is_refused_before_anything_is_done(client, apply):
    """All that is wrong about a document is told at once, and nothing is changed."""
    await files(client)
    for content, said in (
        ("tritons: {a: {host: h}}", "`port` - at `$.tritons[...]`"),
        ("tritons: {a: {host: h, port: 1, password: x}}", "unknown field `password`"),
        ("apps: {a: {}}\napps: {b: {}}", "apps is given twice"),
        ("apps: [", "fleet.yaml: "),
        ("tritons: {a: {host: h, port: 010}}", "fleet.yaml: YAML reads numbers like 010 as"),
        ("tritons: {a: {host: h, port: 1:30}}", "octal, and like 1:30 to the base of 60"),
        ({"models": {"absent": {}}}, "models.absent: it is not here; push its files first"),
        ({"models": {"shelf": {"everywhere": [3]}}}, "version 3 is not here"),
        ({"models": {"shelf": {"versions": {1: "0" * 64}}}}, "version 1 is of other files"),
        ({"models": {"shelf": {"tritons": {"t": [1]}}}}, "there is no Triton t"),
        ({"apps": {"a": {"consumers": ["c"]}}}, "apps.a: there is no consumer c"),
        ({"users": {"eve": {}}}, "users.eve: there is no such user"),
        ({"users": {"ada": {"apps": ["b"]}}}, "users.ada: there is no application b"),
    ):
        more = content if isinstance(content, str) else {"consumers": {"new": {}}, **content}
        status, told, refusal = await apply(more)
        assert (status, told) == (1, []), refusal
        assert said in refusal
    assert (await client.ask("GET", "/api/consumers"))[1]["total"] == 0


class InterferingClient:
    """A server's client by whose side somebody else changes a thing, once, before a request."""

    def __init__(self, client, moment, thing, theirs):
        self._client, self._moment, self._thing, self._theirs = client, moment, thing, theirs

    def request(self, method, path, value=None, **more):
        """Ask the server."""
        if self._theirs is not None and (method, path) == (self._moment, self._thing):
            self._client.request("PATCH", path, self._theirs)
            self._theirs = None
        return self._client.request(method, path, value, **more)


def apply_beside(server, wanted, *meddling):
    """Apply a document while somebody else changes a thing; return why that ended, or None."""
    with Client(server.url, server.key) as client:
        ask = FleetClient(InterferingClient(client, *meddling))
        found, wanted = manifest.current(ask), msgspec.convert(wanted, manifest.Manifest)
        applier = DocumentApplier(ask, found, lambda _: None)
        try:
            for step in planning.steps(found, wanted, prune=False):
                applier.do(step)
        except MataError as error:
            return error
    return None


async def test_what_somebody_else_changes_is_not_overwritten(client, apply):
    """A thing that changes after it was read, or right before it is changed, ends it as it is."""
    await files(client)
    async with stand_ins(2) as tritons:
        new = document(*tritons)
        await apply(new)
        new["tritons"]["gpu-1"]["gpus"] = 9
        new["models"]["shelf"] = {"description": "reads on", "everywhere": [2]}
        new["consumers"]["till"]["rate"] = 9
        new["apps"]["shop"]["retries"] = 9
        new["users"]["ada"]["tags"] = "day"
        for thing, field, values in (
            ("/api/tritons/gpu-1", "gpus", (2, 3)),
            ("/api/models/shelf", "description", ("theirs", "theirs too")),
            ("/api/consumers/till", "rate", (2, 3)),
            ("/api/apps/shop", "retries", (3, 4)),
            ("/api/users/ada", "tags", ("theirs", "theirs too")),
        ):
            for moment, theirs in zip(("GET", "PATCH"), values, strict=True):
                given = (client.server, new, moment, thing, {field: theirs})
                error = await asyncio.to_thread(apply_beside, *given)
                assert (error.status, "somebody else changed it" in str(error)) == (412, True)
                assert (await client.ask("GET", thing))[1][field] == theirs, (thing, moment)
        assert (await apply(new))[0] == 0
        assert await apply(new) == (0, [], "")


async def test_what_it_takes_away_itself_is_no_change(client, apply):
    """An application that goes takes its authorisations with it, which changes users' tags."""
    await files(client)
    async with stand_ins(1) as (triton,):
        wanted = document(triton)
        await client.made("/api/apps", {"name": "old"})
        await client.ask("POST", "/api/users/ada/apps/old/auth")
        status, told, refusal = await apply(wanted, "--prune")
        assert (status, refusal) == (0, "")
        assert ("- application old" in told, "+ user ada: shop" in told) == (True, True)
        assert (await client.ask("GET", "/api/users/ada"))[1]["apps"] == ["shop"]


async def test_a_triton_that_is_away_is_waited_for(client, apply):
    """What cannot be loaded now is told, the rest is done, and it stays wanted."""
    await files(client)
    async with stand_ins(1) as (triton,):
        await triton.die()
        wanted = document(triton)
        status, told, refusal = await apply(wanted)
        assert (status, told[-1]) == (1, "+ user ada: shop")
        assert "not done yet: shelf is not loaded at gpu-1" in refusal
        assert await apply(wanted) == (0, [], "")
