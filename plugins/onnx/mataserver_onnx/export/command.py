"""The command ``mataserver export``."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mataserver import BadRequest, LoadContext, MataError, ModelSpec, Unavailable
from mataserver_onnx import classify, depth, detect, embed, installation, segment
from mataserver_onnx.export import families
from mataserver_onnx.options import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import Backend, Params
    from mataserver_onnx.export.comparison import Figure
    from mataserver_onnx.export.families import Family

_TASKS = ("classify", "depth", "detect", "embed", "segment")
_NEEDED = ("torch", "transformers", "onnx", "onnxscript")
_PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_MOST_PICTURES = 300

# What is asked of the plugin's own backends, so that nothing is left out.
_ASKED: dict[str, tuple[Backend, Params]] = {
    "detect": (detect.BACKEND, detect.DetectParams(confidence=0.0)),
    "classify": (classify.BACKEND, classify.ClassifyParams(top_k=1_000_000)),
    "segment": (segment.BACKEND, segment.SegmentParams(confidence=0.0)),
    "depth": (depth.BACKEND, depth.DepthParams(normalize=False)),
    "embed": (embed.BACKEND, embed.BACKEND.params()),
}


@click.command()
@click.argument("model")
@click.option("--to", "target", required=True, type=click.Choice(["onnx", "openvino"]))
@click.option("--int8", is_flag=True, help="Weights in 8 bits: smaller and faster, less exact.")
@click.option("--task", type=click.Choice(_TASKS), help="Default: what MODEL was trained for.")
@click.option("--output", type=click.Path(path_type=Path), help="Directory to write; new.")
@click.option("--name", help="Name to register [default: MODEL-onnx, MODEL-onnx-int8, ...].")
@click.option(
    "--photos",
    type=click.Path(exists=True, path_type=Path),
    help="A picture, or a folder of them, like those that the model is for.",
)
@click.option("--config", "config_file", metavar="FILE", help="Configuration file of the server.")
def export(
    *,
    model: str,
    target: str,
    task: str | None,
    output: Path | None,
    name: str | None,
    photos: Path | None,
    config_file: str | None,
    int8: bool,
) -> None:
    """Export a pulled model to ONNX or OpenVINO and register the export.

    MODEL is a HuggingFace repo ID that is here, or a local directory of that layout. What the
    export answers to pictures (--photos, or one that comes along) is compared with what torch
    answers; unless they agree nothing is registered. OpenVINO in int8 is calibrated on --photos.
    """
    for package in _NEEDED:
        if not installation.importable(package):
            raise Unavailable(f"{package} is not installed: pip install 'mataserver-onnx[export]'")
    if int8 and target == "openvino" and photos is None:
        raise BadRequest("int8 for OpenVINO is calibrated on pictures: give some with --photos")
    source = _source(model)
    mark = target + ("-int8" if int8 else "")
    directory = (output or Path(f"{Path(model).name}-{mark}")).expanduser().resolve()
    if directory.exists():
        raise BadRequest(f"{directory} exists already: choose another with --output")
    family = families.find(_config(source), task)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".export-") as place:
        made = Path(place, "model")
        made.mkdir()
        figures = _make(source, made, family, target, _read(photos), int8=int8)
        for figure in figures:
            click.echo(f"  {figure}")
        if not all(figure.passed for figure in figures):
            raise MataError("the export does not answer as torch does: nothing was registered")
        (made / "comparison.json").write_text(_record(figures, mark))
        made.rename(directory)
    _register(directory, family.task, name or f"{_plain(model)}-{mark}", config_file)


def _source(model: str) -> Path:
    """Return the checkpoint's directory. Raises ``BadRequest`` when it is not here."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise BadRequest(f"{model} is not here: mataserver pull {model} --task TASK") from error


def _config(source: Path) -> dict[str, Any]:
    try:
        config = json.loads((source / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise BadRequest("the model's config.json cannot be read") from error
    return config if isinstance(config, dict) else {}


def _read(photos: Path | None) -> list[Any]:
    """Return the pictures to compare on, as arrays ``[H, W, 3]``."""
    from mataserver_onnx.export.comparison import framings

    if photos is None:
        return list(framings(_picture(Path(__file__).with_name("photo.jpg"))))
    files = [photos]
    if photos.is_dir():
        files = sorted(file for file in photos.iterdir() if file.suffix.lower() in _PICTURES)
    if not files:
        raise BadRequest(f"{photos} holds no pictures")
    return [_picture(file) for file in files[:_MOST_PICTURES]]


def _picture(file: Path) -> Any:
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, Image.DecompressionBombError) as error:
        raise BadRequest(f"{file} cannot be read as a picture") from error


def _make(
    source: Path, made: Path, family: Family, target: str, photos: list[Any], *, int8: bool
) -> list[Figure]:
    """Write the export and compare it with torch on the photos."""
    from mataserver_onnx.export import comparison, tracing

    click.echo(f"exporting with {_versions()}")
    checkpoint = tracing.Checkpoint(source, family)
    checkpoint.write(made, target, photos, int8=int8)
    backend, params = _ASKED[family.task]
    context = LoadContext(
        settings=Settings(),
        device="cpu",
        dtype="float32",
        threads=0,
        data_dir=made.parent,
        log=logging.getLogger("mataserver.onnx"),
    )
    served = backend.load(ModelSpec("the export", family.task, "local", made), context)
    click.echo(f"compared with torch on {len(photos)} pictures; the largest differences:")
    return comparison.compare(checkpoint, served, params, photos, int8=int8)


def _versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch"))


def _record(figures: Sequence[Figure], mark: str) -> str:
    differences = {figure.name: figure.value for figure in figures}
    record = {"export": mark, "made with": _versions(), "differences": differences}
    return json.dumps(record, indent=2) + "\n"


def _plain(model: str) -> str:
    """Return a name to register under: a repository's id, or a directory's own name."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _register(directory: Path, task: str, name: str, config_file: str | None) -> None:
    """Register through ``mataserver pull``, as a person would."""
    command = [sys.executable, "-m", "mataserver", "pull", str(directory), "--task", task]
    command += ["--name", name, *(["--config", config_file] if config_file else [])]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    if done.returncode:
        raise MataError(f"the export lies in {directory}, but could not be registered")
    click.echo(f"Exported to {directory}, registered as {name} ({task})")
