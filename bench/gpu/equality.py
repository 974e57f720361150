"""Whether each family of networks answers on the GPU as it does on the CPU in float32.

Tiny networks with random weights, one of each family, one picture. In float32 every number is to
be within ``NEAR`` of the CPU's, in parts of its size; what 16 bits change is told, not judged,
unless an answer has no number that is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import tiny
import tiny_pose
import tiny_prompted
import tiny_reading
import tiny_segment
import tiny_vlm

import options
from mataserver import Detection, DetectResult, ModelFiles, ModelSpec
from mataserver.contract.backend import LoadedPart
from mataserver.params.table import Params
from mataserver_hf import backends
from mataserver_hf import options as hf

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver import Backend

NEAR = 5e-3
FORMATS = ("float32", "float16", "bfloat16")
HEADS = {"classify": "ImageClassification", "segment": "Segmentation", "embed": "Dinov2"}
"""What a checkpoint's class is called, or begins with, where several tasks take its family."""
SIMULATED = "simulated"
FEW = ("rt_detr", "vit", "clip", "segformer", "depth_anything", "trocr")
"""Of ``--quick``."""
ASKED: dict[str, Any] = {
    "confidence": 0.0,
    "prompts": ("cat", "dog"),
    "prompt": "what is it",
    "max_tokens": 6,
    "normalize": False,
}


class Nobody:
    """Stands in for a detector of people: one person, in the middle."""

    def predict(self, images: Sequence[Any], params: Sequence[Any]) -> list[DetectResult]:
        """Return the person of each image."""
        person = Detection("person", 0.9, (40.0, 30.0, 110.0, 100.0))
        return [DetectResult([person]) for _ in zip(images, params, strict=True)]


class NobodyParams(Params, frozen=True):
    """The stand-in's parameters."""

    confidence: float = 0.5
    prompts: tuple[str, ...] = ()


def builders() -> dict[str, Any]:
    """Return what writes a checkpoint, by its name."""
    every = {**tiny.BUILDERS, **tiny_reading.BUILDERS, **tiny_pose.BUILDERS, **tiny_vlm.BUILDERS}
    return {**every, **tiny_segment.builders(tiny), **tiny_prompted.builders(tiny)}


def backend(path: Path) -> Backend:
    """Return the one that serves a checkpoint."""
    config = json.loads((path / "config.json").read_text())
    files = ModelFiles("tiny", "local", path, config)
    kind = config["architectures"][0]
    serving = [each for each in backends() if each.serves(files, each.task)]
    named = [each for each in serving if HEADS.get(each.task, " ") in kind]
    return (named or serving)[0]


def picture() -> Any:
    """Return an image [120, 150, 3] with structure in it."""
    image = np.random.default_rng(0).integers(0, 60, (120, 150, 3), dtype=np.uint8)
    image[30:60, 40:75] += np.uint8(150)
    image[:, 75:, 2] += np.uint8(40)
    return image


def answer(path: Path, found: Backend, device: str, dtype: str) -> Any:
    """Load a checkpoint and ask it once."""
    with tempfile.TemporaryDirectory() as scratch:
        context = options.context(Path(scratch), device, dtype, hf.Settings())
        if found.parts is not None:
            person = LoadedPart(Nobody(), NobodyParams)
            context = dataclasses.replace(context, parts={"person": person})
        model: Any = found.load(ModelSpec("tiny", found.task, "local", path), context)
        names = {field.name for field in msgspec.structs.fields(found.params)}
        params = found.params(**{k: v for k, v in ASKED.items() if k in names})
        [result] = model.predict([picture()], [params])
        model.close()
    return result


def leaves(value: Any) -> Iterator[Any]:
    """Yield every number and text of a result, in its order."""
    if isinstance(value, np.ndarray):
        yield from value.astype(float).ravel()[:: max(1, value.size // 1000)].tolist()
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from leaves(getattr(value, name))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from leaves(each)
    elif value is not None and value is not msgspec.UNSET:
        yield value


def difference(one: Any, other: Any) -> float | str:
    """Return the largest difference, in parts of the number's size, or what differs otherwise."""
    ours, theirs = list(leaves(one)), list(leaves(other))
    if len(ours) != len(theirs):
        return f"{len(ours)} values for {len(theirs)}"
    worst = 0.0
    for mine, its in zip(ours, theirs, strict=True):
        if isinstance(mine, int | float) and isinstance(its, int | float):
            worst = max(worst, abs(mine - its) / (1 + abs(its)))
        elif mine != its:
            return f"{mine!r} for {its!r}"
    return worst if math.isfinite(worst) else "no number"


def place(device: str) -> contextlib.AbstractContextManager[None]:
    """Return what provides the device: the simulated one needs a torch as new as the tests'."""
    if device != SIMULATED:
        return contextlib.nullcontext()
    import simulated

    return simulated.available()


def family(path: Path, device: str) -> dict[str, Any]:
    """Return how far a family is from the CPU, by format."""
    found = backend(path)
    expected = answer(path, found, "cpu", "float32")
    told: dict[str, Any] = {}
    for dtype in FORMATS[:1] if device == SIMULATED else FORMATS:
        try:
            with place(device):
                told[dtype] = difference(answer(path, found, device, dtype), expected)
        except Exception as error:  # noqa: BLE001 - whatever a framework raises is a finding
            told[dtype] = f"{type(error).__name__}: {error}"[:300]
    return {"task": found.task, **told}


def main() -> None:
    """Compare every family."""
    asked = options.read()
    chosen = {k: v for k, v in builders().items() if not asked.quick or k in FEW}
    told: dict[str, Any] = {}
    for name, build in chosen.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                build(Path(folder))
                told[name] = family(Path(folder), asked.device)
            except Exception as error:  # noqa: BLE001 - the others are to be compared all the same
                told[name] = {"float32": f"{type(error).__name__}: {error}"[:300]}
        print(json.dumps({"families": told, "wrong": faults(told)}), flush=True)


def faults(told: dict[str, Any]) -> list[str]:
    """Return the families that answer otherwise than the CPU."""
    return [
        name
        for name, each in told.items()
        if not (isinstance(each["float32"], float) and each["float32"] <= NEAR)
    ]


if __name__ == "__main__":
    main()
