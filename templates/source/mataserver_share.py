"""Models from a file share, whose files are compared with their checksums."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from mataserver import BadRequest, SourceContext, SourceSpec, Unavailable, hookimpl


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """``plugins.share`` in the configuration: the folder where the share is mounted."""

    folder: str = "/mnt/models"


def fetch(ctx: SourceContext) -> None:
    """Copy a model, which has a ``SHA256SUMS`` as the program sha256sum writes it."""
    share = Path(ctx.settings.folder)
    if not share.is_dir():
        raise Unavailable("the share is not mounted")
    model = share / ctx.reference
    if not (model / "SHA256SUMS").is_file():
        raise BadRequest(f"the share has no model {ctx.reference}")
    lines = (model / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
    ctx.expect(sum((model / name).stat().st_size for name in sums), len(sums))
    for name, digest in sums.items():
        target = (ctx.folder / name).resolve()
        if not target.is_relative_to(ctx.folder.resolve()):
            raise BadRequest(f"{name} leads out of the model")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, target)
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise BadRequest(f"{name} has arrived damaged")


@hookimpl
def settings() -> type[Settings]:
    """Return the type of ``plugins.share``."""
    return Settings


@hookimpl
def sources() -> Iterable[SourceSpec]:
    """Return the source; ``fetch`` runs in a process of its own."""
    return [SourceSpec(name="share", fetch=fetch, example="detectors/harbour")]
