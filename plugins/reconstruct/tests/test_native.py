"""COLMAP's library stays where it can do no harm."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from pathlib import Path

import mataserver_reconstruct

PACKAGE = Path(mataserver_reconstruct.__file__).parent

ORDER = """
from mataserver_reconstruct import native
import io, zipfile, zlib
import cv2, numpy as np
from PIL import Image
pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
assert zlib.decompress(zlib.compress(pixels.tobytes(), 9)) == pixels.tobytes()
with zipfile.ZipFile(io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
    file.writestr("a", pixels.tobytes())
Image.fromarray(pixels).save(io.BytesIO(), "PNG")
assert cv2.imencode(".png", pixels)[0]
print(native.pycolmap.__version__)
"""

UNSET = """
from mataserver_reconstruct.native import pycolmap
from mataserver_reconstruct import cloud, model
options, noise = pycolmap.SyntheticDatasetOptions(), pycolmap.SyntheticNoiseOptions()
options.num_points3D, options.num_frames_per_rig, noise.point2D_stddev = 200, 9, 1.5
pycolmap.set_random_seed(0)
found = pycolmap.synthesize_dataset(options)
pycolmap.synthesize_noise(noise, found)
whole = model.model_from(found, 0, 0)
for point in found.points3D.values():
    point.error = -1.0
unset = model.model_from(found, 0, 0)
assert (whole.errors == unset.errors).all()
print((whole.errors >= 2).any(), (cloud.reliable_points(unset) & (whole.errors >= 2)).any())
"""

SIGNAL = """
import os, signal
{before}
from mataserver_reconstruct import native
os.kill(os.getpid(), signal.SIGTERM)
print("it goes on")
"""

LIGHT = """
import sys
import mataserver_reconstruct
from mataserver_reconstruct import archive, command, drift, intake, matchers, spec, stages, weights
matchers.check("sift", weights.Matchers())
print(sorted({"pycolmap", "sqlite3", "torch"} & set(sys.modules)))
"""

SERVER = """
import sys
from mataserver_reconstruct import api
print(sorted({"pycolmap", "cv2", "scipy", "networkx", "PIL", "torch"} & set(sys.modules)))
"""

PIPELINE = """
import sys
from mataserver_reconstruct import dense, imported, kind, pipeline, sparse
print(sorted({"sqlite3", "torch"} & set(sys.modules)))
"""


def ran(code):
    """Return what a fresh Python prints; it must end well."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_compression_works_beside_colmap():
    """In the process that has COLMAP's library, zlib, ZIP and PNG work: it is imported last."""
    assert ran(ORDER).startswith("4.")


def test_errors_that_colmap_has_not_set():
    """A snapshot's points have none: those that are off are left out as of a whole model."""
    assert ran(UNSET) == "True False"


def test_a_job_keeps_its_handler_of_sigterm():
    """COLMAP's library takes SIGTERM when it is imported; what the job set before stays set."""
    own = 'signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))'
    assert ran(SIGNAL.format(before=own)).splitlines() == ["asked to stop", "it goes on"]
    command = [sys.executable, "-c", SIGNAL.format(before="")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, "")


def test_a_server_never_imports_colmap():
    """What a server needs of this plugin imports neither COLMAP's library nor sqlite3."""
    assert ran(LIGHT) == "[]"


def test_the_pipeline_has_one_sqlite():
    """The pipeline imports no second SQLite beside COLMAP's."""
    assert ran(PIPELINE) == "[]"


def test_one_module_imports_colmap():
    """Everybody takes COLMAP's library from the module that imports it in the right order."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            if "pycolmap" in names or getattr(node, "module", None) == "pycolmap":
                found.add(path.name)
    assert found == {"native.py"}


def test_the_server_imports_none_of_what_reconstructs():
    """The service brings neither COLMAP nor OpenCV, SciPy, networkx or Pillow into the server."""
    assert ran(SERVER) == "[]"
