"""The configuration: the shipped file against the code, the order of the sources, and what an error says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from dispatcher.places import line_of
from dispatcher.settings import Settings, SettingsError, load, to_document
from shards import options
from shards.channels.registry import PROVIDERS, find
from shards.limiter import RateLimit
from shards.retry import RetryPolicy
from shards.rules import DEFAULT_CATEGORIES, Category
from shards.settings import ChannelSettings, ProviderSettings
from shards.units import Seconds
from tests.support.push.settings import write_secrets
from tests.support.simulated import simulated

WEBHOOK_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SHIPPED = Path(__file__).parents[2] / "config" / "dispatcher.toml"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where a test may write its configuration."""
    return tmp_path / "mine.toml"


def loaded(text: str, path: Path, environment: Mapping[str, str] | None = None, **command_line: Any) -> Settings:
    path.write_text(text)
    return load(path, environment or {}, command_line)


def refusal(text: str, path: Path, environment: Mapping[str, str] | None = None, **command_line: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(text, path, environment, **command_line)
    return str(caught.value)


# --- the shipped file ---------------------------------------------------------------------------------------------


def uncommented() -> str:
    """The shipped file with its examples switched on: a commented line that is TOML becomes TOML."""
    return re.sub(r"(?m)^# (?=\[\w+(\.\w+)+\]$|\[\[\w+(\.\w+)*\]\]$|\w+ = )", "", SHIPPED.read_text())


def shipped(written: Path) -> Settings:
    """The same, with secrets where it has the places of some."""
    write_secrets(written.parent)
    text = uncommented()
    for name in re.findall(r'^\w+ = "file:/etc/dispatcher/(\w+)"', text, re.MULTILINE):
        path = written.parent / name
        path.touch(0o600)
        path.write_text(WEBHOOK_SECRET)
    return loaded(text.replace("/etc/dispatcher", str(written.parent)), written)


def structs(kind: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[msgspec.Struct]]]:
    """Every table of the configuration; a table of names, or one of an array, as ``*``."""
    if get_origin(kind) in (dict, tuple):
        yield from structs(get_args(kind)[1 if get_origin(kind) is dict else 0], (*keys, "*"))
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield keys, kind
        for field in msgspec.structs.fields(kind):
            if kind is not ChannelSettings:  # its providers are tested below; and one [retry] explains all
                yield from structs(field.type, (*keys, field.name))


def tables_at(document: Any, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    found = [document]
    for key in keys:
        found = [
            value
            for table in found
            for name, value in (table.items() if isinstance(table, dict) else enumerate(table))
            if key in ("*", name)
        ]
    return found


def test_the_shipped_file_says_what_the_code_does_by_default() -> None:
    assert load(SHIPPED, {}, {}) == Settings() == load(None, {}, {})


def test_the_shipped_file_has_the_default_categories() -> None:
    shipped = tomllib.loads(SHIPPED.read_text())["categories"]
    assert msgspec.convert(shipped, dict[str, Category]) == DEFAULT_CATEGORIES


def test_the_shipped_example_of_a_channel_shows_the_defaults(written: Path) -> None:
    settings = shipped(written)
    pager = settings.channels["pager"]
    assert pager == msgspec.structs.replace(simulated(), providers=pager.providers, retry=RetryPolicy())
    assert settings.dispatcher.shards == 4


def test_the_shipped_file_has_every_option_of_every_provider(written: Path) -> None:
    """Each with its default, but for those that have none or are empty; some only in words."""
    shown: dict[str, ProviderSettings] = {
        one.provider: one for channel in shipped(written).channels.values() for one in channel.providers
    }
    for name in PROVIDERS:
        has_every_option(shown[name].options, options.read(find(name), shown[name].options), name)


def has_every_option(document: dict[str, Any], read: msgspec.Struct, at: str) -> None:
    every = msgspec.structs.fields(read)
    fields = [field for field in every if field.name in document]
    assert list(document) == [field.name for field in fields], at
    for field in every:
        if field not in fields:  # it excludes others, is long, or has no value in TOML: a comment names it
            assert re.search(rf"(?m)^# .*\b{field.name}\b", SHIPPED.read_text()), f"{at}.{field.name}"
    for field in fields:
        value = getattr(read, field.name)
        if isinstance(value, msgspec.Struct):
            has_every_option(document[field.name], value, f"{at}.{field.name}")
        elif field.default is not msgspec.NODEFAULT and field.default:
            assert value == field.default, f"{at}.{field.name}"


@pytest.mark.parametrize(
    ("keys", "struct"), list(structs(Settings)), ids=lambda value: getattr(value, "__name__", None)
)
def test_every_setting_is_in_the_shipped_file(keys: tuple[str, ...], struct: type[msgspec.Struct]) -> None:
    tables = tables_at(tomllib.loads(uncommented()), keys)
    assert tables
    names = [field.name for field in msgspec.structs.fields(struct) if field.name != "providers"]
    if struct is ChannelSettings:
        assert [name for name in tables[0] if name in names] == names
        return
    assert list(tables[0]) == names
    for table in tables[1:]:  # of the same kind: they may leave out what is not special in them
        assert list(table) == [name for name in names if name in table]


def test_a_channel_has_what_fits_its_provider_where_nobody_says(written: Path) -> None:
    text = '[channels.email]\nhost = "mail.test"\nsender = "shop@shop.example"\nconnections = 7\n'
    found = loaded(text, written).channels["email"]
    assert (found.concurrency, found.timeout) == (7, Seconds(60))
    found = loaded(f'{text}concurrency = 3\ntimeout = "5s"\n', written).channels["email"]
    assert (found.concurrency, found.timeout) == (3, Seconds(5))


def test_every_setting_of_the_shipped_file_has_a_comment_where_it_stands_first() -> None:
    explained = set()
    table = before = ""
    for number, line in enumerate(uncommented().splitlines(), 1):
        if header := re.match(r"\[+(\w+)", line):
            table = header[1]
        elif setting := re.match(r"(\w+) = ", line):
            if " # " in line or before.startswith("# "):
                explained.add((table, setting[1]))
            assert (table, setting[1]) in explained, f"line {number} has no comment"
        before = line


def test_what_the_settings_say_as_a_document_loads_as_the_same_settings(written: Path) -> None:
    document = to_document(load(SHIPPED, {"DISPATCHER_RETRY__BASE": "250ms"}, {}))
    document["dispatcher"].pop("shards")  # TOML has no null
    assert load(None, {}, document).retry.base == Seconds(0.25)
    assert load(None, {}, document) == load(None, {"DISPATCHER_RETRY__BASE": "250ms"}, {})


# --- where a setting comes from -----------------------------------------------------------------------------------


def test_the_order_is_defaults_file_environment_command_line(written: Path) -> None:
    text = '[dispatcher]\nshards = 2\ndata_dir = "file"\ndurability = "process"\n'
    environment = {"DISPATCHER_SHARDS": "3", "DISPATCHER_DATA_DIR": "environment"}
    found = loaded(text, written, environment, dispatcher={"shards": 5}).dispatcher
    assert (found.shards, found.data_dir, found.durability) == (5, "environment", "process")
    assert found.submit == Settings().dispatcher.submit


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("DISPATCHER_SHARDS", "8", "dispatcher.shards", 8),
        ("DISPATCHER_INSECURE", "true", "dispatcher.insecure", True),
        ("DISPATCHER_DURABILITY", "process", "dispatcher.durability", "process"),
        ("DISPATCHER_CURVE__SECRET_KEY", "keys/a.secret", "curve.secret_key", "keys/a.secret"),
        ("DISPATCHER_RETRY__BASE", "2s", "retry.base", 2.0),
        ("DISPATCHER_RETRY__FACTOR", "1.5", "retry.factor", 1.5),
        ("DISPATCHER_IDEMPOTENCY__MAX_ENTRIES", "1_000", "idempotency.max_entries", 1000),
    ],
)
def test_the_environment_sets_nested_keys(name: str, text: str, key: str, value: object) -> None:
    table, _, field = key.partition(".")
    assert getattr(getattr(load(None, {name: text}, {}), table), field) == value


def test_the_environment_sets_entries_of_tables_of_names() -> None:
    settings = load(
        None,
        {
            "DISPATCHER_CHANNELS__SMS__PROVIDER": "simulated",
            "DISPATCHER_RATE_LIMITS__SMS": "5/minute",
            "DISPATCHER_CATEGORIES__NEWS": '{ channels = ["sms"] }',
        },
        {},
    )
    assert settings.channels["sms"].is_simulated
    assert settings.rate_limits["sms"] == RateLimit(rate="5/minute")
    assert settings.categories["news"].channels == ("sms",)


def test_other_variables_are_not_read() -> None:
    assert load(None, {"SHARDS": "8", "XDISPATCHER_SHARDS": "8", "DISPATCHER_": "8"}, {}) == Settings()


def test_an_entry_replaces_the_default_of_its_name_and_the_others_stay(written: Path) -> None:
    settings = loaded('[rate_limits]\nsms = "5/hour"\n[categories.marketing]\nchannels = ["push"]\n', written)
    assert settings.rate_limits["email"] == Settings().rate_limits["email"]
    assert loaded('[rate_limits]\nemail = "5/hour"\n', written).rate_limits["email"].burst is None
    assert settings.categories == {"marketing": Category(channels=("push",))}
    assert list(to_document(settings)["categories"]) == list(DEFAULT_CATEGORIES)


def test_a_channel_of_ones_own_may_be_named_everywhere(written: Path) -> None:
    text = (
        '[channels.fax]\nprovider = "simulated"\n[categories.legal]\nchannels = ["fax"]\n[rate_limits]\nfax = "1/day"\n'
    )
    assert loaded(text, written).categories["legal"].channels == ("fax",)


def test_a_cap_names_categories_and_channels_of_ones_own(written: Path) -> None:
    text = (
        '[channels.fax]\nprovider = "simulated"\n[categories.legal]\nchannels = ["fax"]\n'
        '[caps.paper]\nlimit = 1\nwindow = "7d"\ncategories = ["legal", "system"]\nchannels = ["fax"]\n'
    )
    assert loaded(text, written).caps["paper"].window == Seconds(7 * 86_400.0)


def test_what_exceeds_a_limit_may_go_to_a_digest_that_takes_it(written: Path) -> None:
    text = (
        '[rate_limits.sms]\nrate = "1/day"\noverflow = "digest"\n[digests.rest]\ntemplate = "rest"\nwhen = "overflow"\n'
    )
    assert loaded(text, written).rate_limits["sms"].overflow == "digest"
    assert "rate_limits.sms.overflow" in refusal(text + 'channels = ["email"]\n', written)


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:7711", "tcp://127.8.0.1:1", "tcp://[::1]:7711", "ipc://run/x"])
def test_endpoints_that_only_this_machine_reaches_need_nothing(endpoint: str) -> None:
    assert load(None, {"DISPATCHER_SUBMIT": endpoint}, {}).dispatcher.submit == endpoint


# --- what an error says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ("[dispatcher]\n\nshard = 3\n", 3, "dispatcher.shard", "unknown key 'shard'; did you mean shards?"),
        ("\n[dispacher]\nshards = 3\n", 2, "dispacher", "unknown key 'dispacher'; did you mean dispatcher?"),
        ("[retry]\nbase = '1s'\n[limits]\nbacth = 1\n", 4, "limits.bacth", "did you mean batch?"),
        (
            '[categories.x]\nchannels = ["sms"]\npriority = "low"\n[categories.ads]\nchannels = ["sms"]\npriorty = 1\n',
            6,
            "categories.ads.priorty",
            "did you mean priority?",
        ),
        ('[channels.email]\nprovider = "simulated"\nconcurency = 1\n', 3, "channels.email.concurency", "concurrency"),
        ('[rate_limits]\nemail = { rate = "1/day", brust = 1 }\n', 2, "rate_limits.email.brust", "did you mean burst?"),
        ('[rate_limits.email]\nrate = "1/day"\nbrust = 1\n', 3, "rate_limits.email.brust", "did you mean burst?"),
        ('[channels]\nsms = { provider = "simulated", sead = 1 }\n', 2, "channels.sms.sead", "did you mean seed?"),
        ('channels.sms.provider = "simulated"\nchannels.sms.sead = 1\n', 2, "channels.sms.sead", "did you mean seed?"),
        ('[channels."a.b"]\nprovider = "simulated"\nsead = 1\n', 3, "channels.a.b.sead", "did you mean seed?"),
        ("schedule = 4\n", 1, "schedule", "did you mean schedules?"),
        ('"no such" = 4\n', 1, "no such", "known: bounds, caps, categories"),
        ("[dispatcher]\nSHARDS = 4\n", 2, "dispatcher.SHARDS", "shards"),
        ('[dispatcher]\ndata_dir = """\nshard = 1\n[limits]\n"""\nshard = 2\n', 6, "dispatcher.shard", "shards?"),
        ("\ufeff[dispatcher]\nshard = 1\n", 2, "dispatcher.shard", "did you mean shards?"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest(
    text: str, line: int, key: str, says: str, written: Path
) -> None:
    message = refusal(text, written)
    assert message.startswith(f"{written}, line {line}: {key}: unknown key ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        (
            '[[channels.fax.providers]]\nprovider = "attached"\n[[channels.fax.providers]]\nprovider = "attached"\n',
            1,
            "channels.fax.providers",
            "attached stands alone: its workers share what is for it",
        ),
        (
            "".join(f'[channels.c{number}]\nprovider = "attached"\n' for number in range(201)),
            1,
            "channels",
            "there are 201; at most 200",
        ),
        ('[retry]\nfactor = 2.0\nbase = "5x"\n', 3, "retry.base", "'5x' is not a duration such as"),
        ('[retry]\nbase = "-1s"\n', 2, "retry.base", "is not a duration"),
        ("[retry]\nbase = -1\n", 2, "retry.base", "out of range for a duration"),
        ("[retry]\nmax_retries = 251\n", 2, "retry.max_retries", "must be between 0 and 250"),
        ("[retry]\nfactor = 0.5\n", 2, "retry.factor", "must be at least 1"),
        ('[retry]\njitter = "half"\n', 2, "retry.jitter", "known: full, fifth, none"),
        ('[preferences]\ntimezone = "Europe/Pariss"\n', 2, "preferences.timezone", "did you mean Europe/Paris"),
        ("[preferences]\ntimezone = 1\n", 2, "preferences.timezone", "Expected `str`"),
        ('[rate_limits]\nemail = "5/fortnight"\n', 2, "rate_limits.email.rate", '"count/minute"'),
        ('[rate_limits]\nemail = "0/minute"\n', 2, "rate_limits.email.rate", '"count/minute"'),
        ('[rate_limits]\nemail = { rate = "1/day", burst = 0 }\n', 2, "rate_limits.email.burst", "at least 1"),
        ('[rate_limits]\nemial = "5/minute"\n', 2, "rate_limits.emial", "did you mean email?"),
        ("rate_limits = 5\n", 1, "rate_limits", "Expected `table`"),
        ('[rate_limits.sms]\nrate = "1/day"\noverflow = "wait"\n', 3, "rate_limits.sms.overflow", "delay, digest"),
        ('[rate_limits.sms]\nrate = "1/day"\nexempt = ["critcal"]\n', 3, "rate_limits.sms.exempt", "critical?"),
        ('[rate_limits.inapp]\nrate = "1/day"\noverflow = "inapp"\n', 3, "rate_limits.inapp.overflow", "itself"),
        ('[rate_limits.sms]\nrate = "1/day"\noverflow = "digest"\n', 3, "rate_limits.sms.overflow", "[digests.*]"),
        ("[caps.a]\nlimit = 5\n", 1, "caps.a", "window is missing"),
        ('[caps.a]\nlimit = 0\nwindow = "1d"\n', 2, "caps.a.limit", "between 1 and 1000"),
        ('[caps.a]\nlimit = 5\nwindow = "32d"\n', 3, "caps.a.window", "at most 31d"),
        ('[caps.a]\nlimit = 5\nwindow = "0s"\n', 3, "caps.a.window", "above 0"),
        ('[caps.a]\nlimit = 5\nwindow = "1d"\nexempt = ["hgh"]\n', 4, "caps.a.exempt", "did you mean high?"),
        ('[caps.a]\nlimit = 5\nwindow = "1d"\ncategories = ["markting"]\n', 4, "caps.a.categories", "marketing?"),
        ('[caps.a]\nlimit = 5\nwindow = "1d"\nchannels = ["emial"]\n', 4, "caps.a.channels", "email?"),
        ('[digests.a]\nwindow = "1h"\n', 1, "digests.a", "template is missing"),
        ('[digests.a]\ntemplate = ""\n', 2, "digests.a.template", "name the template that a digest is rendered with"),
        ('[digests.a]\ntemplate = "t"\nwindow = "0s"\n', 3, "digests.a.window", "above 0 and at most 31d"),
        ('[digests.a]\ntemplate = "t"\nwindow = "32d"\n', 3, "digests.a.window", "above 0 and at most 31d"),
        ('[digests.a]\ntemplate = "t"\nwindow = "soon"\n', 3, "digests.a.window", "is not a duration such as"),
        ('[digests.a]\ntemplate = "t"\nitems_max = 1\n', 3, "digests.a.items_max", "between 2 and 1000"),
        ('[digests.a]\ntemplate = "t"\nitems_max = 1001\n', 3, "digests.a.items_max", "between 2 and 1000"),
        ('[digests.a]\ntemplate = "t"\ncategories = ["markting"]\n', 3, "digests.a.categories", "marketing?"),
        ('[digests.a]\ntemplate = "t"\nchannels = ["emial"]\n', 3, "digests.a.channels", "email?"),
        ('[digests.a]\ntemplate = "t"\nwhen = "never"\n', 3, "digests.a.when", "known: always, overflow"),
        ('[digests.a]\ntemplate = "t"\nkey = ""\n', 3, "digests.a.key", "leave it out"),
        ('[digests.a]\ntemplate = "t"\nwhen = "overflow"\nleading = true\n', 4, "digests.a.leading", "leave it out"),
        ('[digests.a]\ntemplte = "t"\n', 2, "digests.a.templte", "did you mean template?"),
        ("[digests]\na = 5\n", 2, "digests.a", "Expected `table`"),
        ('[schedules]\nhorizon = "soon"\n', 2, "schedules.horizon", "is not a duration such as"),
        ('[categories.news]\nchannels = ["emial"]\n', 2, "categories.news.channels", "did you mean email?"),
        ("[categories.news]\nchannels = []\n", 2, "categories.news.channels", "at least one"),
        ('[categories.news]\nchannels = ["sms", "sms"]\n', 2, "categories.news.channels", "each once"),
        ('[categories.news]\npriority = "low"\n', 1, "categories.news", "channels is missing"),
        ('[categories.x]\nchannels = ["sms"]\npriority = "urgent"\n', 3, "categories.x.priority", "low, normal, high"),
        ("[dispatcher]\nshards = 257\n", 2, "dispatcher.shards", "between 1 and 256"),
        ("[dispatcher]\nshards = true\n", 2, "dispatcher.shards", "Expected `int | null`, got `bool`"),
        ('[dispatcher]\ndurability = "none"\n', 2, "dispatcher.durability", "known: power, process"),
        ('[dispatcher]\nsubmit = "127.0.0.1:7712"\n', 2, "dispatcher.submit", "is not like tcp://127.0.0.1:7711"),
        ('[dispatcher]\nsubmit = "tcp://127.0.0.1:70000"\n', 2, "dispatcher.submit", "is not like"),
        ('[dispatcher]\nreceipt_timeout = "0s"\n', 2, "dispatcher.receipt_timeout", "above 0"),
        ('[dispatcher]\ndata_dir = ""\n', 2, "dispatcher.data_dir", "is empty"),
        ('[curve]\nallow = "allowed"\n', 2, "curve.allow", "it needs secret_key as well; `dispatcher keys new NAME`"),
        ('[curve]\nserver_key = "x"\n', 2, "curve.server_key", "it needs secret_key as well"),
        ("[bounds]\nusers = 0\n", 2, "bounds.users", ">= 1"),
        ("[limits]\nbatch = -1\n", 2, "limits.batch", ">= 1"),
        ('[priorities]\naging = "0s"\n', 2, "priorities.aging", "above 0"),
        ('[retention]\nfinished = "2h"\n', 2, "retention.finished", "not be below idempotency.window"),
        (
            '[channels.push.fcm]\nservice_account = "{}"\n',
            2,
            "channels.push.fcm.service_account",
            "missing required field `project_id`; give the JSON file of a service account",
        ),
        ("[channels.fax]\nconcurrency = 5\n", 1, "channels.fax.provider", "it is missing"),
        ("[channels.fax]\nprovider = 5\n", 2, "channels.fax.provider", "or no text"),
        ('[channels.email]\nprovider = "smpt"\n', 2, "channels.email.provider", "did you mean smtp?"),
        ('[channels.fax]\nclass = "faxes"\n', 2, "channels.fax.class", '"package.module:Class"'),
        (
            '[channels.fax]\nclass = "no.such:Fax"\n',
            2,
            "channels.fax.class",
            "install it, or put its folder into PYTHONPATH",
        ),
        ('[channels.fax]\nclass = "json:Fax"\n', 2, "channels.fax.class", "json has no class Fax"),
        ('[channels.fax]\nclass = "json:JSONDecoder"\n', 2, "channels.fax.class", "no supports_recipient and no send"),
        (
            '[channels.fax]\nclass = "tests.support.plugin_with_a_bug:Fax"\n',
            2,
            "channels.fax.class",
            "tests.support.plugin_with_a_bug cannot be imported: NameError: name 'undefined' is not defined",
        ),
        ("[channels.fax]\nproviders = []\n", 2, "channels.fax.providers", "at least one"),
        (
            '[[channels.sms.providers]]\nprovider = "simulated"\n[[channels.sms.providers]]\nprovider = "simulatd"\n',
            4,
            "channels.sms.providers.1.provider",
            "did you mean simulated?",
        ),
        (
            '[[channels.sms.providers]]\nprovider = "simulated"\nsead = 1\n',
            3,
            "channels.sms.providers.0.sead",
            "did you mean seed?",
        ),
        (
            '[channels.sms]\nseed = 1\n[[channels.sms.providers]]\nprovider = "simulated"\n',
            2,
            "channels.sms.seed",
            "one of the [[channels.sms.providers]]",
        ),
        (
            '[channels.sms]\nprovider = "simulated"\non_ambiguous = "x"\n',
            3,
            "channels.sms.on_ambiguous",
            "known: retry, hold",
        ),
        ('[channels.sms]\nprovider = "simulated"\ntimeout = "0s"\n', 3, "channels.sms.timeout", "above 0"),
        (
            '[channels.sms]\nprovider = "simulated"\n[channels.sms.retry]\nbsae = 1\n',
            4,
            "channels.sms.retry.bsae",
            "base?",
        ),
        ('[errors.htpp]\n"404" = "transient"\n', 1, "errors.htpp", "did you mean http?"),
        ('[errors.http]\n"404" = "transcient"\n', 2, "errors.http.404", "known: transient"),
        ('[channels.sms]\nprovider = "simulated"\nfailure_rate = 2\n', 3, "channels.sms.failure_rate", "0 and 1"),
        ('[channels.sms]\nprovider = "simulated"\nrate = "5"\n', 3, "channels.sms.rate", '"count/minute"'),
        ('[channels.sms]\nprovider = "simulated"\nburst = 5\n', 3, "channels.sms.burst", "needs rate"),
        ('[channels.sms]\nrate = "5/day"\nprovider = "simulated"\nburst = -1\n', 4, "channels.sms.burst", "below 0"),
        ('[channels.inapp]\nprovider = "simulated"\n', 1, "channels.inapp", "built in"),
    ],
)
def test_a_bad_value_is_named_with_its_line_and_the_remedy(
    text: str, line: int, key: str, says: str, written: Path
) -> None:
    message = refusal(text, written)
    assert message.startswith(f"{written}, line {line}: {key}: ")
    assert says in message


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:7712",
        "tcp://*:7712",
        "tcp://192.168.0.1:7712",
        "tcp://[::]:7712",
        "tcp://127.0.0.1.example.org:1",
    ],
)
@pytest.mark.parametrize("name", ["ingest", "submit", "stream"])
def test_an_endpoint_that_others_reach_needs_keys_or_insecure(name: str, endpoint: str, written: Path) -> None:
    message = refusal(f'[dispatcher]\n{name} = "{endpoint}"\n', written)
    assert f"line 2: dispatcher.{name}: " in message
    assert "without authentication" in message
    assert "[curve] secret_key" in message
    assert "set insecure = true" in message
    for remedy in ("insecure = true", '[curve]\nsecret_key = "server.secret"'):
        opened = loaded(f'[dispatcher]\n{name} = "{endpoint}"\n{remedy}\n', written)
        assert getattr(opened.dispatcher, name) == endpoint


def test_an_error_names_the_source_that_set_the_key(written: Path) -> None:
    text = "[dispatcher]\nshards = 2\n"
    message = refusal(text, written, {"DISPATCHER_SHARDS": "many"})
    assert message.startswith("DISPATCHER_SHARDS: dispatcher.shards: ")
    message = refusal(text, written, {"DISPATCHER_SHARDS": "many"}, dispatcher={"shards": 0})
    assert message.startswith("the command line: dispatcher.shards: ")
    message = refusal(text, written, {"DISPATCHER_RETRY__BSE": "2s"})
    assert message == "DISPATCHER_RETRY__BSE: retry.bse: unknown key 'bse'; did you mean base?"
    assert refusal(text, written, {"DISPATCHER_SHARD": "2"}).startswith("DISPATCHER_SHARD: dispatcher.shard: ")
    message = refusal(text, written, {"DISPATCHER_RETRI__BASE": "2s"})
    assert message == "DISPATCHER_RETRI__BASE: retri: unknown key 'retri'; did you mean retry or retention?"
    message = refusal(text, written, {"DISPATCHER_CATEGORIES__NEWS__PRIORITY": "low"})
    assert message == "DISPATCHER_CATEGORIES__NEWS__PRIORITY: categories.news: channels is missing"


def test_every_problem_is_told_and_none_that_follows_from_another(written: Path) -> None:
    text = (
        '[retry]\nbsae = "1s"\nfactor = 0.5\n'
        '[channels.fax]\nprovider = "simulated"\nfailure_rate = 2\nsead = 1\nconcurrency = 0\n'
        '[categories.legal]\nchannels = ["fax", "fox"]\n'
    )
    messages = refusal(text, written, {"DISPATCHER_BOUNDS__USERS": "0"}).splitlines()
    assert {tuple(message.split(": ")[:2]) for message in messages} == {
        (f"{written}, line 2", "retry.bsae"),
        (f"{written}, line 3", "retry.factor"),
        (f"{written}, line 6", "channels.fax.failure_rate"),
        (f"{written}, line 7", "channels.fax.sead"),
        (f"{written}, line 8", "channels.fax.concurrency"),
        (f"{written}, line 10", "categories.legal.channels"),
        ("DISPATCHER_BOUNDS__USERS", "bounds.users"),
    }
    messages = refusal('[retention]\nfinished = "1h"\n[rate_limits]\nfx = "1/day"\n', written).splitlines()
    assert [message.split(": ")[1] for message in messages] == ["rate_limits.fx", "retention.finished"]
    text = '[channels.push.webpush]\nprivate_key = "hunter2"\nsubject = "ops"\n'
    (message,) = refusal(text, written).splitlines()
    assert message.startswith(f"{written}, line 2: channels.push.webpush.private_key: ")
    messages = refusal('[[rules]]\nname = "idle"\n[retry]\nbsae = "1s"\n[bounds]\nusers = 0\n', written).splitlines()
    assert [message.split(": ")[1] for message in messages] == ["rules.0", "retry.bsae", "bounds.users"]
    text = (
        '[channels.sms]\nprovider = "sms-http"\nurl = "http://127.0.0.1/?key={key}"\nsecrets = { key = "env:NO_KEY" }\n'
        'sed = "x"\n'
    )
    messages = refusal(text, written).splitlines()
    assert [message.split(": ")[1] for message in messages] == ["channels.sms.secrets.key", "channels.sms.sed"]


def test_what_all_providers_have_in_common_is_named_with_its_table(written: Path) -> None:
    text = '[[channels.sms.providers]]\nprovider = "simulated"\nconcurrency = 3\n'
    assert refusal(text, written) == (
        f"{written}, line 3: channels.sms.providers.0.concurrency: "
        "it is the same for all providers, and belongs into [channels.sms]"
    )


def test_variables_that_contradict_each_other_are_an_error(written: Path) -> None:
    message = refusal("", written, {"DISPATCHER_RETRY__BASE": "1s", "DISPATCHER_RETRY__BASE__X": "1s"})
    assert message == "DISPATCHER_RETRY__BASE__X: base is not a table, it has no x"


def test_a_file_that_is_not_toml_is_refused_with_the_place(written: Path) -> None:
    assert re.fullmatch(
        rf"{re.escape(str(written))}: not TOML: .*at line 2, column \d+\)", refusal("a = 1\nb\n", written)
    )
    written.write_bytes(b"a = '\xff'\n")
    with pytest.raises(SettingsError, match="not TOML"):
        load(written, {}, {})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.toml", {}, {})


def test_the_line_of_a_key_is_that_of_its_own_table() -> None:
    text = '# base = 0\n[limits]\nbatch = 1\n[retry]\nmax = "1m"\n"base" = "1s"\n[categories.x]\nchannels = [\n"sms"]\n'
    assert line_of(text, ["retry", "base"]) == 6
    assert line_of(text, ["limits", "base"]) == 2
    assert line_of(text, ["categories", "x", "channels", "0"]) == 8
    assert line_of("retry.base = 1\n", ["retry", "base"]) == 1
    assert line_of("a = 1\n[[dispatcher]]\nx = 1\n", ["dispatcher"]) == 2
    assert line_of("[dispacher.x]\n", ["dispacher"]) == 1
    assert line_of('[x]\r\n# a "comment" = 1\r\na = [ # one\r\n1 ]\r\nb = "\u2028"\r\nc = 1\r\n', ["x", "c"]) == 6
    assert line_of(text, ["bounds", "users"]) is None


# --- categories and rules -----------------------------------------------------------------------------------------

TWO = '[[rules]]\nname = "a"\npriority = "low"\n\n[[rules]]\nname = "b"\npriority = "low"\n'


def test_a_category_takes_from_another_what_it_does_not_set(written: Path) -> None:
    text = """
        [categories.news]
        extends = "promo"
        override_preferences = false
        [categories.promo]
        extends = "security"
        priority = "low"
        content_key = "{title}"
        [categories.security]
        channels = ["email"]
        unsubscribable = true
    """
    found = loaded(text, written).categories
    promo = Category(("email",), priority="low", unsubscribable=True, content_key="{title}", extends="security")
    assert found["promo"] == promo
    assert found["news"] == msgspec.structs.replace(promo, extends="promo")
    default = loaded('[categories.ads]\nextends = "marketing"\n', written).categories["ads"]
    assert default == msgspec.structs.replace(DEFAULT_CATEGORIES["marketing"], extends="marketing")


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ('[categories.a]\nextends = "marketng"\n', 2, "categories.a.extends", "did you mean marketing?"),
        ('[categories.a]\nextends = "a"\n', 2, "categories.a.extends", "in a circle: a -> a"),
        (
            '[categories.c]\nextends = "a"\n[categories.a]\nextends = "b"\n[categories.b]\nextends = "a"\n',
            6, "categories.b.extends", "in a circle: a -> b -> a",
        ),
        ('[categories.a]\nextends = "system"\ncontent_key = "{x}"\n', 3, "categories.a.content_key", "unknown name"),
        ('[categories.a]\nextends = 3\n', 2, "categories.a.extends", "Expected `str`"),
        (TWO + 'when = "titel == 1"\n', 8, "rules.1.when", "unknown variable 'titel'; did you mean title?"),
        (TWO + 'when = """\ntitle ==\n"""\n', 8, "rules.1.when", "not CEL: line 2, column 1"),
        (TWO + "channels = ['emial']\n", 8, "rules.1.channels", "did you mean email?"),
        (TWO + "channels = []\n", 8, "rules.1.channels", "at least one channel"),
        (TWO + "categories = ['sytem']\n", 8, "rules.1.categories", "did you mean system?"),
        (TWO + "categories = []\n", 8, "rules.1.categories", "leave it out"),
        (TWO + "wehn = 'true'\n", 8, "rules.1.wehn", "did you mean when?"),
        (TWO + "line = 8\n", 8, "rules.1.line", "unknown key 'line'"),
        (TWO.replace('"b"', '"a"'), 6, "rules.1.name", "the name of a rule above"),
        (TWO.replace('name = "b"\n', ""), 5, "rules.1", "name is missing"),
        ('[[rules]]\nname = "a"\nwhen = "true"\n', 1, "rules.0", "it decides nothing"),
        ('[[rules]]\nname = "a"\npriority = "urgent"\n', 3, "rules.0.priority", "is not one of low, normal"),
        ('rules = [{name = "a", priority = "low"}, {name = "b", priority = "x"}]\n', 1, "rules.1.priority", "not one"),
        ("rules = 3\n", 1, "rules", "Expected `array`"),
    ],
)  # fmt: skip
def test_categories_and_rules_that_are_wrong(text: str, line: int, key: str, says: str, written: Path) -> None:
    problem = refusal(text, written)
    assert problem.startswith(f"{written}, line {line}: {key}: ")
    assert says in problem
    assert "\n" not in problem


def test_rules_are_bounded(written: Path) -> None:
    text = "".join(f'[[rules]]\nname = "{number}"\npriority = "low"\n' for number in range(1_001))
    assert "rules: there are 1001; at most 1000" in refusal(text, written)


def test_rules_know_their_lines(written: Path) -> None:
    assert [(rule.name, rule.line) for rule in loaded(TWO, written).rules] == [("a", 2), ("b", 6)]  # type: ignore[attr-defined]


TWILIO = f'account_sid = "AC{32 * "0"}"\nauth_token = "hunter2"\nfrom_number = "+33612345678"'
SECRETS_OF_CHAT = '[channels.chat]\nprovider = "apprise"\n'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[channels.email]\nhost = "h"\nsender = "a@b.c"\nusername = "a"\npassword = "hunter2"', "email.password"),
        (f'{SECRETS_OF_CHAT}urls = ["file:/none", "slack://A/B/C"]', "chat.urls"),
        (f'{SECRETS_OF_CHAT}[channels.chat.categories]\nnews = ["slack://A/B/C"]', "chat.categories.news"),
        ('[channels.webhook.headers]\nAuthorization = "Bearer hunter2"', "webhook.headers.Authorization"),
        (f'[[channels.sms.providers]]\nprovider = "twilio"\n{TWILIO}', "sms.providers.0.auth_token"),
    ],
)
def test_a_secret_in_a_file_that_others_can_read_is_refused(tmp_path: Path, text: str, key: str) -> None:
    path = tmp_path / "dispatcher.toml"
    path.write_text(text)
    path.chmod(0o640)
    with pytest.raises(SettingsError, match=rf"channels\.{key}: a secret stands in a file that others can read"):
        load(path, {}, {})
    path.chmod(0o600)
    path.write_text(text.replace("file:/none", "slack://D/E/F"))
    load(path, {}, {})
