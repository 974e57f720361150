"""An export reads no file outside of its checkpoint's directory, and asks the hub for nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long


@pytest.fixture
def export(hub, checkpoint, tmp_path):
    """``export(file, **settings)`` runs the command on a checkpoint with other settings."""

    def run(file, **settings):
        path = tmp_path / "model"
        shutil.copytree(checkpoint("rt_detr"), path)
        known = json.loads((path / file).read_text()) if (path / file).exists() else {}
        (path / file).write_text(json.dumps(known | settings))
        command = ("export", str(path), "--output", str(tmp_path / "made"))
        return subprocess.run(
            [sys.executable, "-m", "mataserver", *command],
            env={**os.environ, "MATA_SERVER_DATA_DIR": str(tmp_path / "data")},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("file", "settings", "told"),
    [
        (
            "config.json",
            {"backbone": "org/other", "backbone_config": None},
            "backbone in config.json of model names another checkpoint",
        ),
        ("config.json", {"backbone": "other", "backbone_config": None}, "cannot be read"),
        (
            "config.json",
            {"_attn_implementation": "org/kernel"},
            "_attn_implementation in config.json of model names code of another repository",
        ),
        (
            "adapter_config.json",
            {"base_model_name_or_path": "org/other", "peft_type": "LORA"},
            "model is an adapter for another checkpoint",
        ),
    ],
)
def test_what_lies_elsewhere_is_not_fetched(export, hub, file, settings, told, tmp_path):
    """The command ends with one sentence; a backbone by a name alone is not asked for either."""
    hub.add("org/other", {"config.json": b'{"model_type": "resnet"}'})
    hub.add("other", {"config.json": b'{"model_type": "resnet"}'})
    done = export(file, **settings)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.requests == []
    assert not (tmp_path / "made").exists()
