"""A real Triton of its own: folder, ports, prefix of shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import aiohttp

PYTHON = Path(os.environ["FLEET_TRITON_PYTHON"])
_FACTS = """
import json, site, sys, sysconfig
print(json.dumps([site.getsitepackages()[0], "%d.%d" % sys.version_info[:2],
                  sysconfig.get_config_var("LIBDIR")]))
"""
BACKEND = '''
"""The backend ``onnxruntime`` by the wheel of that name."""

import json
import os

import onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        name = json.loads(args["model_config"]).get("default_model_filename") or "model.onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = os.path.join(args["model_repository"], args["model_version"], name)
        self.session = onnxruntime.InferenceSession(path, options)
        self.inputs = [each.name for each in self.session.get_inputs()]
        self.outputs = [each.name for each in self.session.get_outputs()]

    def execute(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        given = {n: pb.get_input_tensor_by_name(request, n).as_numpy() for n in self.inputs}
        made = zip(self.outputs, self.session.run(self.outputs, given))
        return pb.InferenceResponse([pb.Tensor(name, value) for name, value in made])
'''


_PORTS = iter(random.sample(range(20_000, 30_000), 10_000))


def free_port():
    """Return a port that nobody has, below those that the system gives to clients.

    Each is given once: a server binds its own long after that.
    """
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class RealTriton:
    """One Triton; ``start`` and ``kill`` may follow each other, on the same ports."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="triton-"))
        self.port, self.grpc_port, self.metrics_port = (free_port() for _ in range(3))
        self.prefix = f"{self.folder.name}-"
        self._process = None
        packages, version, self._libraries = json.loads(
            subprocess.check_output([PYTHON, "-c", _FACTS])
        )
        self._packages = Path(packages)
        server = self._packages / "pytriton" / "tritonserver"
        self._program = server / "bin" / "tritonserver"
        (self.folder / "repository").mkdir()
        python = self.folder / "backends" / "python"
        shutil.copytree(server / "backends" / "python", python)
        stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, python)
        (python / stub.name).chmod(0o755)
        (self.folder / "backends" / "onnxruntime").mkdir()
        (self.folder / "backends" / "onnxruntime" / "model.py").write_text(BACKEND)

    @property
    def url(self):
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ended(self):
        """Whether its process has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    async def start(self):
        """Start it and wait until it is live."""
        libraries = f"{self._packages / 'nvidia_pytriton.libs'}:{self._libraries}"
        kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME"}}
        path = f"{PYTHON.parent}:{os.environ['PATH']}"
        own = {"LD_LIBRARY_PATH": libraries, "PATH": path, "TMPDIR": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env={**kept, **own}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            while not await self._is_live(http):
                if self._process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text()[-3000:])
                await asyncio.sleep(0.02)

    def _command(self):
        ports = {"http": self.port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        return [
            self._program,
            f"--model-repository={self.folder / 'repository'}",
            f"--backend-directory={self.folder / 'backends'}",
            "--model-control-mode=explicit",
            "--disable-auto-complete-config",  # it would start each model's Python twice
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=2",
            "--backend-config",
            f"python,shm-region-prefix-name={self.prefix}",
            *(f"--{name}-address=127.0.0.1" for name in ports),
            *(f"--{name}-port={port}" for name, port in ports.items()),
        ]

    async def _is_live(self, http):
        with contextlib.suppress(aiohttp.ClientError):
            async with http.get(f"{self.url}/v2/health/live") as response:
                return response.status == 200
        return False

    def kill(self):
        """End it and its children as by kill -9."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for path in Path("/dev/shm").glob(f"{self.prefix}*"):
            path.unlink(missing_ok=True)

    def close(self):
        """End it and remove what it left."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
