"""A wheel, installed in an empty environment, works away from the checkout."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from tests.app import ROOT

HANDLERS = (
    "def greet(event):\n    return 'hello ' + event['name']\n\ndef later(event):\n    print('later', event['name'])\n"
)
FILE = """version: 1
extensions:
  greeted:
    handlers:
      - {handler: "hello:greet"}
      - {handler: "hello:later", async: true}
"""


def run(*command: str | Path, folder: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_wheel_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT, folder=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    run(scripts / "python", "-m", "pip", "install", "-q", wheel, folder=tmp_path)
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "hello.py").write_text(HANDLERS)
    (shop / "extensions.yaml").write_text(FILE)
    assert "fine" in run(scripts / "router", "validate", folder=shop)
    assert "hello you" in run(scripts / "router", "dispatch", "greeted", "-p", '{"name": "you"}', folder=shop)
    assert "later you" in run(scripts / "router", "run-worker", "--stop-when-empty", folder=shop)
    assert (shop / "router.db").exists()
