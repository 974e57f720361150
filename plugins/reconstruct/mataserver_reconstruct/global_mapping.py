"""COLMAP's global mapping: what all pairs of a scene tell at once, in a process that can be ended.

Incremental mapping grows from two photographs, and ends where no other sees enough of what it has.
This one averages what the pairs tell, and gets across such places. But it gives every photograph a
place, one that nothing holds as well; so what points do not hold together is left out here. COLMAP
cannot cancel it, hence the process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from mataserver_reconstruct import graph, leash
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.photos import replace

if TYPE_CHECKING:
    from mataserver_reconstruct.study import Study


class Order(Struct, frozen=True):
    """What the process is told, in a file."""

    database: str
    photos: str
    output: str
    files: list[str]
    seed: int


def build(study: Study, files: list[str], folder: Path) -> list[Path]:
    """Map a scene into a folder that is there; return the folders of its models.

    None where COLMAP fails: there is what incremental mapping found. Raises what the job raises
    when it is to stop.
    """
    order = Order(str(study.database), str(study.folder), str(folder), files, study.spec.seed)
    place = study.work / "averaging.order.json"
    replace(place, msgspec.json.encode(order))
    command = [sys.executable, str(Path(leash.__file__)), sys.executable, "-m", __name__]
    with subprocess.Popen(  # noqa: S603 - ours
        [*command, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("the process has no pipes")
        study.native.watched(process.stdout.read, process.stdin.close)
    if process.returncode:
        return []
    return sorted(path.parent for path in folder.glob("*/points3D.bin"))


def held(model: Any) -> Any:
    """Leave out of a model what points do not hold together; return it."""
    tracks = (
        {element.image_id for element in point.track.elements} for point in model.points3D.values()
    )
    stays = graph.held(tracks)
    for number in model.reg_image_ids():
        if number not in stays:
            model.deregister_frame(model.image(number).frame_id)
    return model


def main() -> None:
    """Do what the order says."""
    order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
    pycolmap.set_random_seed(order.seed)
    options = pycolmap.GlobalPipelineOptions()
    options.image_names = order.files
    options.num_threads = 1  # the same model from the same database, as by incremental mapping
    options.random_seed = order.seed
    pycolmap.global_mapping(order.database, order.photos, order.output, options=options)


if __name__ == "__main__":
    main()
