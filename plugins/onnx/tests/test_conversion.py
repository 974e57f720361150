"""``runtime: auto``: checkpoints that are exported when they are pulled, and those that are not."""

from __future__ import annotations

import io
import json
import shutil
import sys

import aiohttp
import psutil
import pytest
from PIL import Image

from mataserver import MataError, ModelFiles, ModelSpec, Unavailable, testing
from mataserver_onnx import backends, conversion
from mataserver_onnx.export import families
from mataserver_onnx.options import Settings

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


async def test_a_checkpoint_is_exported_at_its_pull(hub, checkpoint, photo, tmp_path):
    """It then answers over REST as torch does, and no process of the server's has torch in it.

    A family whose export nobody compared is registered for torch, and the answer says why.
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
        answer = await classify(http, "org/vit", photo)
        workers = psutil.Process().children(recursive=True)
        mapped = " ".join(libraries(each.pid) for each in workers)
    assert pulled[0] == (202, {"status": "pulled", "model": "org/vit"})
    assert pulled[1][0] == 202
    assert "models of type 'levit' are not exported" in pulled[1][1]["warnings"][0]
    assert "onnxruntime_pybind11_state" in mapped
    assert not any(word in mapped for word in FRAMEWORKS)
    assert answer == pytest.approx(torchs(checkpoint("vit"), photo), abs=1e-5)
    registered = json.loads((tmp_path / "data" / "model_registry.json").read_text())["models"]
    assert [name for name, entry in registered.items() if "converted" in entry] == ["org/vit"]
    assert len([each for each in (tmp_path / "data" / "converted").iterdir() if each.is_dir()]) == 1


def test_an_export_that_answers_otherwise(checkpoint, tmp_path):
    """An export whose answers are not torch's is refused, with the figures.

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
    (tmp_path / "made").mkdir()
    spec = ModelSpec("shaky", "classify", "local", shaky)
    with pytest.raises(MataError, match=r"does not answer as torch does: probabilities: .* more"):
        conversion.make(spec, tmp_path / "made", Settings())
    assert not (tmp_path / "made" / "comparison.json").exists()


@pytest.mark.parametrize(
    ("config", "held", "said"),
    [
        ({"model_type": "vit"}, ["model.safetensors"], True),
        ({"model_type": "vit"}, ["pytorch_model.bin"], True),
        ({"model_type": "vit"}, ["model.onnx"], False),
        ({"model_type": "bit"}, ["model.safetensors"], "models of type 'bit' are not exported"),
        ({"model_type": "detr"}, ["model.safetensors"], "exported for detect, not classify"),
    ],
)
def test_what_is_wanted(config, held, said, tmp_path):
    """Checkpoints of torch whose family has been compared; ONNX files stay as they are."""
    for name in held:
        (tmp_path / name).write_bytes(b"x")
    wanted = BACKENDS["classify"].conversion.wanted
    given = ModelFiles("model", "local", tmp_path, config)
    if isinstance(said, bool):
        assert wanted(given, Settings()) is said
        return
    with pytest.raises(MataError, match=said):
        wanted(given, Settings())


def test_a_machine_without_torch_says_so(tmp_path, monkeypatch):
    """Where an export needs what is not installed, the reason is what to install."""
    (tmp_path / "model.safetensors").write_bytes(b"x")
    given = ModelFiles("model", "local", tmp_path, {"model_type": "vit"})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        Unavailable, match=r"torch is not installed: pip install 'matas.*\[export\]"
    ):
        BACKENDS["classify"].conversion.wanted(given, Settings())


def test_every_family_that_is_exported_can_be_pulled():
    """The plugin takes their hub models for their tasks also where nothing else does."""
    for kind, task in families.FAMILIES:
        hub = ModelFiles("org/model", "hf", None, {"model_type": kind})
        assert BACKENDS[task].serves(hub, task), (kind, task)
