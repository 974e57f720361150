"""What a command takes from ``.env`` beside the settings."""

from __future__ import annotations

import os

from mataserver.cli.environment import take_hub_variables


def test_hub_variables_of_dotenv_reach_the_environment(tmp_path, monkeypatch):
    """HF_* variables are taken, what is set already stays, anything else is left alone."""
    (tmp_path / ".env").write_text("HF_TOKEN=secret\nHF_ENDPOINT=http://a\nPATHLIKE=x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://b")
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.delenv("HF_TOKEN")
    take_hub_variables()
    assert (os.environ["HF_TOKEN"], os.environ["HF_ENDPOINT"]) == ("secret", "http://b")
    assert "PATHLIKE" not in os.environ
