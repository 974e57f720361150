"""File access rules of a model's process, derived from its plugin and its model.

It may read what the server's user can, except keys and other plugins' data. It may write to its
plugin's directory in ``data_dir``, its temporary directory and devices only. The rules apply where
the kernel has Landlock, unless the backend (``confined=False``) or ``confine_models`` opts out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mataserver.config import DEFAULT_FILE, PREFIX
from mataserver.config.credentials import FILE
from mataserver.frontends.directory import FOLDER as FRONTENDS
from mataserver.processes.landlock import Confinement
from mataserver.sources.cache import cache_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_CREDENTIAL_PATHS = (
    *("~/.ssh", "~/.aws", "~/.azure", "~/.config/gcloud", "~/.docker", "~/.gnupg", "~/.kube"),
    *("~/.git-credentials", "~/.netrc", "~/.pypirc"),
    *("~/.cache/huggingface/token", "~/.cache/huggingface/stored_tokens"),
)
_HUB_TOKENS = ("token", "stored_tokens")
_CREDENTIAL_VARIABLES = (
    *(
        "HF_TOKEN_PATH",
        "HF_STORED_TOKENS_PATH",
        "NETRC",
        "GNUPGHOME",
        "DOCKER_CONFIG",
        "KUBECONFIG",
    ),
    *("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AZURE_CONFIG_DIR", "CLOUDSDK_CONFIG"),
    "GOOGLE_APPLICATION_CREDENTIALS",
)
"""Environment variables that locate other programs' credentials."""
_DATABASE_SUFFIXES = (".db", ".db-shm", ".db-wal", ".lock")
CACHES = (
    *("CUDA_CACHE_PATH", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
)
"""Environment variables that name cache directories: setting one grants write access to it."""


def file_rules(
    data_dir: Path,
    plugins: Iterable[str],
    models: Iterable[Path],
    environment: Mapping[str, str] | None = None,
    shared: Path | None = None,
) -> Confinement:
    """Return the rules for a worker of ``plugins`` that serves ``models``, files or directories.

    ``shared`` is the directory that front-ends share, if it is outside the data directory.
    """
    values = os.environ if environment is None else environment
    writable = [data_dir / name for name in plugins]
    writable += [Path(values[name]).expanduser() for name in CACHES if values.get(name)]
    own = [data_dir, *((shared,) if shared is not None else ())]
    hidden = [*_private_paths(data_dir), *_credential_paths(values)]
    if shared is not None:  # the key and the trust records of the front-ends
        hidden += [shared / FILE, shared / FRONTENDS]
    readable = {_readable_path(path.resolve(), own) for path in models}
    readable |= {cache_directory(values), *writable}
    return Confinement(
        tuple(str(path) for path in hidden),
        tuple(sorted(map(str, readable))),
        tuple(map(str, writable)),
    )


def _private_paths(data_dir: Path) -> Iterator[Path]:
    """Yield the paths hidden in ``data_dir``: keys, databases, other plugins' directories.

    Dot-directories stay visible: they are caches, if ``data_dir`` is the server's home.
    """
    yield data_dir / FILE
    for path in sorted(data_dir.iterdir()) if data_dir.is_dir() else ():
        if path.name.endswith(_DATABASE_SUFFIXES) or (path.is_dir() and path.name[0] != "."):
            yield path


def _credential_paths(values: Mapping[str, str]) -> Iterator[Path]:
    """Yield the configuration, which may hold keys, and credentials of other programs."""
    for name in (values.get(f"{PREFIX}CONFIG"), DEFAULT_FILE, ".env"):
        if name:
            yield Path(name).expanduser().absolute()
    for name in _CREDENTIAL_PATHS:
        yield Path(name).expanduser()
    for name in _CREDENTIAL_VARIABLES:
        for path in filter(None, values.get(name, "").split(os.pathsep)):
            yield Path(path).expanduser()
    for variable, folder in (("HF_HOME", "."), ("XDG_CACHE_HOME", "huggingface")):
        if values.get(variable):
            home = Path(values[variable]).expanduser() / folder
            yield from (home / name for name in _HUB_TOKENS)
    if values.get("XDG_CONFIG_HOME"):
        home = Path(values["XDG_CONFIG_HOME"]).expanduser()
        yield from (home / "gcloud", home / "git" / "credentials")


def _readable_path(path: Path, own: Sequence[Path]) -> Path:
    """Return what a model reads: its directory, or the one around a single file."""
    ours = {each for folder in own for each in (folder, *folder.parents)}
    alone = path.is_dir() or path.parent in ours
    return path if alone else path.parent
