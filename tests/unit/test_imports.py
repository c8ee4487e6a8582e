"""What starts often imports only what it needs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

import router
from router import config
from router.cli import failed
from router.cli import main as cli

SLOW = {"amqp", "asyncio", "attr", "jsonschema", "kombu", "msgspec", "pydantic", "rich", "typer", "watchfiles", "yaml"}


def imported_by(program: str, *arguments: str) -> set[str]:
    """Which of the slow packages are there at its end."""
    program += "\nimport sys; print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", program, *arguments]
    return SLOW & set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())


def declared_names(package: Path) -> dict[str, str]:
    """The names that type checkers see, and the modules from which."""
    tree = ast.parse((package / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = (node for node in [*block.body, *tree.body] if isinstance(node, ast.ImportFrom))
    return {
        name.name: node.module for node in imports for name in node.names if (node.module or "").startswith("router.")
    }


@pytest.mark.parametrize("package", [router, config], ids=["router", "router.config"])
def test_the_names_are_what_type_checkers_think(package: object) -> None:
    names = declared_names(Path(inspect.getfile(package)).parent)
    assert sorted(names) == sorted(package.__all__)
    for name, module in names.items():
        assert getattr(package, name) is getattr(import_module(module), name)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_router_is_imported_at_once() -> None:
    assert imported_by("import router") == set()
    assert imported_by("import router; router.Retry") == set()


def test_the_plugin_of_pytest_does_not_slow_down_the_tests_of_others() -> None:
    assert imported_by("import router.pytest_plugin") == set()


def test_an_application_needs_no_command_line_and_no_rabbitmq() -> None:
    assert imported_by("import router; router.Router") == {"msgspec"}


def test_children_need_neither_the_file_nor_the_command_line() -> None:
    assert imported_by("import router.worker.child") == {"msgspec"}


def test_help_needs_no_command() -> None:
    program = """
        from router.cli.main import app
        try: app(["--help"])
        except SystemExit: pass
    """
    assert imported_by(inspect.cleandoc(program)) == {"typer"}


@pytest.mark.parametrize(("app", "commands"), [(cli.app, cli.COMMANDS), (failed.app, failed.COMMANDS)])
def test_help_says_of_a_command_what_the_command_says(app: typer.Typer, commands: dict[str, tuple[str, str]]) -> None:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    assert list(group.commands) == list(commands)
    for name, (_, said) in commands.items():
        assert group.commands[name].help == said
        _, command, rest = group.resolve_command(typer.Context(group), [name, "x"])
        assert rest == ["x"]
        assert command is not None
        assert " ".join((command.help or "").split("\n\n")[0].split()) == said
