"""One inference as the protocol asks for it: input tensors to encoded images and parameters.

Pixels become a PPM, a header of some bytes before them: the way to a model carries encoded images,
and this encoding costs one copy each way and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from mataserver import BadRequest
from mataserver_oip import signature, tensor

if TYPE_CHECKING:
    from mataserver_oip.tensor import Tensor

IGNORED_FIELDS = frozenset({"binary_data_output", "priority", "timeout"})
"""Parameters of the protocol that say nothing about the inference: there is one queue."""
_SEQUENCES = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A decoded request. ``outputs`` are the names asked for; None stands for all of them."""

    model: str
    version: str = ""
    id: str = ""
    inputs: tuple[Tensor, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None


def read(request: InferRequest, most: int) -> tuple[list[bytes], list[dict[str, Any]]]:
    """Return the encoded images of a request, at most ``most``, and the parameters of each.

    Raises ``BadRequest`` for inputs that a model does not have, wrong datatypes and wrong shapes.
    """
    given: dict[str, Tensor] = {}
    for each in request.inputs:
        if each.name not in {known.name for known in signature.INPUTS}:
            raise BadRequest(f"input '{each.name[:64]}' is not one of this model: image, params")
        if each.name in given:
            raise BadRequest(f"input '{each.name}' is given twice")
        given[each.name] = each
    if signature.IMAGE.name not in given:
        raise BadRequest("input 'image' is missing")
    images = _images(given[signature.IMAGE.name], most)
    plain = _parameters(request.parameters)
    return images, _merged(plain, given.get(signature.PARAMS.name), len(images))


def _images(given: Tensor, most: int) -> list[bytes]:
    images = given.data if isinstance(given.data, list) else _pixels(given, most)
    if not 1 <= len(images) <= most:
        raise BadRequest(f"input 'image': 1 to {most} images in a request, got {len(images)}")
    for number, image in enumerate(images):
        if not image:
            raise BadRequest(f"{which(number, len(images))}image is empty")
    return images


def which(number: int, count: int) -> str:
    """Return how an error names one image of several, before its sentence."""
    return f"image {number}: " if count > 1 else ""


def _pixels(given: Tensor, most: int) -> list[bytes]:
    """Return each image of a UINT8 tensor as a PPM."""
    shape = given.shape
    if given.datatype != "UINT8":
        raise BadRequest(f"input 'image': expected BYTES or UINT8, got {given.datatype[:16]}")
    if len(shape) not in {3, 4} or shape[-1] != 3 or 0 in shape:
        raise BadRequest(
            f"input 'image': expected pixels [H, W, 3] or [N, H, W, 3], got {list(shape)}"
        )
    count = shape[0] if len(shape) == 4 else 1
    if count > most:
        raise BadRequest(f"input 'image': 1 to {most} images in a request, got {count}")
    height, width = shape[-3:-1]
    header, size = b"P6\n%d %d\n255\n" % (width, height), height * width * 3
    view = memoryview(tensor.to_binary(given))
    return [b"".join((header, view[at : at + size])) for at in range(0, count * size, size)]


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    if any(given.get(name) for name in _SEQUENCES):
        raise BadRequest("parameters.sequence_id: there are no sequences, use a session")
    return {
        name: value
        for name, value in given.items()
        if name not in IGNORED_FIELDS and name not in _SEQUENCES
    }


def _merged(plain: dict[str, Any], given: Tensor | None, count: int) -> list[dict[str, Any]]:
    """Return the parameters of each image: those of the request and those of ``params``."""
    if given is None:
        return [plain] * count
    if not isinstance(given.data, list):
        raise BadRequest(f"input 'params': expected BYTES, got {given.datatype[:16]}")
    own = [_object(each, number) for number, each in enumerate(given.data)]
    if len(own) not in {1, count}:
        said = "1 element" if count == 1 else f"1 or {count} elements"
        raise BadRequest(f"input 'params': expected {said}, got {len(own)}")
    for number, each in enumerate(own):
        if twice := plain.keys() & each.keys():
            where = which(number, len(own))
            raise BadRequest(f"{where}params.{min(twice)[:64]}: given twice")
    every = own * count if len(own) == 1 else own
    return [{**plain, **each} for each in every]


def _object(text: bytes, number: int) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise BadRequest(
            f"input 'params': each element must be a JSON object: element {number} is not"
        ) from None
