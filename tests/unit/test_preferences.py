"""The document per user: what is refused, by the key, and what the choices say."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from shards import ledger
from shards.people import People
from shards.preferences import ALLOW_ALL, Choices, Preferences, QuietWindow, UserDocument, parse_document
from shards.rules import Routing
from shards.wire.errors import RequestError
from shards.wire.notification import CHANNELS

NUMBERS = {name: number for number, name in enumerate(CHANNELS)}
SUBSCRIPTION = json.dumps(  # the keys of RFC 8291, 5
    {
        "endpoint": "https://push.example.org/x",
        "expirationTime": None,
        "keys": {
            "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "auth": "BTBZMqHH6r4Tts7J_aSIgg",
        },
    }
)
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()


def choices_of(default_zone: str = "UTC", **document: Any) -> Choices:
    return Choices(msgspec.convert(document, UserDocument), default_zone)


def webhook(url: str = "https://example.org/hook", secret: str | None = SECRET, **more: str) -> Any:
    return {"contacts": {"webhook": {"url": url, "secret": secret, **more}}}


def push(*pairs: tuple[str, str]) -> Any:
    return {"contacts": {"push": [{"provider": provider, "token": token} for provider, token in pairs]}}


def quiet(start: Any = "22:00", end: str = "08:00", **days: Any) -> Any:
    return {"preferences": {"quiet_hours": {"start": start, "end": end, **days}}}


def secret_of(size: int) -> str:
    return "whsec_" + base64.b64encode(bytes(size)).decode()


def refused(document: Any) -> tuple[str, str | None, str]:
    with pytest.raises(RequestError) as caught:
        parse_document(document)
    error = caught.value.error
    assert len(error.message) <= 400
    return error.code, error.field, error.message


# --- what is switched off -----------------------------------------------------------------------------------------


def test_unset_is_allowed() -> None:
    assert not ALLOW_ALL.block("system", "email")


@pytest.mark.parametrize(
    ("preferences", "blocked"),
    [
        (Preferences(channels={"email": False}), {("system", "email"), ("marketing", "email")}),
        (Preferences(categories={"marketing": False}), {("marketing", "email"), ("marketing", "sms")}),
        (Preferences(categories={"marketing": {"sms": False, "email": True}}), {("marketing", "sms")}),
        (Preferences(channels={"email": True}, categories={"system": True}), set()),
    ],
)
def test_what_is_switched_off(preferences: Preferences, blocked: set[tuple[str, str]]) -> None:
    choices = Choices(UserDocument(preferences=preferences), "UTC")
    pairs = {(category, channel) for category in ("system", "marketing") for channel in ("email", "sms")}
    assert {pair for pair in pairs if choices.block(*pair)} == blocked


# --- who chose alike ----------------------------------------------------------------------------------------------

QUIET: dict[str, Any] = {"preferences": {"quiet_hours": {"start": "22:00", "end": "08:00"}}}
PARIS = {"timezone": "Europe/Paris"}


def off(**channels: bool) -> Any:
    return {"preferences": {"channels": channels}}


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ({}, {"contacts": {}, "preferences": {}}, True),
        (off(email=False, sms=True), off(email=False), True),
        (off(email=False), {}, False),
        ({"contacts": {"email": "a@b.org"}}, {"contacts": {"email": "c@d.org"}}, True),  # not the values
        ({"contacts": {"email": "a@b.org"}}, {"contacts": {"phone": "+33612345678"}}, False),
        ({"contacts": {"push": []}}, {}, True),
        (PARIS, {}, True),  # a zone says nothing without quiet hours
        (PARIS | QUIET, QUIET, False),
        ({"timezone": "UTC"} | QUIET, QUIET, True),  # the default
        ({"timezone": "Gone/Zone"} | QUIET, QUIET, True),
        ({"locale": "fr"}, {"locale": "de"}, False),
        ({"preferences": {"topics": ["a"]}}, {}, True),
    ],
)  # fmt: skip
def test_users_who_chose_alike_have_equal_keys(one: Any, other: Any, alike: bool) -> None:
    assert (choices_of(**one).key == choices_of(**other).key) is alike
    assert isinstance(hash(choices_of(**one).key), int)


def test_those_who_are_quiet_alike_share_what_was_found_last() -> None:
    one, other = choices_of(**QUIET), choices_of(**QUIET, locale="fr")
    assert one.key != other.key
    assert one.quiet is other.quiet
    assert choices_of(**QUIET, timezone="Europe/Paris").quiet is not one.quiet


@pytest.mark.parametrize(
    ("timezone", "default", "until_hour_utc"),
    [("Europe/Paris", "UTC", 7), (None, "America/New_York", 13), (None, "UTC", 8), ("Gone/Zone", "Europe/Paris", 7)],
)
def test_the_zone_of_quiet_hours(timezone: str | None, default: str, until_hour_utc: int) -> None:
    quiet = choices_of(default, timezone=timezone, **QUIET).quiet
    assert quiet is not None
    assert quiet.release_ms(4 * 3_600_000) == until_hour_utc * 3_600_000  # 1970-01-01 at 04:00
    assert ALLOW_ALL.quiet is None


# --- contacts -----------------------------------------------------------------------------------------------------

NONE: dict[str, Any] = {}
EMAIL = {"email": "a@b.org"}
ALL = {
    **EMAIL,
    "phone": "+33612345678",
    "push": [{"provider": "fcm", "token": "t"}],
    "webhook": {"url": "https://example.org"},
}


def test_which_contacts_there_are() -> None:
    assert [ALLOW_ALL.has_contact(channel) for channel in CHANNELS] == [False, False, False, True, False, True]
    assert (ALLOW_ALL.has_contacts, choices_of(contacts=EMAIL).has_contacts) == (False, True)
    assert [name for name in CHANNELS if choices_of(contacts=EMAIL).has_contact(name)] == ["email", "inapp", "system"]
    assert all(choices_of(contacts=ALL).has_contact(channel) for channel in (*CHANNELS, "plug-in"))
    assert ALLOW_ALL.locale is None
    assert choices_of(locale="fr-CA").locale == "fr-CA"


@pytest.mark.parametrize(
    ("contacts", "channel", "strict", "preferences", "result"),
    [
        (NONE, "email", False, NONE, ("pending", "")),  # simulated, and nothing is stored
        (NONE, "email", True, NONE, ("suppressed", "no_contact")),
        (NONE, "inapp", True, NONE, ("pending", "")),
        (EMAIL, "email", True, NONE, ("pending", "")),
        (EMAIL, "sms", False, NONE, ("suppressed", "no_contact")),  # some are stored: judged strictly
        (EMAIL, "push", False, NONE, ("suppressed", "no_contact")),
        (EMAIL, "inapp", False, NONE, ("pending", "")),
        (ALL, "sms", True, NONE, ("pending", "")),
        (ALL, "push", True, NONE, ("pending", "")),
        (EMAIL, "sms", False, {"channels": {"sms": False}}, ("suppressed", "preference")),  # the first that applies
        (EMAIL, "webhook", False, NONE, ("suppressed", "channel_not_configured")),
    ],
)
def test_a_user_without_a_contact_is_suppressed(
    contacts: Any, channel: str, strict: bool, preferences: Any, result: tuple[str, str]
) -> None:
    numbers = frozenset(NUMBERS[name] for name in ("email", "sms", "push", "inapp"))
    document = msgspec.convert({"contacts": contacts, "preferences": preferences}, UserDocument)
    real = numbers if strict else frozenset[int]()
    people = People(Routing({}, NUMBERS), list(CHANNELS), numbers, {}, {"ada": document}.get, 10, "UTC", real)
    outcome, reason = people.verdict(people.user("ada").choices, "system", NUMBERS[channel], False, False)
    assert (ledger.OUTCOMES[outcome], ledger.REASONS[reason]) == result


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "code", "field"),
    [
        ({"colour": "red"}, "unknown_key", "user.colour"),
        ({"preferences": {"channel": {}}}, "unknown_key", "user.preferences.channel"),
        ({"preferences": {"channels": {"email": "no"}}}, "bad_value", "user.preferences.channels[...]"),
        ({"preferences": {"quiet_hours": {}}}, "bad_value", "user.preferences.quiet_hours"),
        (quiet(22), "bad_value", "user.preferences.quiet_hours.start"),
        ({"preferences": {"topics": {}}}, "bad_value", "user.preferences.topics"),
        ({"preferences": {"topics": [1]}}, "bad_value", "user.preferences.topics[0]"),
        ({"locale": "x" * 70_000}, "too_large", "user"),
        ([], "bad_value", "user"),
    ],
)  # fmt: skip
def test_a_document_of_another_shape_is_refused(document: Any, code: str, field: str) -> None:
    assert refused(document)[:2] == (code, field)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"contact": {}}, "did you mean contacts?"),
        ({"email": "x"}, "did you mean contacts.email?"),
        ({"quiet_hours": {}}, "did you mean preferences.quiet_hours?"),
        ({"contacts": {"emial": "x"}}, "did you mean email?"),
        ({"contacts": {"webhook": {"url": "x", "secrt": "x"}}}, "did you mean secret"),
        ({"contacts": {"push": [{"provider": "x", "token": "x", "tokn": "x"}]}}, "did you mean token?"),
        ({"preferences": {"colour": {}}}, "known: categories, channels, quiet_hours, topics"),
        ({"preferences": {"quiet_hours": {"start": "22:00", "dys": "x"}}}, "did you mean days?"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(document: Any, says: str) -> None:
    assert says in refused(document)[2]


@pytest.mark.parametrize(
    ("document", "field", "says"),
    [
        ({"contacts": {"email": ""}}, "contacts.email", "'' is not an e-mail address"),
        ({"contacts": {"email": "ada"}}, "contacts.email", "must have an @-sign"),
        ({"contacts": {"email": "Ada <ada@example.org>"}}, "contacts.email", "display name"),
        ({"contacts": {"email": "ada@example.org\r\nBcc: x"}}, "contacts.email", "invalid characters"),
        ({"contacts": {"email": "é" * 5_000 + "@example.org"}}, "contacts.email", "too long"),
        ({"contacts": {"phone": "+33 6 12 34 56 78"}}, "contacts.phone", "did you mean +33612345678?"),
        ({"contacts": {"phone": "0033612345678"}}, "contacts.phone", "did you mean +33612345678?"),
        ({"contacts": {"phone": "+٣٣612345678"}}, "contacts.phone", "did you mean +33612345678?"),
        ({"contacts": {"phone": "0612345678"}}, "contacts.phone", "write + and the country code first"),
        ({"contacts": {"phone": "+999123456789"}}, "contacts.phone", "write + and the country code first"),
        ({"contacts": {"phone": "+3361234567890123"}}, "contacts.phone", "write + and the country code first"),
        ({"contacts": {"phone": ""}}, "contacts.phone", "write + and the country code first"),
        (push(("fcm", "t"), ("fmc", "t")), "contacts.push[1].provider", "did you mean fcm?"),
        (push(("telegram", "t")), "contacts.push[0].provider", "known: apns, fcm, webpush"),
        (push(("webpush", "t")), "contacts.push[0].token", "no browser's subscription as JSON"),
        (push(("webpush", '{"endpoint": "https://a.org"}')), "contacts.push[0].token", "missing required field `keys`"),
        (push(("webpush", SUBSCRIPTION.replace("https", "http"))), "contacts.push[0].token", "no https URL"),
        (push(("webpush", SUBSCRIPTION.replace("//", "//u:p@"))), "contacts.push[0].token", "password before the host"),
        (push(("webpush", SUBSCRIPTION.replace("BCVx", "CCVx"))), "contacts.push[0].token", "no uncompressed point"),
        (push(("webpush", SUBSCRIPTION.replace("BCVx", ""))), "contacts.push[0].token", "keys.p256dh is not"),
        (push(("webpush", SUBSCRIPTION.replace("BTBZ", "é"))), "contacts.push[0].token", "keys.auth is not"),
        (push(("fcm", "t"), ("apns", "")), "contacts.push[1].token", "it is empty"),
        (push(("fcm", " ")), "contacts.push[0].token", "it is empty"),
        (push(("fcm", "t" * 4_097)), "contacts.push[0].token", "over 4096 bytes"),
        (push(("fcm", "t"), ("apns", "t"), ("fcm", "t")), "contacts.push[2]", "there twice"),
        (webhook("ftp://example.org"), "contacts.webhook.url", "'ftp', not http or https"),
        (webhook("example.org/hook"), "contacts.webhook.url", "not http or https"),
        (webhook("https://"), "contacts.webhook.url", "no host"),
        (webhook("https:///hook"), "contacts.webhook.url", "no host"),
        (webhook("https://user:secret@example.org"), "contacts.webhook.url", "a user name or password"),
        (webhook("https://@example.org"), "contacts.webhook.url", "a user name or password"),
        (webhook("https://example.org:99999"), "contacts.webhook.url", "not a URL"),
        (webhook("https://[::1"), "contacts.webhook.url", "not a URL"),
        (webhook("https://example.org/a b"), "contacts.webhook.url", "a space"),
        (webhook("https://exam\tple.org"), "contacts.webhook.url", "invisible"),
        (webhook("https://example.org\\@evil.org"), "contacts.webhook.url", "a backslash"),
        (webhook("https://example.org/" + "x" * 2_029), "contacts.webhook.url", "2049 characters"),
        (webhook(secret="whsec_"), "contacts.webhook.secret", "24 to 64 bytes"),
        (webhook(secret=secret_of(23)), "contacts.webhook.secret", "24 to 64 bytes"),
        (webhook(secret=secret_of(65)), "contacts.webhook.secret", "24 to 64 bytes"),
        (webhook(secret=secret_of(32)[6:]), "contacts.webhook.secret", "whsec_"),
        (webhook(previous_secret="whsec_"), "contacts.webhook.previous_secret", "24 to 64 bytes"),
        (webhook(secret=None, previous_secret=SECRET), "contacts.webhook.previous_secret", "without secret"),
        (webhook(secret=SECRET + "!"), "contacts.webhook.secret", "base64"),
        (webhook(secret=SECRET[:-1] + "é"), "contacts.webhook.secret", "base64"),
        ({"timezone": "Europe/Pariss"}, "timezone", "did you mean Europe/Paris"),
        ({"timezone": "../../etc/passwd"}, "timezone", "unknown time zone"),
        ({"timezone": ""}, "timezone", 'such as "Europe/Paris"'),
        ({"locale": "fr_CA"}, "locale", "did you mean fr-CA?"),
        ({"locale": "fr_CA.UTF-8"}, "locale", "did you mean fr-CA?"),
        ({"locale": "f"}, "locale", "such as fr, fr-CA or zh-Hant-TW"),
        ({"locale": ""}, "locale", "such as fr"),
        ({"locale": "x" * 1_000}, "locale", "such as fr"),
        ({"locale": "de-" + "a-" * 20 + "a"}, "locale", "such as fr"),
        ({"preferences": {"quiet_hours": {"start": "22:00"}}}, "preferences.quiet_hours", "end is missing"),
        (quiet(start="7:5"), "preferences.quiet_hours.start", "'7:5' is not a time of day"),
        (quiet(end="25:00"), "preferences.quiet_hours.end", "'25:00' is not a time of day"),
        (quiet(days=[]), "preferences.quiet_hours.days", "it names no day"),
        (quiet(days=["Mon"]), "preferences.quiet_hours.days", "'Mon' is not one of mon, tue"),
        (quiet(days=["mon", "mon"]), "preferences.quiet_hours.days", "there twice"),
        (quiet("00:00", "24:00"), "preferences.quiet_hours", "quiet for ever"),
        ({"preferences": {"topics": ["a", ""]}}, "preferences.topics[1]", "1 to 256 bytes"),
        ({"preferences": {"topics": ["é" * 129]}}, "preferences.topics[0]", "1 to 256 bytes"),
        ({"preferences": {"topics": ["a\0b"]}}, "preferences.topics[0]", "NUL"),
        ({"preferences": {"topics": ["*"]}}, "preferences.topics[0]", "every user"),
        ({"preferences": {"topics": ["a", "b", "a"]}}, "preferences.topics[2]", "'a' is there twice"),
    ],
)
def test_a_value_is_refused_by_its_key_with_the_remedy(document: Any, field: str, says: str) -> None:
    code, found, message = refused(document)
    assert (code, found) == ("bad_value", f"user.{field}")
    assert says in message


def test_no_error_tells_a_secret() -> None:
    for document in (webhook(secret="whsec_hunter2hunter2"), webhook(url="https://u:hunter2@example.org")):
        assert "hunter2" not in refused(document)[2]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"contacts": {"email": None, "push": []}, "timezone": None, "preferences": {"quiet_hours": None}},
        {"contacts": {"email": "ünï@exämple.org", "phone": "+15550100000"}},
        push(("fcm", "t"), ("apns", "t"), ("webpush", SUBSCRIPTION)),
        webhook("http://127.0.0.1:8080/hook?x=1#y"),
        webhook("https://exämple.org"),
        webhook("https://[::1]:8443/hook"),
        webhook("https://example.org/" + "x" * 2_028),
        {"contacts": {"webhook": {"url": "https://example.org"}}},
        *(webhook(secret=secret_of(size)) for size in (24, 32, 64)),
        *({"locale": locale} for locale in ("fr", "fr-CA", "zh-Hant-TW", "de-1996", "es-419", "en-US-u-ca-gregory")),
        *({"timezone": zone} for zone in ("UTC", "Europe/Paris", "America/Argentina/Ushuaia", "Etc/GMT+5")),
        quiet(),
        quiet("12:00", "12:00"),
        quiet("00:00", "24:00", days=["sat", "sun"]),
        {"preferences": {"topics": ["release-notes", "é" * 128, "**"]}},
    ],
)  # fmt: skip
def test_what_is_accepted_is_stored_as_it_was_given(document: Any) -> None:
    def without_defaults(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: kept for key, inner in value.items() if (kept := without_defaults(inner)) not in (None, {}, [])}

    stored = json.loads(msgspec.json.encode(parse_document(document)))
    assert without_defaults(stored) == without_defaults(document)


def test_what_an_earlier_version_stored_is_read_as_it_is() -> None:
    stored = msgspec.msgpack.encode(
        {
            "contacts": {
                "email": "nonsense",
                "phone": "0612",
                "push": [{"provider": "pigeon", "token": ""}],
                "webhook": {"url": "x", "secret": "whsec_x"},
            },
            "timezone": "Nowhere/Land",
            "locale": "français",
            "preferences": {"channels": {"sms": False}},
        }
    )
    choices = Choices(msgspec.msgpack.decode(stored, type=UserDocument), "UTC")
    assert choices.block("system", "sms")
    assert choices.has_contact("webhook")


def test_a_window_is_written_as_it_was_read() -> None:
    window = QuietWindow("22:00", "08:00", ("mon",))
    document = UserDocument(preferences=Preferences(quiet_hours=window, topics=("a",)))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(document), type=UserDocument) == document


def test_a_shard_starts_without_the_libraries_of_contacts() -> None:
    code = "import sys, shards.worker; print({'email_validator', 'phonenumbers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
