"""Reading files: every way in which a file can be unusable is a clear ConfigError or ConfigNotFound, soon."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config import Composition, Loaded, find, load
from router.config.construction import core_value
from router.config.problems import Problem
from router.errors import ConfigError, ConfigNotFound


def _file(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "extensions.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def _mistakes(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, content), {})
    return str(caught.value)


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{before}'] * 9)}]\n" for before, this in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"\n\n", "the file is empty"),
        (b"# version: 1\n", "empty but for comments"),
        (b"version: 1\nbroker: {url: \xff}\n", "not UTF-8: byte 0xff at offset 25"),
        ("version: 1\n".encode("utf-16"), "UTF-16"),
        (b"version: 1\x00\n", "NUL byte"),
        (b"version: 1\nbootstrap: \x07\n", "control character U+0007"),
        (b"version: 1 #" + b"x" * 9 * 1024 * 1024, "larger than 8 MiB"),
        (b"version: [" + b"a," * 2_000_000 + b"]", "more than 600,000 lines"),
        (b"[" * 100_000, "nested far too deeply"),
        (b"{a: " * 5_000, "nested far too deeply"),
        (b"".join(b" " * depth + b"a:\n" for depth in range(3_900)), "nested far too deeply"),
        (b"version: 1\nx: " + b"[" * 100 + b"]" * 100, "more than 64 levels"),
        (BOMB, "repeat more than 250,000 values"),
        (b"version: &v [*v]", "contains itself"),
        (b"version: " + b"1" * 100_000, "the number 1"),
        (b"version: 1\nextensions: {a: {description: " + b"1" * 4_000 + b"}}", "must be text, not"),
        (b"version: 1\nqueues: {a: {concurrency: 0x" + b"f" * 5_000 + b"}}", "from 1, not infinity"),
        (b"version: 1\nunknownRouteFor: 0o" + b"7" * 100_000, "longer than 365 days"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_configuration_is_told_so(tmp_path: Path, content: str | bytes, words: str) -> None:
    assert words in _mistakes(tmp_path, content)


def test_bytes_that_are_not_utf8_are_located(tmp_path: Path) -> None:
    assert _mistakes(tmp_path, "version: 1\n# ü ".encode() + b"\xff\n").split(": error")[0].endswith(":2:5")


def test_a_byte_order_mark_is_no_mistake_and_moves_nothing(tmp_path: Path) -> None:
    assert load(_file(tmp_path, b"\xef\xbb\xbfversion: 1\n"), {}).settings
    assert ":1:10: error" in _mistakes(tmp_path, b"\xef\xbb\xbfversion: 2\n")


def test_a_byte_order_mark_is_no_mistake_in_the_schema_of_a_payload_either(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_bytes(b'\xef\xbb\xbf{"type": "object"}')
    loaded = load(_file(tmp_path, "version: 1\nextensions: {a: {schema: s.json}}\n"), {})
    assert loaded.settings.points[0].schema == {"type": "object"}


def test_windows_line_ends_are_no_mistake(tmp_path: Path) -> None:
    assert load(_file(tmp_path, "version: 1\r\nbootstrap: a:b\r\n"), {}).settings.bootstrap == "a:b"


def test_a_directory_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this is a directory"):
        load(tmp_path)


def test_a_file_without_permission_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Not by chmod: root reads everything.
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "extensions.yaml")
    monkeypatch.undo()
    assert "permission denied" in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "extensions.yaml/below", "a\0b", ""])
def test_a_missing_file_is_not_found(tmp_path: Path, name: str) -> None:
    _file(tmp_path, "version: 1\n")
    with pytest.raises(ConfigNotFound, match="there is no file"):
        load(f"{tmp_path}/{name}" if name else "")


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(_file(tmp_path, "version: 2\nbootstrap: x\nbogus: 1\nversion: 1\nasync: {tries: 0}\n"), {})
    assert [diagnostic.line for diagnostic in caught.value.diagnostics] == [1, 2, 3, 4, 5]


def test_a_mistake_behind_an_alias_is_reported_once(tmp_path: Path) -> None:
    content = "version: 1\nextensions:\n  a: {handlers: &h [{handler: x}]}\n  b: {handlers: *h}\n  c: {handlers: *h}\n"
    assert _mistakes(tmp_path, content).count("error:") == 1


def test_schemas_are_relative_to_the_file_and_absolute_paths_come_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/s.json").write_text("true")
    _file(tmp_path / "config", "version: 1\npythonpath: [../src]\nextensions: {a: {schema: s.json}}\n")
    monkeypatch.chdir(tmp_path)
    loaded = load("config/extensions.yaml", {})
    assert loaded.settings.pythonpath == (f"{tmp_path}/src",)
    assert loaded.settings.points[0].schema is True
    assert loaded.settings.path == f"{tmp_path}/config/extensions.yaml"


@pytest.mark.parametrize(
    "text", ["yes", "no", "on", "Off", "12:30", "1_000", "0b1", "0o8", "TrUe", "1.2.3", "+", ".", "-.", "e1"]
)
def test_only_the_core_types_of_yaml_1_2_are_not_text(text: str) -> None:
    assert core_value(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("NULL", None), ("true", True), ("FALSE", False),
        ("0", 0), ("017", 17), ("-5", -5), ("+5", 5), ("0o17", 15), ("0x1F", 31),
        ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-1.5E-1", -0.15), (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)  # fmt: skip
def test_core_types(text: str, value: object) -> None:
    assert core_value(text) == value
    assert type(core_value(text)) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert core_value(".nan") != core_value(".nan")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Composition:
    content = (
        "version: 1\n"
        "extensions:\n"
        "  order.placed:\n"
        "    handlers:\n"
        "      - handler: m:a\n"
        "        async: &slow\n"
        "          onFailure: m:alert\n"
        "      - handler: m:b\n"
        "        async: {<<: *slow, queue: q}\n"
        "      - {handler: m:c, async: true}\n"
    )
    return load(_file(tmp_path_factory.mktemp("document"), content), {}).composition


HANDLERS = ("extensions", "order.placed", "handlers")


@pytest.mark.parametrize(
    ("path", "on_key", "place"),
    [
        ((), False, (1, 1, "version")),
        (("version",), False, (1, 10, "1")),
        (("version",), True, (1, 1, "version")),
        (("extensions", "order.placed"), True, (3, 3, "order.placed")),
        ((*HANDLERS, 0), False, (5, 9, "handler")),
        ((*HANDLERS, 0, "handler"), False, (5, 18, "m:a")),
        ((*HANDLERS, 0, "async", "onFailure"), False, (7, 22, "m:alert")),
        ((*HANDLERS, 1, "async", "onFailure"), False, (7, 22, "m:alert")),
        ((*HANDLERS, 1, "async", "queue"), False, (9, 35, "q")),
        ((*HANDLERS, 2, "async", "onFailure"), False, (10, 31, "true")),
        ((*HANDLERS, 2, "async", "onFailure"), True, (10, 24, "async")),
        ((*HANDLERS, 9, "handler"), True, (4, 5, "handlers")),
        (("extensions", "nowhere", "handlers", 3), True, (2, 1, "extensions")),
        (("version", "deeper"), False, (1, 10, "1")),
        (("locks", "url"), False, (1, 1, "version")),
    ],
)
def test_every_path_has_a_place(
    document: Composition, path: tuple[str | int, ...], on_key: bool, place: object
) -> None:
    found = document.report(Problem("wrong", "mend it", path, on_key=on_key))
    piece = found.excerpt[found.caret - 1 :][: found.length]
    assert (found.line, found.column, piece) == place


def test_the_data_is_plain_and_merged(document: Composition) -> None:
    assert document.data["extensions"]["order.placed"]["handlers"][1]["async"] == {"queue": "q", "onFailure": "m:alert"}


class TestFind:
    @pytest.fixture(autouse=True)
    def _in_an_empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("ROUTER_CONFIG", raising=False)

    def _make(self, *names: str) -> None:
        for name in names:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()

    def test_the_given_path_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make("given.yaml", "named.yaml", "extensions.yaml")
        monkeypatch.setenv("ROUTER_CONFIG", "named.yaml")
        assert find("given.yaml") == Path("given.yaml")

    def test_the_variable_comes_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make("named.yaml", "extensions.yaml")
        monkeypatch.setenv("ROUTER_CONFIG", "named.yaml")
        assert find() == Path("named.yaml")

    def test_then_the_current_folder_then_config(self) -> None:
        self._make("config/extensions.yaml")
        assert find() == Path("config/extensions.yaml")
        self._make("extensions.yaml")
        assert find() == Path("extensions.yaml")

    def test_it_says_where_it_looked(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigNotFound, match=r"extensions\.yaml and config/extensions\.yaml in .*\n.*router init"):
            find()

    def test_a_missing_file_is_not_replaced_by_a_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make("extensions.yaml")
        with pytest.raises(ConfigNotFound, match=r"given\.yaml"):
            find("given.yaml")
        monkeypatch.setenv("ROUTER_CONFIG", "named.yaml")
        with pytest.raises(ConfigNotFound, match=r"named\.yaml.*\$ROUTER_CONFIG"):
            find()

    def test_the_environment_asked_for_wins_over_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make("extensions.yaml", "extensions.test.yaml")
        monkeypatch.setenv("ROUTER_ENV", "production")
        assert find(env="test") == Path("extensions.yaml")
        with pytest.raises(ConfigNotFound, match="production"):
            find()
        with pytest.raises(ConfigNotFound, match="staging"):
            find(env="staging")


def _load_anything(folder: Path, content: bytes) -> None:
    with contextlib.suppress(ConfigError, ConfigNotFound):
        assert isinstance(load(_file(folder, content), {"A": "1"}), Loaded)


# Pieces of files, so that most of what hypothesis makes up gets past the YAML parser.
_SYNTAX = (
    "version 1 : - [ ] { } , \" ' # | > & * ! % @ ` ? << ~ true 10s m:f .inf ${A} ${B} ${B:-x} $${ &a *a !!int --- ... "
    "amqp://u:p@h sqlite:///x é \t"
)
_KEYS = (
    "broker url namespace locks async queues extensions handlers handler id priority event schema onError retries "
    "backoff backoffSeconds uniqueJob uniqueBy delay timeout"
)
_words = st.sampled_from([*_SYNTAX.split(" "), *_KEYS.split()])
_yaml = st.lists(_words | st.sampled_from(["\n", "\n  ", "\n    ", ": "]), max_size=40).map("".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary() | st.text().map(str.encode) | _yaml.map(str.encode))
def test_no_file_causes_any_other_exception(tmp_path: Path, content: bytes) -> None:
    _load_anything(tmp_path, content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | _words,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(_words, children, max_size=4),
    max_leaves=20,
)
_OPTIONS = ("queue", "retries", "backoff", "backoffSeconds", "delay", "uniqueJob", "uniqueBy")
_DEFAULTS = ("tries", "backoff", "timeout", "uniqueJob", "uniqueBy")
_almost = st.fixed_dictionaries(
    {"version": st.just(1)},
    optional={
        "broker": st.dictionaries(st.sampled_from(["url", "namespace"]), _json) | _json,
        "async": st.dictionaries(st.sampled_from(_DEFAULTS), _json) | _json,
        "queues": st.dictionaries(_words, st.dictionaries(st.just("concurrency"), _json)) | _json,
        "extensions": st.dictionaries(
            _words,
            st.fixed_dictionaries(
                {},
                optional={
                    "event": _json,
                    "handlers": st.lists(
                        st.fixed_dictionaries(
                            {"handler": _json},
                            optional={
                                "async": st.dictionaries(
                                    st.sampled_from(
                                        [
                                            "queue",
                                            "retries",
                                            "backoff",
                                            "backoffSeconds",
                                            "delay",
                                            "uniqueJob",
                                            "uniqueBy",
                                        ]
                                    ),
                                    _json,
                                )
                                | _json,
                                "id": _json,
                                "priority": _json,
                                "onError": _json,
                            },
                        )
                        | _json,
                        max_size=3,
                    ),
                },
            )
            | _json,
            max_size=2,
        )
        | _json,
    },
)


def _flow(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    text = {None: "~", True: "true", False: "false"}.get(value) if value in (None, True, False) else str(value)  # type: ignore[call-overload]
    return str(text).replace("inf", ".inf").replace("nan", ".nan")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_almost)
def test_no_data_causes_any_other_exception(tmp_path: Path, data: dict[str, object]) -> None:
    _load_anything(tmp_path, _flow(data).encode("utf-8", "replace"))
