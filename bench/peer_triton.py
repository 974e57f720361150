"""The peer Triton: its Python backend with a model that decodes, in an environment of its own.

Run with that environment's Python as ``python bench/peer_triton.py PORT INSTANCES FOLDER PREFIX``:
makes the repository and the backends in ``FOLDER`` and becomes Triton. Its shared memory has names
that begin with ``PREFIX``. The wheel of PyTriton holds the server; nothing of its Python is used.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = """
backend: "python"
max_batch_size: 0
input [{{ name: "image", data_type: TYPE_UINT8, dims: [-1] }}]
output [{{ name: "answer", data_type: TYPE_STRING, dims: [1] }}]
instance_group [{{ kind: KIND_CPU, count: {instances} }}]
"""


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Make the folders and become the server."""
    port, instances, folder, prefix = sys.argv[1:]
    packages = Path(sysconfig.get_path("purelib"))
    server = packages / "pytriton" / "tritonserver"
    backend = Path(folder, "backends", "python")
    shutil.copytree(server / "backends" / "python", backend)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    stub = backend / "triton_python_backend_stub"
    shutil.copy(server / "python_backend_stubs" / version / stub.name, stub)
    stub.chmod(0o755)
    model = Path(folder, "models", "noop")
    (model / "1").mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", model / "1" / "model.py")
    for name in ("answers.py", "stub.py"):  # the model's Python looks beside it alone
        shutil.copy(HERE / name, model / "1")
    (model / "config.pbtxt").write_text(CONFIG.format(instances=instances))
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    own = {
        "LD_LIBRARY_PATH": libraries,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": folder,
    }
    program = str(server / "bin" / "tritonserver")
    options = [
        f"--model-repository={folder}/models",
        f"--backend-directory={folder}/backends",
        "--disable-auto-complete-config",
        "--allow-gpu-metrics=false",
        "--allow-grpc=false",
        "--exit-timeout-secs=2",
        "--backend-config",
        f"python,shm-region-prefix-name={prefix}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={free_port()}",
    ]
    os.execve(program, [program, *options], {**os.environ, **own})


if __name__ == "__main__":
    main()
