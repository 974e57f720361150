"""The settings of the plugins of this distribution: ``plugins.hf`` in the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from mataserver import hookimpl

MAX_IMAGES_PIXELS = 1_000_000_000

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.hf``.

    person_detector: the registered model of the task detect that finds people for pose models.
    person_label:    what that detector calls a person, in any case.
    compile:         whether to compile the networks that can be, unless ``models[].compile`` says
                     otherwise.
    max_images:      how many images a conversation with a vision-language model may show.
    max_images_pixels: how many pixels they may have together.
    """

    section: ClassVar[str] = "hf"
    person_detector: Name = "PekingU/rtdetr_r50vd_coco_o365"
    person_label: Name = "person"
    compile: bool = False
    max_images: Annotated[int, Meta(gt=0, le=256)] = 32
    max_images_pixels: Annotated[int, Meta(gt=0, le=MAX_IMAGES_PIXELS)] = 100_000_000


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.hf``, which all plugins of this distribution share."""
    return Settings
