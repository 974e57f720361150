"""A Dockerfile and its .dockerignore, read as far as the tests need them."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_INSTRUCTION = re.compile(r"([A-Z]+)\s+(.*)")


@dataclass(slots=True)
class Stage:
    """One stage: its name and its instructions in order."""

    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        """Return what each instruction of that kind says."""
        return [said for known, said in self.instructions if known == keyword]

    def last(self, keyword: str) -> str:
        """Return what the last instruction of that kind says, the one that counts."""
        return self.all(keyword)[-1]

    def exec_form(self, keyword: str) -> list[str]:
        """Return an instruction's command, which is written as JSON, after its options."""
        said = self.last(keyword)
        return list(map(str, json.loads(said[said.index("[") :])))


def stages(text: str) -> list[Stage]:
    """Return the stages of a Dockerfile."""
    found: list[Stage] = []
    plain = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for line in re.sub(r"\\\n", "", plain).splitlines():
        match = _INSTRUCTION.fullmatch(line)
        if match is None or (not found and match[1] == "ARG"):  # before the first stage
            continue
        keyword, said = match.groups()
        if keyword == "FROM":
            found.append(Stage(said.partition(" AS ")[2]))
        found[-1].instructions.append((keyword, said))
    return found


def copy_context(root: Path, target: Path) -> None:
    """Copy what .dockerignore lets through: everything is out but ``!path``, less ``**/name``."""
    lines = [line for line in (root / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    inner = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    wanted = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert len(inner) + len(wanted) + 1 == len(lines)
    for name in wanted:
        source, copy = root / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*inner))
        else:
            shutil.copy(source, copy)
