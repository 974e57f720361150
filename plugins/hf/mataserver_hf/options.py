"""The settings of the plugins of this distribution: ``plugins.hf`` in the configuration."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from mataserver import hookimpl

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``plugins.hf``.

    person_detector: the registered model of the task detect that finds people for pose models.
    person_label:    what that detector calls a person, in any case.
    compile:         whether to compile the networks that can be, unless ``models[].compile`` says
                     otherwise.
    """

    section: ClassVar[str] = "hf"
    person_detector: Name = "PekingU/rtdetr_r50vd_coco_o365"
    person_label: Name = "person"
    compile: bool = False


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.hf``, which all plugins of this distribution share."""
    return Settings
