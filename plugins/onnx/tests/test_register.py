"""``mataserver export --register``: models that are served from their exports, and those not."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import aiohttp
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image

from mataserver import MataError, ModelFiles, Unavailable, testing
from mataserver_onnx import backends
from mataserver_onnx.export import command, families
from own_processes import descendants

pytestmark = pytest.mark.long

BACKENDS = {each.task: each for each in backends()}
FRAMEWORKS = ("libtorch", "torch_python", "safetensors", "tokenizers")


def libraries(pid):
    """The files that a process has mapped, in a line."""
    return " ".join(each.path for each in psutil.Process(pid).memory_maps())


async def classify(http, model, pixels):
    """POST a picture; return the probabilities by class."""
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    asked = {"model": model, "top_k": 100, "confidence": 0}
    headers = {"Content-Type": "image/png"}
    async with http.post(
        "/v1/infer", params=asked, data=picture.getvalue(), headers=headers
    ) as answer:
        assert answer.status == 200, await answer.text()
        found = (await answer.json())["classifications"]
    return {each["label"]: each["confidence"] for each in found}


async def pull(http, model, task):
    """Pull a model; return the status and the answer."""
    async with http.post("/v1/models/pull", json={"model": model, "task": task}) as answer:
        return answer.status, await answer.json()


def torchs(path, pixels):
    """Ask transformers and torch by themselves; return the probabilities by class."""
    import torch
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
    model = transformers.AutoModelForImageClassification.from_pretrained(path).eval()
    given = processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    with torch.inference_mode():
        [found] = model(**given).logits.softmax(-1)
    return {model.config.id2label[index]: float(each) for index, each in enumerate(found)}


def files(path):
    return {each.name: each.read_bytes() for each in path.iterdir()}


@pytest.fixture
def export(tmp_path, monkeypatch):
    """``export(*arguments)`` runs the command with ``--register`` and a data directory of its own.

    The directory is ``tmp_path / "data"``.
    """
    monkeypatch.setenv("MATA_SERVER_DATA_DIR", str(tmp_path / "data"))

    def invoke(*arguments):
        return CliRunner().invoke(command.export, [*map(str, arguments), "--register"])

    return invoke


def registered(tmp_path):
    file = tmp_path / "data" / "model_registry.json"
    return json.loads(file.read_text())["models"] if file.exists() else {}


def kept(tmp_path):
    """The exports in the data directory, whole or not."""
    place = tmp_path / "data" / "converted"
    return sorted(each for each in place.iterdir() if each.is_dir()) if place.exists() else []


def run(tmp_path, *arguments):
    """Run the command in a process of its own, as a person does beside a server."""
    return subprocess.run(
        [sys.executable, "-m", "mataserver", "export", *arguments, "--register"],
        env={**os.environ, "MATA_SERVER_DATA_DIR": str(tmp_path / "data")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
async def test_a_pulled_checkpoint_is_exported(hub, checkpoint, photo, tmp_path):
    """It then answers over REST as torch does, and no process of the server's has torch in it.

    A family whose export nobody compared stays with torch, and the command says why.
    """
    config = json.loads((checkpoint("vit") / "config.json").read_text())
    hub.add("org/vit", files(checkpoint("vit")))
    hub.add(
        "org/strange",
        files(checkpoint("vit"))
        | {"config.json": json.dumps({**config, "model_type": "levit"}).encode()},
    )
    async with (
        testing.serving(
            tmp_path / "data",
            entry_points=testing.installed("hf", "onnx"),
            engine="process",
            runtime="auto",
        ) as server,
        aiohttp.ClientSession(server.url, headers=server.headers) as http,
    ):
        pulled = [await pull(http, name, "classify") for name in ("org/vit", "org/strange")]
        done = [run(tmp_path, name) for name in ("org/vit", "org/strange")]
        answer = await classify(http, "org/vit", photo)
        below = descendants()
        mapped = " ".join(libraries(each.pid) for each in below)
    assert [status for status, _ in pulled] == [202, 202]
    assert "mataserver export org/vit --register" in pulled[0][1]["warnings"][0]
    assert [each.returncode for each in done] == [0, 1], done[0].stderr
    assert "which serves org/vit (classify) from now on" in done[0].stdout
    assert "models of type 'levit' are not exported" in done[1].stderr
    assert "onnxruntime_pybind11_state" in mapped
    assert not any(word in mapped for word in FRAMEWORKS)
    assert answer == pytest.approx(torchs(checkpoint("vit"), photo), abs=1e-5)
    known = registered(tmp_path)
    assert [name for name, entry in known.items() if "converted" in entry] == ["org/vit"]
    assert [str(each) for each in kept(tmp_path)] == [known["org/vit"]["converted"]]


def test_a_directory_is_registered_with_its_export(export, checkpoint, tmp_path):
    """The same again exports nothing; under another name the export is a model beside it."""
    done = export(checkpoint("vit"))
    assert done.exit_code == 0, done.output
    assert "compared with torch on 3 pictures" in done.output
    again = export("vit", "--name", "small")
    assert again.exit_code == 0, again.output
    assert "compared" not in again.output
    [place] = kept(tmp_path)
    vit, small = registered(tmp_path)["vit"], registered(tmp_path)["small"]
    assert (vit["path"], vit["converted"]) == (str(checkpoint("vit")), str(place))
    assert (small["source"], small["path"], small["task"]) == ("local", str(place), "classify")
    record = json.loads((place / "comparison.json").read_text())
    assert 0 <= record["differences"]["probabilities"] < 1e-4


def test_an_export_that_answers_otherwise(export, checkpoint, tmp_path):
    """An export whose answers are not torch's is refused, with the figures; nothing stays.

    What the head multiplies adds up to nothing but rounding errors, which are every runtime's own.
    """
    from safetensors.torch import load_file, save_file

    shaky = tmp_path / "shaky"
    shutil.copytree(checkpoint("vit"), shaky)
    weights = load_file(shaky / "model.safetensors")
    weights["vit.layernorm.weight"].fill_(1)
    weights["vit.layernorm.bias"].fill_(0)
    weights["classifier.weight"].fill_(0)[0] = 1e9
    save_file(weights, shaky / "model.safetensors", metadata={"format": "pt"})
    done = export(shaky)
    assert isinstance(done.exception, MataError)
    assert "does not answer as torch does" in done.exception.detail
    assert "probabilities: " in done.exception.detail
    assert (kept(tmp_path), registered(tmp_path)) == ([], {})


@pytest.mark.parametrize(
    ("config", "held", "said"),
    [
        ({"model_type": "vit"}, "model.safetensors", "the checkpoint cannot be read"),
        ({"model_type": "vit"}, "pytorch_model.bin", "the checkpoint cannot be read"),
        ({"model_type": "vit"}, "model.onnx", "model holds no weights of torch, so there is"),
        ({"model_type": "bit"}, "model.safetensors", "models of type 'bit' are not exported"),
        ({"model_type": "detr"}, "model.safetensors", "exported for detect, not classify"),
    ],
)
def test_what_is_exported(config, held, said, export, tmp_path):
    """Checkpoints of torch whose family has been compared; ONNX files stay as they are."""
    model = tmp_path / "model"
    model.mkdir()
    (model / held).write_bytes(b"x")
    (model / "config.json").write_text(json.dumps(config))
    done = export(model, "--task", "classify")
    assert isinstance(done.exception, MataError), done.output
    assert said in done.exception.detail
    assert (kept(tmp_path), registered(tmp_path)) == ([], {})


def test_an_export_has_one_place(export, checkpoint, tmp_path):
    """In the data directory, or where the user says: not both."""
    done = export(checkpoint("vit"), "--output", tmp_path / "made")
    assert done.exit_code == 2
    assert "no --output" in done.output


def test_a_machine_without_torch_says_so(export, checkpoint, monkeypatch):
    """Where an export needs what is not installed, the reason is what to install."""
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        Unavailable, match=r"torch is not installed: pip install 'matas.*\[export\]"
    ):
        raise export(checkpoint("vit")).exception


def test_every_family_that_is_exported_can_be_pulled():
    """The plugin takes their hub models for their tasks also where nothing else does."""
    for kind, task in families.FAMILIES:
        hub = ModelFiles("org/model", "hf", None, {"model_type": kind})
        assert BACKENDS[task].serves(hub, task), (kind, task)
