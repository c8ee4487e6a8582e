"""URLs: passwords are never shown, relative files belong to the folder of the configuration."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import mask_url
from router.config.urls import absolute_url, broker_problem, locks_problem


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("amqp://shop:secret@rabbit:5672/vhost", "amqp://shop:***@rabbit:5672/vhost"),
        ("redis://:secret@cache:6379/0", "redis://:***@cache:6379/0"),
        ("amqp://u:se/c@r#et@h/", "amqp://u:***@h/"),
        ("amqp://bob@example.com:secret@h/", "amqp://bob@example.com:***@h/"),
        ("amqp://u:one@a,amqps://u:two@b", "amqp://u:***@a,amqps://u:***@b"),
        ("${URL:-amqp://u:secret@h}", "${URL:-amqp://u:***@h}"),
        ("redis://h/0?password=secret&db=1", "redis://h/0?password=***&db=1"),
        ("foo://u:secret@h", "foo://u:***@h"),
        ("amqp://h:5672,amqp://u:secret@h", "amqp://h:5672,amqp://u:***@h"),
        ("amqp://rabbit:5672/vhost", "amqp://rabbit:5672/vhost"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
        ("memory://", "memory://"),
        ("plain text: a@b", "plain text: a@b"),
        ("  password: hunter2", "  password: ***"),
        (r'"amqp:\/\/user:hunter2@host\/"', r'"amqp:\/\/user:***@host\/"'),
        ("broker: {user: a, password: 'a, b', host: c}", "broker: {user: a, password: ***, host: c}"),
        ('{"secret": "hunter2"}', '{"secret": ***}'),
        ("  - token: two words", "  - token: ***"),
        ("password: ${PASSWORD}", "password: ${PASSWORD}"),
        ("unexpected token: x", "unexpected token: x"),
        ("password:\n  url: x", "password:\n  url: x"),
    ],
)
def test_passwords_are_masked_and_nothing_else(url: str, masked: str) -> None:
    assert mask_url(url) == masked


_passwords = st.text(min_size=4).map(lambda text: f"s3cr3t{text}s3cr3t")


@given(
    st.sampled_from(["amqp", "amqps", "redis", "http", "other"]), st.from_regex(r"\w{0,8}", fullmatch=True), _passwords
)
def test_no_url_shows_its_password(scheme: str, user: str, password: str) -> None:
    assert "s3cr3t" not in mask_url(f"{scheme}://{user}:{quote(password, safe='')}@host:5672/vhost")
    if "://" not in password:
        assert "s3cr3t" not in mask_url(f"{scheme}://{user}:{password}@host:5672/vhost")
        assert "s3cr3t" not in mask_url(
            f"amqp://u:s3cr3t@one,{scheme if scheme != 'other' else 'amqp'}://{user}:{password}@h"
        )


@given(st.text())
def test_any_text_can_be_masked(text: str) -> None:
    mask_url(text)


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///router.db", "sqlite:////srv/shop/config/router.db"),
        ("sqlite:///../var/router.db", "sqlite:////srv/shop/var/router.db"),
        ("sqlite:////data/router.db", "sqlite:////data/router.db"),
        ("amqp://localhost/", "amqp://localhost/"),
        ("memory://", "memory://"),
    ],
)
def test_a_sqlite_file_is_relative_to_the_folder_of_the_configuration(url: str, absolute: str) -> None:
    assert absolute_url(url, Path("/srv/shop/config")) == absolute


@pytest.mark.parametrize(
    "url",
    ["amqp://h", "amqps://u:p@h:5671/v", "amqp://[::1]:5672/", "memory://", "sqlite:///a.db", "sqlite:////a/b.db"],
)
def test_brokers_that_exist_are_accepted(url: str) -> None:
    assert broker_problem(url) is None


@pytest.mark.parametrize(
    "url",
    ["", "localhost", "amqp:h", "amqp://", "amqp://:5672", "amqp://h:x", "amqp://h:99999", "amqp://u:p/q@h", "sqlite://a.db",
     "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db?mode=ro", "sqlite:///dir/", "memory://x", "kafka://h", "amqp://[::1",
     "amqp://a,amqp://b", "amqp://a;amqp://b", "amqp://a,b/", "amqp://a b", "amqp:/a", "memory", "router.db",
     "amqp://h/?heartbeat=abc", "amqp://h/?heartbeat=", "amqp://h/?heartbeat=1.5", "amqp://h/?heartbeat=0",
     "amqp://h/?connection_timeout=nan", "amqp://h/?connection_timeout=600001", "amqp://h/?hartbeat=10",
     "amqps://h/?cacertfile=", "amqp://h/?x"],
)  # fmt: skip
def test_brokers_that_cannot_work_are_refused(url: str) -> None:
    assert broker_problem(url)


@pytest.mark.parametrize("url", ["amqp://u:12?s3cret@h/", "amqp://u:12?s3cret=x@h/", "amqp://u:12?heartbeat=s3cret@h/"])
def test_a_password_with_a_question_mark_is_not_shown_as_an_option(url: str) -> None:
    problem = broker_problem(url)
    assert problem is not None
    assert "s3cret" not in f"{problem.message} {problem.hint}"


def test_a_misspelt_option_of_rabbitmq_is_told() -> None:
    problem = broker_problem("amqp://h/?hartbeat=10")
    assert problem is not None
    assert (problem.message, problem.hint) == (
        "the URL of RabbitMQ has no option `hartbeat`",
        "did you mean `heartbeat`?",
    )


def test_rabbitmq_cannot_keep_locks() -> None:
    assert locks_problem("amqp://h")
    assert locks_problem("redis://h:6379/0") is None
