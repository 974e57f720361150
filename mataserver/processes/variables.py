"""The allow-list of environment variables for child processes.

The server's environment holds keys and tokens, its own and its operator's. Children run untrusted
models, pip or video decoders, and get what such programs need: paths, locale, network, and options
of numeric libraries.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SYSTEM = (
    "HOME",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOGNAME",
    "PATH",
    "SHELL",
    "TEMP",
    "TERM",
    "TMP",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "USER",
    "VIRTUAL_ENV",
    "XDG_*",
)
PYTHON = ("PEX_*", "PYTHON*")
NETWORK = (
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
LIBRARIES = (
    "BLIS_*",
    "CUBLAS_*",
    "CUDA_*",
    "CUDNN_*",
    "EASYOCR_*",
    "FLAGS_*",
    "GLIBC_TUNABLES",
    "GOMP_*",
    "GOTO_*",
    "GPU_*",
    "HF_*",
    "HIP_*",
    "HSA_*",
    "HUGGINGFACE_HUB_CACHE",
    "KMP_*",
    "MALLOC_*",
    "MIOPEN_*",
    "MKL_*",
    "NCCL_*",
    "NUMBA_*",
    "NUMEXPR_*",
    "NVIDIA_*",
    "OMP_*",
    "OPENBLAS_*",
    "OPENCV_*",
    "OPENVINO_*",
    "ORT_*",
    "OV_*",
    "PADDLE*",
    "PYTORCH_*",
    "ROCR_*",
    "ROCM_*",
    "SYCL_*",
    "TESSDATA_PREFIX",
    "TOKENIZERS_*",
    "TORCH*",
    "TRANSFORMERS_*",
    "TRITON_*",
    "ZE_*",
)
EVERY_CHILD = (*SYSTEM, *PYTHON, *NETWORK, *LIBRARIES)
"""Names, and prefixes with a star, that every child gets."""
HUB = ("HF_*", "HUGGING_FACE_HUB_TOKEN")
"""Additional names for a model's download, including the hub's token."""
PIP = (
    "CC",
    "CFLAGS",
    "CPPFLAGS",
    "CXX",
    "CXXFLAGS",
    "LDFLAGS",
    "NETRC",
    "PIP_*",
    "PKG_CONFIG_PATH",
)
"""Additional names for pip: its own settings, and those of source builds."""
_SECRET = re.compile(
    r"(^|_)(API_?KEYS?|AUTH|CREDENTIALS?|KEY|PASS(WD|WORD|PHRASE)?|SECRETS?|TOKENS?)(_|$)",
    re.IGNORECASE,
)


def for_child(
    also: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return a child's part of ``environment`` (default: the server's).

    These are the names in ``EVERY_CHILD`` that do not look like a secret, and all in ``also``.
    """
    given = os.environ if environment is None else environment
    wanted = tuple(also)
    return {
        name: value
        for name, value in given.items()
        if _matches(name, wanted) or (_matches(name, EVERY_CHILD) and not _SECRET.search(name))
    }


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(_matches_one(name, each) for each in patterns)


def _matches_one(name: str, pattern: str) -> bool:
    begin, star, rest = pattern.partition("*")
    if rest or "?" in begin or "[" in begin:
        return fnmatchcase(name, pattern)
    # Not by fnmatch, which compiles each pattern: 2 ms of the event loop at the first child.
    return name.startswith(begin) if star else name == begin
