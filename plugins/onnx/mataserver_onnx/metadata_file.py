"""The file ``metadata.yaml`` that Ultralytics writes beside a network for OpenVINO.

It holds what an ONNX file has in itself. It may be a stranger's, and the server reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import MataError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "metadata.yaml"
_MAX_BYTES = 2**18


def read(directory: Path) -> dict[str, str]:
    """Return the entries as an ONNX file would hold them; none without the file.

    Raises ``MataError`` for a file that cannot be read.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """One that refuses aliases, which can stand for any amount of text."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias")
            return super().compose_node(parent, index)

    file = directory / NAME
    try:
        if not file.is_file():
            return {}
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise MataError(f"the model's {NAME} is too large")
        decoded = yaml.load(content, Loader)  # noqa: S506 - a safe one
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise MataError(f"the model's {NAME} cannot be read") from error
    if not isinstance(decoded, dict):
        raise MataError(f"the model's {NAME} does not map names to values")
    return {str(key): str(value) for key, value in decoded.items()}
