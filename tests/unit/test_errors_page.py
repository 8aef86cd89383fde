"""docs/errors.md has the table of errors as the code has it, and its numbers are those of the code."""

from __future__ import annotations

import re

import pytest

from shards import breaker, health
from shards.answers import ERROR_CLASSES, TABLES, Answers
from shards.gates import SLOW_S
from shards.retry import RETRY_AFTER_MAX_S, WEBHOOK_RETRY
from shards.settings import ChannelSettings
from tests.support.service import ROOT

TEXT = (ROOT / "docs" / "errors.md").read_text()
EXAMPLES = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


def test_the_table_is_that_of_the_code() -> None:
    sections = dict(re.findall(r"(?ms)^### (\w+)\n(.*?)(?=^### |\Z)", TEXT))
    written = {name: dict(re.findall(r"(?m)^\| `(.+?)` \| (\w+) \|", section)) for name, section in sections.items()}
    assert list(written) == list(TABLES), "docs/errors.md: it has other services than shards/answers.py"
    for name, table in TABLES.items():
        assert written[name] == table, f"docs/errors.md, {name}: it differs from shards/answers.py"


def test_each_class_is_explained() -> None:
    explained = re.findall(r"(?m)^\| `(\w+)` \| [^|]+ \| [^|]+ \| [^|]+ \|$", TEXT)
    assert tuple(explained) == ERROR_CLASSES


@pytest.mark.parametrize(
    "said",
    [
        f"opens at {breaker.FAILURES_MIN:.0%}".replace("%", " %"),
        f"at least {breaker.ATTEMPTS_MIN} attempts",
        f"within {breaker.WINDOW_S / 60:.0f} minutes",
        f"After {breaker.OPEN_S:.0f} s it is half-open",
        f"at most {breaker.PATIENCE_MAX_S:.0f} s, and for {breaker.PATIENCE_S:.0f} s where",
        f"more than {health.DISABLED_AFTER_MS // 3_600_000} hours later",
        f"took longer than {SLOW_S:g} s the last time",
        f"`per_endpoint` attempts are under way at once, {ChannelSettings(()).per_endpoint} in each shard",
        f"at least {WEBHOOK_RETRY.throttled_min:.0f} s after",
    ],
)
def test_a_number_is_that_of_the_code(said: str) -> None:
    assert said in " ".join(TEXT.split())


def test_the_longest_that_a_service_may_ask_for_is_a_day() -> None:
    assert RETRY_AFTER_MAX_S == 86_400.0


def test_what_is_said_of_the_look_up_is_so() -> None:
    answers = Answers({"http": {"404": "transient"}, "fcm": {"404": "throttled"}})
    assert answers.error_class("fcm", 404, "UNREGISTERED") == "throttled"  # one's own table goes first
    assert answers.error_class("webpush", 404) == "bad_address"  # that of the service goes before that of http
    assert answers.error_class("sms", 404) == "transient"
    assert answers.error_class("smtp", 550, "5.1.6") == "bad_address"
    assert answers.error_class("smtp", 999) == "permanent"
