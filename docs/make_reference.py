"""Makes reference.md out of the JSON Schema of extensions.yaml; run by ``make reference``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from router.config import schema_text
from router.config.lint import CODES
from router.config.schema import joined

SCHEMA: dict[str, Any] = msgspec.json.decode(schema_text())
INTRODUCTION = """\
# Reference of extensions.yaml

Made from [its JSON Schema](../schemas/extensions.schema.json) by `make reference`: change that, not this page.

{description}

- Durations are numbers of seconds, or have a unit: `500ms`, `10s`, `5m`, `2h`, `1d`. The longest is 365 days.
- Relative paths are relative to the file in which they stand.
- `${{…}}` works in values, not in keys. Where it is a whole value without quotes, `${{RETRIES}}`, what comes of it may
  be a number or a boolean; in quotes it stays text. `$${{` is a plain `${{`.
- YAML 1.2: `yes`, `on` and `12:30` are text, `017` is seventeen, and a key that is there twice is a mistake.
- Editors that know yaml-language-server (VS Code with Red Hat's YAML extension, Neovim, Helix …) complete and explain
  all of this, where the file begins with `# yaml-language-server: $schema=extensions.schema.json`.
  `router schema > extensions.schema.json` writes that file.

Each example is a whole file, with every key of its section that has no section of its own.
"""
WARNINGS = """\
## Warnings

What is legal but probably wrong. A comment `# router: ignore[CODE]` silences it: on the line that the warning names,
or alone on the line above. `router validate --strict` makes all of them mistakes.

| code | what it is about |
| --- | --- |
"""


@dataclass(frozen=True, eq=False)
class Section:
    """A mapping of the file whose keys are fixed.

    ``steps`` lead to it from ``parent``: keys, and ``-`` for an item of a list.
    """

    title: str
    schema: dict[str, Any]
    parent: Section | None = None
    steps: tuple[str, ...] = ()

    @cached_property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What the schema says about each key."""
        return {name: _joined(value) for name, value in self.schema["properties"].items()}

    @cached_property
    def sections(self) -> dict[str, Section]:
        """The keys under which there is another section."""
        found = {name: self._section(setting, (name,)) for name, setting in self.settings.items()}
        return {name: section for name, section in found.items() if section}

    def _section(self, schema: dict[str, Any], steps: tuple[str, ...]) -> Section | None:
        schema = _joined(schema)
        if "properties" in schema:
            return Section(schema["title"], schema, self, steps)
        if "items" in schema:
            return self._section(schema["items"], (*steps, "-"))
        if "additionalProperties" in schema:
            (name,) = schema["examples"][0]
            return self._section(schema["additionalProperties"], (*steps, name))
        return None

    def all(self) -> Iterator[Section]:
        """This section and all below it, in the order of the file."""
        yield self
        for section in self.sections.values():
            yield from section.all()

    def example(self, keys: list[str]) -> list[str]:
        """The lines of a file that has these keys of the section."""
        return self._whole_file([f"{key}: {_examples(self.settings[key])}" for key in keys])

    def _whole_file(self, lines: list[str]) -> list[str]:
        for step in reversed(self.steps):
            if step == "-":
                lines = [f"{'  ' if number else '- '}{line}" for number, line in enumerate(lines)]
            else:
                lines = [f"{step}:", *(f"  {line}" for line in lines)]
        if self.parent is None:
            return lines
        required = [f"{key}: {_yaml(self.parent.settings[key]['examples'][0])}" for key in self.parent.required]
        return self.parent._whole_file(required + lines)

    @property
    def required(self) -> list[str]:
        """The keys that must be there."""
        return list(self.schema.get("required", ()))


def page() -> str:
    """The whole page."""
    sections = list(Section("Top level", SCHEMA).all())
    # An option that several sections share is explained in the last of them.
    home = {value["$ref"]: section for section in sections for value in _references(section).values()}
    parts = [INTRODUCTION.format(description=SCHEMA["description"])]
    for section in sections:
        elsewhere = {
            name: home[value["$ref"]]
            for name, value in _references(section).items()
            if home[value["$ref"]] is not section
        }
        parts.append(_part(section, elsewhere))
    parts.append(WARNINGS + "".join(f"| `{code}` | {about} |\n" for code, about in CODES.items()))
    return "\n".join(parts)


def _references(section: Section) -> dict[str, dict[str, Any]]:
    return {name: value for name, value in section.schema["properties"].items() if "$ref" in value}


def _part(section: Section, elsewhere: dict[str, Section]) -> str:
    keys = [name for name in section.settings if name not in elsewhere]
    lines = [f"## {section.title}", ""]
    if section.parent is not None:
        lines += [section.schema["description"], ""]
    lines += ["```yaml", *section.example([key for key in keys if key not in section.sections]), "```", ""]
    lines += ["| key | what it must be | default | what it means |", "| --- | --- | --- | --- |"]
    lines += [_row(section, key) for key in keys]
    for target in dict.fromkeys(elsewhere.values()):
        names = ", ".join(f"`{name}`" for name, home in elsewhere.items() if home is target)
        lines += ["", f"And {names}, as in {_link(target.title, target)}."]
    return "\n".join(lines) + "\n"


def _row(section: Section, key: str) -> str:
    setting = section.settings[key]
    name = _link(f"`{key}`", section.sections[key]) if key in section.sections else f"`{key}`"
    default = f"`{_yaml(setting['default'])}`" if "default" in setting else ""
    cells = (name, setting["x-wanted"], "required" if key in section.required else default, setting["description"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _link(text: str, section: Section) -> str:
    return f"[{text}](#{section.title.lower().replace(' ', '-')})"


def _joined(schema: dict[str, Any]) -> dict[str, Any]:
    return joined(schema, SCHEMA["definitions"])


def _examples(setting: dict[str, Any]) -> str:
    first, *others = map(_yaml, setting["examples"])
    return first + (f"  # or {', or '.join(others)}" if others else "")


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    Path(__file__).with_name("reference.md").write_text(page(), encoding="utf-8")
