"""The tests of the plugin, as its author runs them: ``pip install .``, then ``pytest``."""

import hashlib

import pytest

from mataserver import BadRequest, SourceContext, Unavailable
from mataserver.testing import FAKE, check_plugin, installed, serving
from mataserver_client import AsyncClient
from mataserver_share import Settings, fetch

FILES = {"config.json": b'{"model_type": "fake"}', "parts/model.safetensors": bytes(1000)}


@pytest.fixture
def share(tmp_path):
    """Return the folder of a share with one model."""
    model = tmp_path / "share" / "detectors" / "harbour"
    for name, content in FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in FILES.items()]
    (model / "SHA256SUMS").write_text("".join(sums))
    return tmp_path / "share"


@pytest.fixture
def context(share, tmp_path):
    """Return what ``fetch`` gets, without a server."""
    (tmp_path / "model").mkdir()
    return SourceContext("detectors/harbour", tmp_path / "model", Settings(folder=str(share)))


def test_plugin_is_sound():
    """The plugin is found, its hooks are valid, and it imports no framework."""
    assert check_plugin("share") == []


def test_a_model_is_copied(context):
    """Every file of the list, with its folders."""
    fetch(context)
    for name, content in FILES.items():
        assert (context.folder / name).read_bytes() == content


def test_what_is_wrong_is_told(context, share):
    """A damaged file, a file elsewhere, a missing model, a missing share."""
    model = share / "detectors" / "harbour"
    (model / "config.json").write_bytes(b"{}")
    with pytest.raises(BadRequest, match=r"config.json has arrived damaged"):
        fetch(context)
    (share / "elsewhere").write_bytes(b"x")
    (model / "SHA256SUMS").write_text(f"{hashlib.sha256(b'x').hexdigest()}  ../../elsewhere\n")
    with pytest.raises(BadRequest, match=r"../../elsewhere leads out of the model"):
        fetch(context)
    (model / "SHA256SUMS").unlink()
    with pytest.raises(BadRequest, match="has no model detectors/harbour"):
        fetch(context)
    share.rename(share.with_name("away"))
    with pytest.raises(Unavailable):
        fetch(context)


@pytest.mark.asyncio
async def test_a_server_pulls_from_it(share, tmp_path):
    """The model is registered with its source, and can be used."""
    points = [FAKE, *installed("share")]
    settings = {"plugins": {"share": {"folder": str(share)}}}
    async with (
        serving(tmp_path / "data", entry_points=points, **settings) as server,
        AsyncClient(server.url, server.key) as client,
    ):
        await client.pull("share:detectors/harbour", "detect")
        model = await client.model("share:detectors/harbour")
        assert (model.task, model.source) == ("detect", "share")
