"""COLMAP's global mapping, which uses all pairs of a scene together, in a killable process.

Incremental mapping grows from two photographs, and ends where no other photograph overlaps enough
with the model. Global mapping averages the pairs' motions, and gets across such places. But it
places every photograph, even unconnected ones, so photographs that no points connect are left out
here. COLMAP cannot cancel it, hence the process.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from mataserver_reconstruct import die_with_parent, graph
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct.photos import write_atomically

if TYPE_CHECKING:
    from mataserver_reconstruct.workspace import Workspace


class MappingRequest(Struct, frozen=True):
    """The process's input, in a file."""

    database: str
    photos: str
    output: str
    files: list[str]
    seed: int


def build(workspace: Workspace, files: list[str], folder: Path) -> list[Path]:
    """Map a scene into an existing folder; return the folders of its models.

    Returns none where COLMAP fails: the result of incremental mapping remains. Raises what the job
    raises when it is to stop.
    """
    request = MappingRequest(
        str(workspace.database), str(workspace.folder), str(folder), files, workspace.spec.seed
    )
    place = workspace.work / "averaging.request.json"
    write_atomically(place, msgspec.json.encode(request))
    command = [sys.executable, str(Path(die_with_parent.__file__)), sys.executable, "-m", __name__]
    with subprocess.Popen(  # noqa: S603 - ours
        [*command, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None or process.stdin is None:
            raise RuntimeError("the process has no pipes")
        workspace.native.run_cancellable(process.stdout.read, process.stdin.close)
    if process.returncode:
        return []
    return sorted(path.parent for path in folder.glob("*/points3D.bin"))


def keep_connected(model: Any) -> Any:
    """Remove the photographs of a model that points do not connect to the rest; return it."""
    tracks = (
        {element.image_id for element in point.track.elements} for point in model.points3D.values()
    )
    stays = graph.largest_connected(tracks)
    for number in model.reg_image_ids():
        if number not in stays:
            model.deregister_frame(model.image(number).frame_id)
    return model


def main() -> None:
    """Process the request in the file that the command line names."""
    request = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=MappingRequest)
    pycolmap.set_random_seed(request.seed)
    options = pycolmap.GlobalPipelineOptions()
    options.image_names = request.files
    options.num_threads = 1  # deterministic, as incremental mapping is
    options.random_seed = request.seed
    pycolmap.global_mapping(request.database, request.photos, request.output, options=options)


if __name__ == "__main__":
    main()
