"""``mataserver fleet adopt``: what a running Triton serves becomes the fleet's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_fleet import pbtxt, schema
from mataserver_fleet.fleet_client import quote_name
from mataserver_fleet.model_push import folder_of, push
from mataserver_fleet.models import check_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mataserver_fleet.fleet_client import FleetClient
    from mataserver_fleet.model_push import Folder


def adopt(
    ask: FleetClient,
    triton: str,
    root: Path | None,
    only: tuple[str, ...],
    print_line: Callable[[str], None],
) -> list[str]:
    """Take over the models that a Triton serves, telling each; return why others could not be.

    ``root`` is the folder of its model repository as it is seen here, without which no files are.
    ``only`` names models, without any it is all of them. Raises ``MataError`` for a Triton that
    does not answer, or has no model of a name.
    """
    listed = ask("GET", f"/api/tritons/{quote_name(triton)}/repository")["models"]
    if absent := set(only) - {each["name"] for each in listed}:
        raise MataError(f"{triton} has no model {min(absent)}")
    refused: list[str] = []
    for each in listed:
        name = each["name"]
        if only and name not in only:
            continue
        if not each["versions"]:
            print_line(f"{name} is not served at {triton}: it stays as it is")
            continue
        try:
            for line in _adopt_model(ask, triton, each, root):
                print_line(line)
        except MataError as error:
            refused.append(f"{name}: {error.detail}")
            print_line(f"{name} is not accepted: {error.detail}")
    return refused


def _adopt_model(
    ask: FleetClient, triton: str, view: dict[str, Any], root: Path | None
) -> list[str]:
    """Push what a Triton serves of a model, and want it there. Raises ``MataError``."""
    name = view["name"]
    check_name(name)  # it becomes a part of a path, and a Triton may call it anything
    known = ask.find(f"/api/models/{quote_name(name)}")
    places = (known or {}).get("tritons", ())
    if any(each["name"] == triton and each["wanted"] for each in places):
        return [f"{name} is the fleet's already"]
    numbers = sorted(map(int, view["versions"]))
    lines = push(ask, name, _served_folder(name, numbers, view["config"], root))
    ask("POST", f"/api/models/{quote_name(name)}/load", {"triton_id": triton, "versions": numbers})
    return [*lines, f"{name} is the fleet's at {triton}: {', '.join(map(str, numbers))}"]


def _served_folder(
    name: str, numbers: list[int], config: dict[str, Any] | None, root: Path | None
) -> Folder:
    """Return the folder of a model with the versions that are served. Raises ``MataError``."""
    if root is None:
        raise MataError(
            "a Triton does not list its files: give its model repository with --repository"
        )
    if not (root / name).is_dir():
        raise MataError(f"its files are not in {root}")
    folder = folder_of(root / name)
    if absent := set(numbers) - set(folder.versions):
        raise MataError(f"the files of its version {min(absent)} are not in {root / name}")
    own = None
    if schema.NAME not in folder.common and config is not None:
        # What the Triton made up itself, but for the file of its backend, which it finds again.
        own = pbtxt.write({key: each for key, each in config.items() if key != "runtime"})
    chosen = {number: folder.versions[number] for number in numbers}
    return replace(folder, versions=chosen, config=own)
