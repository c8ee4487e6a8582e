"""Every file in tests/cases: the wrong ones beside what a user reads about them, the right ones beside what they mean.

After a change of wording, ``ROUTER_WRITE_CASES=1 pytest tests/unit/test_cases.py`` writes the expected outputs anew;
read each as somebody would at three in the morning before committing it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from router.config import load
from router.errors import ConfigError

CASES = Path(__file__).parents[1] / "cases"
INVALID = sorted((CASES / "invalid").glob("*.yaml"))
REWRITE = "ROUTER_WRITE_CASES"
MASKED = ("pa/ss", "secret@", "ss@word")


@pytest.mark.parametrize("file", INVALID, ids=lambda file: file.stem)
def test_a_wrong_file_is_explained_as_expected(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(ConfigError) as caught:
        load(file.name, environ={})
    shown = str(caught.value).replace(str(file.parent), "DIR") + "\n"
    expected = file.with_suffix(".txt")
    if os.environ.get(REWRITE):
        expected.write_text(shown, encoding="utf-8")
    assert expected.exists(), f"{expected} is missing; write it with {REWRITE}=1 and read it"
    assert shown == expected.read_text(encoding="utf-8"), f"if the new wording is better, run again with {REWRITE}=1"
    assert not any(secret in shown for secret in MASKED)


def test_there_are_many_wrong_files() -> None:
    assert len(INVALID) >= 45


def test_every_expected_output_belongs_to_a_file() -> None:
    outputs = {path.stem for path in (CASES / "invalid").glob("*.txt")}
    assert outputs == {path.stem for path in INVALID}
