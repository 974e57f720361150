"""The input files of ``mataserver infer``, and the paths of its output."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import click

_OUTPUT_PICTURES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
PICTURES = frozenset({*_OUTPUT_PICTURES, ".avif", ".heic", ".heif", ".pgm", ".ppm"})
_OUTPUT_VIDEOS = {".mkv", ".mov", ".mp4"}
VIDEOS = frozenset(
    {*_OUTPUT_VIDEOS, ".3gp", ".avi", ".flv", ".m4v", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
)


def is_video(file: Path) -> bool:
    """Whether a file is a video, by its name."""
    return file.suffix.lower() in VIDEOS


def expand(places: tuple[Path, ...]) -> list[Path]:
    """Return the files; for a folder its pictures and videos, by name.

    Raises ``UsageError`` for a folder without any.
    """
    files = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        known = [each for each in sorted(place.iterdir()) if _is_known(each)]
        if not known:
            raise click.UsageError(f"{place} holds no picture and no video")
        files += known
    return files


def _is_known(file: Path) -> bool:
    return file.suffix.lower() in PICTURES | VIDEOS and file.is_file()


class DrawingTarget:
    """The output: a file, a folder, or a pattern with ``{name}`` and ``{number}``.

    A name without a suffix is a folder, which is created.

    Raises ``UsageError`` for an output that cannot be written, or would be written twice.
    """

    def __init__(self, out: str, files: list[Path]) -> None:
        self._out = out
        fields = [field for _, field, _, _ in _parse_pattern(out) if field is not None]
        if unknown := set(fields) - {"name", "number"}:
            raise click.UsageError(f"-o: unknown {{{unknown.pop()}}}: there are name and number")
        place = Path(out)
        self._folder = not fields and (out.endswith("/") or place.is_dir() or not place.suffix)
        self._numbered = "number" in fields
        if len(files) > 1 and not fields and not self._folder:
            raise click.UsageError(
                f"-o names one file, and there are {len(files)}: "
                f"give a folder (out/) or a pattern (out/{{name}}.png)"
            )
        self._check(files)

    def _check(self, files: list[Path]) -> None:
        taken: set[Path] = set()
        for number, file in enumerate(files):
            place = self.place(file, number)
            allowed = _OUTPUT_VIDEOS if self.is_video_output(file) else _OUTPUT_PICTURES
            if place.suffix.lower() not in allowed:
                raise click.UsageError(
                    f"-o: {place.name} cannot be written: one of {', '.join(sorted(allowed))}"
                )
            if place.resolve() in {each.resolve() for each in files}:
                raise click.UsageError(f"-o: {place} would be overwritten")
            if place in taken:
                raise click.UsageError(f"-o: two files would be written to {place}")
            taken.add(place)

    def is_video_output(self, file: Path) -> bool:
        """Whether a file's output is a video, instead of a picture per frame."""
        return is_video(file) and not (
            self._numbered and Path(self._out).suffix.lower() in _OUTPUT_PICTURES
        )

    def place(self, file: Path, number: int) -> Path:
        """Return the output path of a file, or of its frame ``number``."""
        if self._folder:
            kept, other = (_OUTPUT_VIDEOS, ".mp4") if is_video(file) else (_OUTPUT_PICTURES, ".png")
            suffix = file.suffix if file.suffix.lower() in kept else other
            return Path(self._out, file.stem + suffix)
        if "{" not in self._out:
            return Path(self._out)
        return Path(self._out.format(name=file.stem, number=number))


def _parse_pattern(out: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(out))
    except ValueError as error:
        raise click.UsageError(f"-o: {error}") from None
