"""The files that a page of docs/ shows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.app import ROOT

_FILE = re.compile(r"^```(?:python|yaml|json) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_files(page: str, folder: Path) -> None:
    """Write each file that ``page`` shows with its name into ``folder``."""
    files = _FILE.findall((ROOT / "docs" / page).read_text())
    assert files, f"docs/{page} shows no file"
    for name, text in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
