"""Files of users: what a line becomes, and what is wrong with it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from dispatcher.users_file import HeaderError, Problem, Row, read

ADA = {"contacts": {"email": "ada@example.org"}}


def found(text: str | bytes, kind: str) -> list[Row | Problem]:
    return list(read(io.BytesIO(text.encode() if isinstance(text, str) else text), kind))


def document(header: str, cells: str) -> Any:
    (row,) = found(f"user_id,{header}\nada,{cells}\n", "csv")
    return row.user if isinstance(row, Row) else row


# --- JSON Lines -----------------------------------------------------------------------------------------------------


def test_a_document_stands_under_user_or_beside_the_user_id() -> None:
    lines = [{"user_id": "a", "user": ADA}, {"user_id": "b", **ADA}, {"user_id": "c"}]
    assert found("\n".join(map(json.dumps, lines)), "jsonl") == [Row(1, "a", ADA), Row(2, "b", ADA), Row(3, "c", {})]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_mark_empty_lines_and_other_ends_of_lines_are_no_matter(end: str) -> None:
    lines = ["", '{"user_id": "a"}', "  ", '{"user_id": "b"}', ""]
    assert found("\ufeff" + end.join(lines), "jsonl") == [Row(2, "a", {}), Row(4, "b", {})]
    rows = ["", "user_id,locale", "", "a,fr", ",", "b,de", ""]
    assert found("\ufeff" + end.join(rows), "csv") == [Row(4, "a", {"locale": "fr"}), Row(6, "b", {"locale": "de"})]


@pytest.mark.parametrize(
    ("line", "field", "code", "says"),
    [
        (b"nonsense", None, "bad_encoding", "not a JSON object"),
        (b"[1]", None, "bad_encoding", "not a JSON object"),
        (b'{"user_id": "\xff"}', None, "bad_encoding", "not a JSON object in UTF-8"),
        (b'{"user_id": "a", "user": ' + b'{"a":' * 3_000, None, "bad_encoding", "not a JSON object"),
        (b'{"user": {}}', "user_id", "bad_value", "missing; a line is like"),
        (b'{"user_id": 5}', "user_id", "bad_value", "not text"),
        (b'{"user_id": ""}', "user_id", "bad_value", "user_id"),
        (b'{"user_id": "a\\u0000"}', "user_id", "bad_value", "NUL"),
        (b'{"user_id": "a", "user": 5}', "user", "bad_value", "not a map"),
        (b'{"user_id": "a", "user": {}, "locale": "fr"}', "locale", "unknown_key", "beside user"),
        (b'{"user_id": "a", "locale": 123456789012345678901234567890}', "user", "bad_value", "64 bits"),
        (b'{"user_id": "a", "locale": "' + b"x" * 70_000 + b'"}', "user", "too_large", "65536"),
    ],
)  # fmt: skip
def test_a_bad_line_is_told_and_the_next_is_read(line: bytes, field: str | None, code: str, says: str) -> None:
    problem, row = found(line + b'\n{"user_id": "next"}\n', "jsonl")
    assert isinstance(problem, Problem)
    assert (problem.line, problem.field, problem.code) == (1, field, code)
    assert says in problem.message
    assert row == Row(2, "next", {})


CATEGORY = "categories.marketing"


def marketing(chosen: Any) -> Any:
    return {"preferences": {"categories": {"marketing": chosen}}}


def quiet(window: Any) -> Any:
    return {"preferences": {"quiet_hours": window}}


def device(provider: str, token: str) -> Any:
    return {"provider": provider, "token": token}


# --- CSV ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("email,phone", "ada@example.org,+336", {"contacts": {"email": "ada@example.org", "phone": "+336"}}),
        ("email,phone", " ada@example.org ,", ADA),  # an empty cell says nothing
        ("timezone,locale", "Europe/Paris,fr", {"timezone": "Europe/Paris", "locale": "fr"}),
        ("webhook_url,webhook_secret", "u,s", {"contacts": {"webhook": {"url": "u", "secret": "s"}}}),
        ("push.fcm,push.apns", "a|b,c", {"contacts": {"push": [*map(device, ("fcm", "fcm", "apns"), "abc")]}}),
        ("topics", "news | offers", {"preferences": {"topics": ["news", "offers"]}}),
        ("quiet_start,quiet_end", "22:00,08:00", quiet({"start": "22:00", "end": "08:00"})),
        ("quiet_days", "fri|sat", quiet({"days": ["fri", "sat"]})),
        ("channels.sms,channels.email", "false,TRUE", {"preferences": {"channels": {"sms": False, "email": True}}}),
        (CATEGORY, "no", marketing(False)),
        (f"{CATEGORY}.email,{CATEGORY}.sms", "off,1", marketing({"email": False, "sms": True})),
        (f"{CATEGORY},{CATEGORY}.email", "0,1", marketing(False)),  # off is off on all channels
        (f"{CATEGORY}.email,{CATEGORY}", "1,0", marketing(False)),
        (f"{CATEGORY},{CATEGORY}.email", "1,0", marketing({"email": False})),
        (f"{CATEGORY}.email,{CATEGORY}", "0,1", marketing({"email": False})),
    ],
)  # fmt: skip
def test_columns(header: str, cells: str, expected: Any) -> None:
    assert document(header, cells) == expected


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_of_spreadsheets_and_quoted_cells(delimiter: str) -> None:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows(
        [["user_id", "locale", "topics"], ['a"b', "fr", 'one, "1"; two\t2'], ["x\ny", "de", "z"], ["c", "", ""]]
    )
    assert found(file.getvalue(), "csv") == [
        Row(2, 'a"b', {"locale": "fr", "preferences": {"topics": ['one, "1"; two\t2']}}),
        Row(3, "x\ny", {"locale": "de", "preferences": {"topics": ["z"]}}),
        Row(5, "c", {}),  # the one before has two lines
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "field", "code", "says"),
    [
        (b"a", None, "bad_encoding", "1 cells, and the header 3 columns"),
        (b"a,b,true,d", None, "bad_encoding", "4 cells"),
        (b"a,\xff,true", "locale", "bad_encoding", "not UTF-8"),
        (b'a,"x"y,true', None, "bad_encoding", "not CSV"),
        (b"a,fr,maybe", "channels.sms", "bad_value", "'maybe' is not true or false"),
        (b",fr,true", "user_id", "bad_value", "missing"),
        (b"a,fr," + b"x" * 200_000, None, "bad_encoding", "field larger than"),
        (b"x" * 257 + b",fr,true", "user_id", "bad_value", "256"),
    ],
)
def test_a_bad_record_is_told_and_the_next_is_read(line: bytes, field: str | None, code: str, says: str) -> None:
    problem, row = found(b"user_id,locale,channels.sms\n" + line + b"\nnext,,\n", "csv")
    assert isinstance(problem, Problem)
    assert (problem.line, problem.field, problem.code) == (2, field, code)
    assert says in problem.message
    assert row == Row(3, "next", {})


def test_a_quote_without_an_end_is_told_with_its_line() -> None:
    (row, problem) = found('user_id,locale\na,fr\nb,"de\nc,fr\n', "csv")
    assert (row.line, problem.line) == (2, 3)
    assert isinstance(problem, Problem)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("", "line 1: there is no column user_id; the columns are user_id, email"),
        ("\n\nemail,phone", "line 3: there is no column user_id"),
        ("user_id,emial", "line 1: unknown column 'emial'; did you mean email?"),
        ("user_id,push.pigeon", "unknown column 'push.pigeon'"),
        ("user_id,channels.", "unknown column 'channels.'"),
        ("user_id,email,email", "the column 'email' is there twice"),
        ('user_id,"email', "not CSV"),
        ("user_id,", "unknown column ''"),
    ],
)
def test_a_header_that_is_refused(header: str, says: str) -> None:
    with pytest.raises(HeaderError) as caught:
        found(header, "csv")
    assert says in str(caught.value)
