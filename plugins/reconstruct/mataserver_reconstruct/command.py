"""The command ``mataserver reconstruct``."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mataserver import BadRequest, MataError, OutOfMemory, read_configuration
from mataserver_jobs.disk import is_filled
from mataserver_reconstruct import archive, local_process, matchers, room, stages
from mataserver_reconstruct.settings import Settings
from mataserver_reconstruct.spec import read
from mataserver_reconstruct.weights import Matchers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mataserver_reconstruct.spec import Spec

_GRACE = 60  # seconds for writing the partial result
_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command, besides Ctrl-C."""
_ENDINGS = archive.PICTURES | {".zip"}


@click.command()
@click.argument(
    "places", metavar="PHOTOS...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the results; one that was begun is gone on with.",
)
@click.option("--matcher", default="sift", show_default=True, help="Who matches features.")
@click.option("--max-size", type=int, help="Longest side in pixels that is looked at [1600].")
@click.option("--max-keypoints", type=int, help="About how many features of one photograph [4096].")
@click.option("--exhaustive", type=int, help="Photographs up to which all pairs are matched [150].")
@click.option("--camera", type=click.Choice(["auto", "single", "per_image"]))
@click.option("--cluster", type=click.Choice(["components", "louvain"]))
@click.option("--density", type=click.Choice(["sparse", "semi"]))
@click.option("--scale", help="gps, or a length: 'a.jpg:120,340 b.jpg:80,35 2.5' (metres).")
@click.option("--voxel", type=float, help="Side of a voxel in the model's units.")
@click.option("--dataset", "dataset_name", help="Name in the CSV [custom].")
@click.option("--scene", "scene_name", help="Name in the report [scene_01].")
@click.option("--seed", type=int, help="Of everything that draws [0].")
@click.option("--threads", type=int, help="Of features and matches [what the machine gives].")
@click.option("--config", "config_file", metavar="FILE", help="Configuration of the server.")
def reconstruct(
    places: tuple[Path, ...], output: Path, config_file: str | None, **options: Any
) -> None:
    """Make camera poses and a point cloud from photographs.

    PHOTOS are pictures, folders and ZIP archives of them. The output holds a cloud for each scene
    (PLY and GLB), the poses (CSV) and report.html, which says what became of every photograph.
    """
    asked = {name: value for name, value in options.items() if value is not None}
    spec, settings = read(asked), Matchers()
    if spec.matcher != matchers.DEFAULT:  # the default needs no settings, valid or not
        settings = read_configuration(config_file).plugin("reconstruct", Settings).matchers
    matchers.check(spec.matcher, settings)
    output = output.expanduser().resolve()
    with _signals_as_exit(), _collected(places) as source:
        figures = _run(source, output, spec, settings)
    _print_result(figures, output)


@contextlib.contextmanager
def _collected(places: Sequence[Path]) -> Iterator[Path]:
    """Yield one folder with all places. Raises ``BadRequest`` for one that does not exist."""
    for place in places:
        if not place.exists():
            raise BadRequest(f"there is no {place}")
    if len(places) == 1 and places[0].is_dir():
        yield places[0].resolve()
        return
    with tempfile.TemporaryDirectory(prefix="mataserver-") as made:
        for number, place in enumerate(places):
            name = _name(place)
            link = Path(made, name)
            if link.is_symlink() or name.startswith("."):  # hidden, but it was named
                link = Path(made, f"{number + 1}-{name}")
            link.symlink_to(place.resolve())
        yield Path(made)


def _name(place: Path) -> str:
    """Return the name that a place was given with, also where it is a link.

    That of the link's target if only the target's ending tells what the file is.
    """
    target = place.resolve()
    unclear = place.suffix.lower() not in _ENDINGS and target.suffix.lower() in _ENDINGS
    if place.name in {"", ".."} or unclear:  # "" of "." and "/"
        return target.name or "all"
    return place.name


def _run(source: Path, output: Path, spec: Spec, settings: Matchers) -> dict[str, Any]:
    """Return the figures of a reconstruction in a separate process. Raises ``MataError``."""
    output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", local_process.__name__]
    asked, given = msgspec.to_builtins(spec), msgspec.to_builtins(settings)
    request = local_process.ProcessRequest(str(output), str(source), asked, given)
    with subprocess.Popen(  # noqa: S603 - ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            return _wait_for(process, request)
        except (KeyboardInterrupt, SystemExit):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_GRACE)
            click.echo("It was stopped; the same command goes on with it", err=True)
            raise
        finally:
            process.kill()


@contextlib.contextmanager
def _signals_as_exit() -> Iterator[None]:
    """Make signals that would kill this process raise ``SystemExit``, with a shell's status.

    Ignored signals, as with nohup, stay ignored. After the first one the others are ignored, too:
    ``timeout`` sends two, and the second one must not cut the clean-up short.
    """

    def exit_for_signal(number: int, _frame: object) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, exit_for_signal)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(
    process: subprocess.Popen[bytes], request: local_process.ProcessRequest
) -> dict[str, Any]:
    """Send the request, print the progress, return the figures."""
    if process.stdin is None or process.stdout is None:
        raise MataError("the reconstruction has no pipes")
    with contextlib.suppress(BrokenPipeError):  # its exit status is reported below
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.flush()
    shown = ""
    for raw in process.stdout:
        line: local_process.Message = msgspec.json.decode(raw, type=local_process.Message)
        if isinstance(line, local_process.EndMessage):
            if line.how != "done":
                raise MataError(line.why or "it was stopped")
            return line.figures
        text = f"{stages.percent(line.stage, line.done, line.total):3.0f} %  {line.message}"
        if text != shown and line.message:
            click.echo(text, err=True)
            shown = text
    if is_filled(Path(request.folder)):  # COLMAP dies of it without a word
        raise OutOfMemory(room.FULL)
    raise MataError(
        f"the reconstruction died with status {process.wait()}; the same command goes on with it"
    )


def _print_result(figures: dict[str, Any], output: Path) -> None:
    """Print the results and the advice."""
    placed, count = figures["n_registered"], figures["n_images"]
    click.echo(f"{placed} of {count} photographs have a place")
    for cluster in figures["clusters"]:
        name = cluster["filename"] or "no points"
        images, points = cluster["num_images"], cluster["num_points3D"]
        click.echo(f"{cluster['name']}: {images} photographs, {points} points: {name}")
    for sentence in figures["advice"]:
        click.echo(sentence)
    click.echo(f"The report: {output / figures['report']}")
