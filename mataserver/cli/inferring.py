"""``mataserver infer``: pictures and videos through a model of the running server."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mataserver import config
from mataserver.cli import output, targets
from mataserver.cli.parameters import params_option
from mataserver.cli.remote import connected, server_options
from mataserver.errors import MataError
from mataserver.printing import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from mataserver.cli.targets import DrawingTarget
    from mataserver_client import Client, StreamItem
    from mataserver_client.results import InferResponse

_FILE_ERRORS = frozenset({400, 413})
"""Statuses that concern one picture only: the others continue."""


@click.command()
@click.argument("model")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE…"
)
@click.option(
    "-o",
    "--out",
    metavar="PLACE",
    help="Write what was found, drawn in: a file, a folder (out/), or a pattern (out/{name}.png; "
    "{number} counts the files, or a video's frames).",
)
@params_option
@click.option("--task", help="For a video: track, to follow what a detector finds.")
@server_options
def infer(
    *,
    model: str,
    files: tuple[Path, ...],
    out: str | None,
    params: dict[str, Any],
    task: str | None,
    url: str | None,
    api_key: str | None,
    config_file: str | None,
) -> None:
    """Run a model on pictures, folders and videos.

    The running server does it. Prints one line of JSON for each picture and each frame of a video.
    """
    chosen = targets.expand(files)
    if task is not None and not all(map(targets.is_video, chosen)):
        raise click.UsageError("--task is for videos: a picture is served for the model's own task")
    target = None if out is None else targets.DrawingTarget(out, chosen)
    limit = config.load(config_file).max_pixels
    with connected(url, api_key, config_file) as client:
        run = _InferenceRun(client, model, params, target, limit, task)
        failed = [file for number, file in enumerate(chosen) if not run.serve(file, number)]
    if failed:
        raise MataError(f"{len(failed)} of {len(chosen)} files could not be served")


@dataclass(frozen=True, slots=True)
class _InferenceRun:
    client: Client
    model: str
    params: dict[str, Any]
    target: DrawingTarget | None
    max_pixels: int
    task: str | None

    def serve(self, file: Path, number: int) -> bool:
        """Print and draw the results of a file; return whether the file was usable.

        Raises ``MataError``, and ``OSError`` of the output, for errors that concern every file.
        """
        try:
            if targets.is_video(file):
                self._video(file)
            else:
                self._picture(file, number)
        except MataError as error:
            if error.status not in _FILE_ERRORS:
                raise
            click.echo(f"error: {file}: {printable(error.told)}", err=True)
            return False
        except BrokenPipeError:
            raise  # who reads the output has left, such as head: not the file's fault
        except OSError as error:
            if output.is_full(error):
                raise
            click.echo(f"error: {error.filename or file}: {error.strerror or error}", err=True)
            return False
        return True

    def _picture(self, file: Path, number: int) -> None:
        data = file.read_bytes()
        answer = self.client.infer(self.model, data, **self.params)
        _print(answer, file)
        if self.target is not None:
            from mataserver import media

            pixels = media.decode(data, self.max_pixels)
            _save(_annotated(pixels, answer), self.target.place(file, number))

    def _video(self, file: Path) -> None:
        try:
            from mataserver.cli import films
        except ModuleNotFoundError:
            raise MataError("a video needs a package: pip install 'av>=18.1,<20'") from None
        from mataserver_client import FrameError

        source = films.VideoReader(file, self.max_pixels)
        answers = self._answers(source.encoded())
        with contextlib.closing(answers), self._output(file) as show:
            for item in answers:
                if isinstance(item, FrameError):
                    why = printable(item.detail)
                    click.echo(f"error: {file}: frame {item.frame_id}: {why}", err=True)
                    continue
                number = int(item.frame_id or 0)
                pixels, seconds = source.take(number)
                _print(item, file, frame=number, seconds=round(seconds, 3))
                show(pixels, seconds, item)
        if source.damaged:
            told = f"warning: {file}: frames left out because they are damaged: {source.damaged}"
            click.echo(told, err=True)

    def _answers(self, frames: Iterator[bytes]) -> Generator[StreamItem, None, None]:
        """Stream a video; a tracker that can, counts the frames unless asked otherwise.

        They are sent as fast as the model answers, and not as they were recorded.
        """
        from mataserver_client import InvalidParams

        stream = functools.partial(self.client.stream, self.model, frames, task=self.task)
        if self.params.get("timing") is None:
            try:
                yield from stream(**{**self.params, "timing": "frames"})
            except InvalidParams as error:  # before the first frame: it has none, or another one
                if not error.detail.startswith("params.timing: "):
                    raise
            else:
                return
        yield from stream(**self.params)

    @contextlib.contextmanager
    def _output(self, file: Path) -> Iterator[Callable[[Any, float, InferResponse], None]]:
        """Yield a function that draws a video's frames: to a video, to pictures, or not at all."""
        target = self.target
        if target is None:
            yield lambda _pixels, _seconds, _answer: None
        elif target.is_video_output(file):
            from mataserver.cli.films import VideoWriter

            with VideoWriter(_with_parent(target.place(file, 0))) as film:
                yield lambda pixels, seconds, answer: film.write(
                    _annotated(pixels, answer), seconds
                )
        else:
            yield lambda pixels, _seconds, answer: _save(
                _annotated(pixels, answer), target.place(file, int(answer.frame_id or 0))
            )


def _print(answer: InferResponse, file: Path, **of_frame: float) -> None:
    """Print an answer as one line of JSON, with its file."""
    line = {"file": str(file), **of_frame, **msgspec.to_builtins(answer)}
    click.echo(msgspec.json.encode(line).decode())


def _annotated(pixels: NDArray[np.uint8], answer: InferResponse) -> Image.Image:
    from mataserver.media import drawing

    return drawing.drawn(pixels.copy(), drawing.result_of(answer))


def _save(picture: Image.Image, place: Path) -> None:
    with output.drawing():
        picture.save(_with_parent(place))


def _with_parent(place: Path) -> Path:
    """Create a path's folder; return the path."""
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
