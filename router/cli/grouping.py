"""Groups of commands. The module of a command is imported when it is called: ``--help`` needs none of them.

Help is plain text: the framed kind takes as long to import as all else together.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

SETTINGS: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}
"""Of every `typer.Typer` here."""


class Group(TyperGroup):
    """Its help says of each command all that the first paragraph of the command's own help says."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the section."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, " ".join((one.help or "").split("\n\n")[0].split())) for name, one in self.commands.items()]
            )


def lazy_app(commands: Mapping[str, tuple[str, str]], **settings: Any) -> typer.Typer:
    """An app of ``commands``: by name, where it is (``module:attribute``, a function or an app) and what it does, which
    is the first paragraph of its own help. ``settings``: of the app, beside `SETTINGS`."""

    class LazyGroup(Group):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and args[0] in commands:
                self.commands[args[0]] = _loaded(commands[args[0]][0])
            return super().resolve_command(ctx, args)

    app = typer.Typer(cls=LazyGroup, **SETTINGS, **settings)
    for name, (_, help) in commands.items():
        app.command(name, help=help)(_named_only)
    return app


def _named_only() -> None:
    """Stands for a command in the list of ``--help``."""


def _loaded(where: str) -> Any:
    module, attribute = where.split(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return get_group(found)
    app = typer.Typer(**SETTINGS)
    app.command(no_args_is_help=False)(found)
    return get_command(app)
