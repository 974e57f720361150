"""Options of commands for a model's parameters."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from mataserver.params.text_values import plain_number


def _given(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            given = _decoded(text)
            if not isinstance(given, dict):
                raise click.UsageError(f"--params: not a JSON object: {text}")
            found |= given
        elif not equals:
            raise click.UsageError(f"--params: expected NAME=VALUE or a JSON object: {text}")
        else:
            found[name] = _decoded(value)
    return found


def _decoded(text: str) -> Any:
    """Parse a value as JSON or as a number in any spelling, else return the text."""
    try:
        return msgspec.json.decode(plain_number(text))
    except msgspec.DecodeError:
        return text


params_option = click.option(
    "-p",
    "--params",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_given,
    help="A parameter, also several times; or all of them as one JSON object.",
)
"""``params``: a dict of parameters."""
