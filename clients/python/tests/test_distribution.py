"""The client as a distribution: what it brings, its own structs, and its old name."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys

import msgspec
import pytest
from packaging.requirements import Requirement

import mataserver
import mataserver_client
from fresh_environment import CLIENT, ROOT, Environment
from markdown_pages import blocks
from mataserver.serving.description import portable
from mataserver_client import results

ASKED = """
import importlib.metadata, sys
import mataserver_client
assert all(getattr(mataserver_client, name) for name in mataserver_client.__all__)
print(*sorted({found.name.lower() for found in importlib.metadata.distributions()}))
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"mataserver", "pluggy"}))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A fresh environment that holds the client and what it asks for, as this one has it."""
    environment = Environment.empty(tmp_path_factory.mktemp("environment"))
    [packages] = environment.folder.glob("lib/python*/site-packages")
    (packages / "mataserver_client").symlink_to(CLIENT / "mataserver_client")
    for found in needed("mataserver-client"):
        for top in {file.parts[0] for file in found.files or [] if file.suffix != ".pth"} - {".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
    return environment


def needed(name, known=()):
    """Return a distribution and, without its extras, those that it asks for, and so on."""
    found = importlib.metadata.distribution(name)
    every = [*known, found]
    for requirement in map(Requirement, found.requires or []):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in {each.name for each in every}:
            every = needed(requirement.name, every)
    return every


def test_nothing_of_a_server_comes_with_it(alone, tmp_path):
    """The client, aiohttp, msgspec and what aiohttp needs: no server, no pluggy, no framework."""
    installed, imported = alone.run("python", "-c", ASKED, directory=tmp_path).split("\n")[:2]
    names = set(installed.split())
    assert {"aiohttp", "msgspec", "mataserver-client"} <= names
    assert not names & {"mataserver", "pluggy", "numpy", "pillow", "click", "huggingface-hub"}
    assert imported == ""


async def test_the_readmes_snippet_runs_where_nothing_else_is(alone, mata_server, tmp_path):
    """README's stream of codes is answered frame by frame, from the empty environment."""
    server = await mata_server("opencv")
    [snippet] = blocks((ROOT / "README.md").read_text(), "python")
    (tmp_path / ".mataserver").mkdir()
    (tmp_path / ".mataserver" / "api_key").write_text(server.key)
    assert "http://localhost:8110" in snippet
    process = await asyncio.create_subprocess_exec(
        alone.folder / "bin" / "python",
        "-c",
        snippet.replace("http://localhost:8110", server.url),
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    lines = said.decode().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4"]
    assert len({line.partition(" ")[2] for line in lines}) == 1
    assert "http" in lines[0]


def test_a_workers_import_brings_no_http():
    """The exceptions alone bring neither asyncio nor aiohttp: a server's workers take them."""
    code = "import sys, mataserver_client.errors; print({'asyncio', 'aiohttp'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"


@pytest.mark.parametrize("name", mataserver_client.__all__)
def test_names_are_where_they_are_said_to_be(name):
    """Every public name is there, and tells no other one."""
    assert getattr(mataserver_client, name) is not None
    assert name in dir(mataserver_client)


def test_what_there_is_not_is_no_attribute():
    """A name that is not there is told as any module does."""
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = mataserver_client.Nothing


def test_the_old_name_goes_on_with_a_warning():
    """``mataserver.client`` gives the same classes, and says what it is called now."""
    code = (
        "import mataserver_client\n"
        "from mataserver.client import AsyncClient, Client, NotFound\n"
        "assert Client is mataserver_client.Client and NotFound is mataserver_client.NotFound\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert "DeprecationWarning: mataserver.client is called mataserver_client now" in ran.stderr


def test_the_server_raises_the_clients_exceptions():
    """One family: who catches a server's class catches what a client raises."""
    assert mataserver.Client is mataserver_client.Client
    for name in ("MataError", "BadRequest", "NotFound", "Conflict", "InvalidParams", "Unavailable"):
        assert getattr(mataserver, name) is getattr(mataserver_client, name)


# the wire


def plain(schema):
    """Return a schema without its words."""
    if isinstance(schema, dict):
        return {k: plain(v) for k, v in schema.items() if k not in {"description", "title"}}
    return [plain(each) for each in schema] if isinstance(schema, list) else schema


@pytest.fixture
async def document(mata_client):
    """The server's OpenAPI document."""
    client = await mata_client()
    async with client.get("/openapi.json") as response:
        return await response.json()


async def test_structs_are_those_of_the_document(document):
    """Every struct of the client has the fields, types and defaults that the server tells."""
    told = document["components"]["schemas"]
    kinds = [each for each in vars(results).values() if isinstance(each, msgspec.StructMeta)]
    structs = [each for each in kinds if each is not msgspec.Struct]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    assert {"InferResponse", "Detection", "ModelInfo", "ModelDetail"} <= schemas.keys()
    for name, schema in schemas.items():
        assert plain(portable(schema)) == plain(json.loads(json.dumps(told[name]))), name
