"""Templates: which parts are taken, what is written, and what is said where something is wrong."""

from __future__ import annotations

import functools
import html
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.template_parts import LAYOUTS, locale_chain
from shards.templates import TemplateEngine, TemplateError, UnknownTemplateError, variables_of
from shards.wire.notification import Notification

LAYOUT = "{% block content %}{% endblock %}{% macro button(label) %}<a>{{ label }}</a>{% endmacro %}"


def rendered(source: str, key: str = "text", layouts: Mapping[str, str] | None = None, **variables: Any) -> str:
    """One part of the template ``t``."""
    engine = made(source, key, tuple((layouts or {"mail.html": LAYOUT}).items()))
    (text,) = engine.render("t", "email", "fr", variables).values()
    return text


@functools.cache
def made(source: str, key: str, layouts: tuple[tuple[str, str], ...]) -> TemplateEngine:
    """As a shard does, which renders a template many times."""
    return TemplateEngine({"t": {key: source}, LAYOUTS: dict(layouts)})


def problems(**templates: dict[str, str]) -> list[str]:
    return [str(error) for error in TemplateEngine(templates).problems()]


# --- which part is taken ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "chain"),
    [
        (None, [""]),
        ("", [""]),
        ("fr", ["fr", ""]),
        ("fr-CA", ["fr-ca", "fr", ""]),
        ("fr_CA", ["fr-ca", "fr", ""]),
        ("zh-Hant-TW", ["zh-hant-tw", "zh-hant", "zh", ""]),
        ("-", [""]),
        ("a-" * 10_000, ["a-a-a-a-a", "a-a-a-a", "a-a-a", "a-a", "a", ""]),
    ],
)
def test_a_locale_is_a_chain(locale: str | None, chain: list[str]) -> None:
    assert locale_chain(locale) == chain


PARTS = ("fr-CA/email.subject", "fr-CA/title", "fr/email.subject", "fr/title", "email.subject", "title")


@pytest.mark.parametrize("at", range(len(PARTS)))
def test_the_language_counts_before_the_channel(at: int) -> None:
    engine = TemplateEngine({"t": {key: key for key in PARTS[at:]}})
    assert engine.render("t", "email", "fr-CA", {}) == {"subject": PARTS[at]}


def test_the_default_is_for_whom_there_is_nothing_else() -> None:
    engine = TemplateEngine({"t": {key: key for key in PARTS}})
    assert (
        engine.render("t", "email", "de", {}) == engine.render("t", "email", None, {}) == {"subject": "email.subject"}
    )


@pytest.mark.parametrize(
    ("channel", "parts"),
    [
        ("email", {"subject": "title", "text": "text", "html": "html"}),
        ("sms", {"text": "sms.text"}),
        ("push", {"title": "title", "body": "text"}),
        ("inapp", {"title": "title", "body": "inapp.body"}),
        ("webhook", {}),
        ("system", {"title": "title", "body": "text"}),
        ("chat", {"title": "title", "text": "text", "html": "html", "color": "chat.color"}),
        ("pager", {"title": "title", "text": "text", "html": "html"}),
    ],
)
def test_each_channel_has_its_parts_or_the_defaults(channel: str, parts: dict[str, str]) -> None:
    keys = ("title", "text", "html", "sms.text", "inapp.body", "chat.color")
    engine = TemplateEngine({"t": {key: key for key in keys}})
    assert engine.render("t", channel, None, {}) == engine.keys("t", channel, None) == parts


def test_a_webhook_has_only_its_own_body() -> None:
    """The default would replace the document that its receiver expects."""
    assert TemplateEngine({"t": {"text": "x", "webhook.body": "y"}}).render("t", "webhook", None, {}) == {"body": "y"}


def test_a_channel_without_parts_gets_none() -> None:
    assert TemplateEngine({"t": {"email.subject": "s"}}).render("t", "sms", None, {}) == {}


def test_any_number_of_locales_takes_no_memory() -> None:
    engine = TemplateEngine({"t": {"text": "x"}})
    for number in range(3_000):
        engine.keys("t", "sms", f"x{number}")
    assert len(engine._templates["t"]._plans) <= 1_000


def test_an_unknown_template_names_the_nearest() -> None:
    engine = TemplateEngine({"welcome": {"text": "x"}, LAYOUTS: {"mail.html": LAYOUT}})
    with pytest.raises(UnknownTemplateError, match="did you mean welcome"):
        engine.render("welcom", "sms", None, {})
    assert LAYOUTS not in engine


# --- what is written ----------------------------------------------------------------------------------------------


def test_what_a_template_can_write() -> None:
    said = Notification(category="transaction", title="T", payload={"order": 17, "title": "P"}, metadata={"a": "b"})
    source = "{{ order }} {{ title }} {{ payload.title }} {{ body }}|{{ user_id }} {{ category }} {{ type }} "
    source += "{{ priority }} {{ locale }} {{ metadata.a }}"
    assert rendered(source, **variables_of(said, "ada", "high", "fr")) == "17 T P |ada transaction info high fr b"


def test_a_digest_is_looped_over() -> None:
    source = "{{ count }}:\n{% for item in items %}\n- {{ item.title }}\n{% endfor %}\n"
    assert rendered(source, count=2, items=[{"title": "a"}, {"title": "b"}]) == "2:\n- a\n- b\n"


def test_a_key_of_the_payload_comes_before_a_method() -> None:
    assert rendered("{{ order.items }}", order={"items": 3}) == "3"
    assert rendered("{% for name, n in order.items() %}{{ name }}{{ n }}{% endfor %}", order={"a": 1}) == "a1"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ none }}", ""),
        ("{{ '%.2f' % 1.005 }} {{ '{:,.2f}'.format(1234.5) }} {{ '%05d'|format(42) }}", "1.00 1,234.50 00042"),
        ("{{ ['a', 'b']|join(', ') }} {{ 'a,b'.split(',')|length }} {{ 'x'.rjust(3) }}", "a, b 2   x"),
        ("{{ {'a': [1]}|tojson }} {{ 'a' ~ 1 ~ none }}", '{"a": [1]} a1None'),
        ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
        ("{% macro m(n) %}{{ n }}{% if n %} {{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "3 2 1 0"),
        ("{{ [3, 1, 2]|sort|map('string')|join }} {{ 'abc'[1:] }} {{ missing|default('-') }}", "123 bc -"),
        ("{% for a in [1, 2, 3] if a != 2 %}{{ loop.index }}/{{ loop.length }}:{{ a }} {% endfor %}", "1/2:1 2/2:3 "),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}{{ 2 ** 10 }}{{ 'ab' * 2 }}", "A11024abab"),
        ("{{ missing|default(20000) }} {{ [{'p': 1}, {'p': 9}]|rejectattr('p', 'gt', 50000)|list|length }}", "20000 2"),
        ("{{ 3 in [1, 3] }} {{ 1 < 2 < 3 }} {{ 7 // 2 }} {{ -1.5 + 2 }} {{ 'b' is in 'abc' }}", "True True 3 0.5 True"),
        ("{% call(n) twice() %}{{ n }}{% endcall %}{% macro unused() %}{% endmacro %}", "12"),
        ("{% for n in [1, 2] %}{{ n }}{{ ', ' if not loop.last }}{% endfor %}", "1, 2"),
    ],
)  # fmt: skip
def test_what_people_write(source: str, text: str) -> None:
    twice = "{% macro twice() %}{{ caller(1) }}{{ caller(2) }}{% endmacro %}"
    assert rendered(twice + source) == text


def test_a_subject_is_one_line() -> None:
    engine = TemplateEngine({"t": {"title": "  Hello\n {{ name }}\n\n", "text": "a\nb\n"}})
    parts = engine.render("t", "email", None, {"name": "Ada\r\nBcc: eve@example.com\x85x\u2028y"})
    assert parts == {"subject": "Hello Ada Bcc: eve@example.com x y", "text": "a\nb"}


# --- escaping -----------------------------------------------------------------------------------------------------

ESCAPED = (
    "{{ x }}",
    "{% for one in [x] %}{{ one }}{% endfor %}",
    "{% set y = x %}{{ y }}",
    "{% set y %}{{ x }}{% endset %}{{ y }}",
    "{% macro m(y) %}{{ y }}{% endmacro %}{{ m(x) }}",
    "{{ '%s' % x }}",
    "{{ '{}'.format(x) }}",
    "{{ x|trim('') }}",
    "{{ x ~ '' }}",
    "{{ [x]|join('<b>') }}",
    "{{ '%s'|format(x) }}",
    "{{ x if x else x }}",
    "{% filter trim('') %}{{ x }}{% endfilter %}",
    "{% with y = x %}{{ y }}{% endwith %}",
    "{{ {'a': x}.a }}",
    "{% import 'layouts/mail.html' as mail %}{{ mail.button(x) }}",
    "{% from 'layouts/mail.html' import button %}{{ button(x) }}",
    "{% include 'layouts/x.html' %}",
    "{% extends 'layouts/x.html' %}{% block more %}{{ x }}{% endblock %}",
    "{% extends 'layouts/x.html' %}{% block more %}{{ super() }}{{ self.head() }}{% endblock %}",
)


@pytest.mark.parametrize("source", ESCAPED)
@given(text=st.text(st.sampled_from("<>&'\" ab;{}%é\U0001f600"), max_size=12))
def test_html_is_escaped_whatever_way_it_goes(source: str, text: str) -> None:
    layouts = {"mail.html": LAYOUT, "x.html": "{% block head %}{{ x }}{% endblock %}{% block more %}{% endblock %}"}
    written = rendered(source, "email.html", layouts, x=text)
    plain = written.replace("<a>", "").replace("</a>", "")
    assert not set(plain) & set("<>'\"")
    assert html.unescape(plain) in (text, text * 2)


@pytest.mark.parametrize("key", ["text", "email.text", "title", "fr/text"])
@given(text=st.text(st.sampled_from("<>&'\" a"), min_size=1, max_size=5).map(lambda text: f"a{text}b"))
def test_what_is_no_html_is_not_escaped(key: str, text: str) -> None:
    assert rendered("{{ x }}", key, x=text) == text


@pytest.mark.parametrize(
    "tag",
    ["{{% include '{}' %}}", "{{% extends '{}' %}}", "{{% import '{}' as m %}}", "{{% from '{}' import m %}}"],
)
def test_html_takes_no_layout_that_is_not_escaped(tag: str) -> None:
    layouts = {"a.txt": "{% macro m(x) %}{{ x }}{% endmacro %}", "a.html": "x"}
    (found,) = problems(t={"html": "\n" + tag.format("layouts/a.txt")}, layouts=layouts)
    assert found == "template 't', html, line 2: layouts/a.txt is no HTML, other than t/html; use a layout of its kind"
    with pytest.raises(TemplateError, match="use a layout of its kind"):
        rendered("{% include name %}", "html", layouts, name="layouts/a.txt")
    assert "is in HTML" in problems(t={"text": tag.format("layouts/a.html")}, layouts=layouts)[0]


@pytest.mark.parametrize("name", ["t/html", "t/text", "layouts/none.html", "../layouts/mail.html", "mail.html", ""])
def test_only_layouts_are_used(name: str) -> None:
    with pytest.raises(TemplateError, match="unknown layout"):
        rendered("{% include name %}", "html", name=name)
    assert "unknown layout" in problems(t={"html": f"{{% include '{name}' %}}"}, layouts={"mail.html": ""})[0]


# --- what is wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("a\n{{ missing }}", 2, "'missing' is undefined"),
        ("{{ x.missing }}", 1, "'dict object' has no attribute 'missing'"),
        ("\n\n{{ 1 / 0 }}", 3, "ZeroDivisionError: division by zero"),
        ("{{ x.get }}", 1, "cannot be written; is it to be called, or looped over?"),
        ("{{ x.__class__ }}", 1, "unsafe"),
        ("{{ ''.encode() }}", 1, "not to be had"),
        ("{{ '{0.__class__}'.format(x) }}", 1, "unsafe"),
        ("{{ x() }}", 1, "not callable"),
        ("{{ 'x' * 300000 }}", None, "it has more than 262144 bytes, rendered"),
        ("{{ 'é' * 150000 }}", None, "it has more than 262144 bytes, rendered"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", 1, "it goes round in a circle"),
    ],
)
def test_a_failure_names_template_part_line_and_reason(source: str, line: int | None, reason: str) -> None:
    with pytest.raises(TemplateError) as caught:
        rendered(source, "email.text", x={})
    error = caught.value
    assert (error.template, error.part, error.line) == ("t", "email.text", line)
    assert reason in error.reason
    assert str(error) == f"template 't', email.text{f', line {line}' if line else ''}: {error.reason}"


def test_a_failure_in_a_layout_says_where_in_the_layout() -> None:
    with pytest.raises(TemplateError) as caught:
        rendered("{% extends 'layouts/a.html' %}", "html", {"a.html": "\n{{ missing }}"})
    assert (caught.value.part, caught.value.line) == ("html (layouts/a.html)", 2)


@pytest.mark.parametrize(
    ("key", "source", "says"),
    [
        ("text", "\n{% if %}", ", line 2: Expected an expression"),
        ("text", "{{ x|nope }}", ", line 1: No filter named 'nope'"),
        ("text", "{{ x|pprint }}", "No filter named 'pprint'"),
        ("text", "{% extends 'layouts/none' %}", ", line 1: unknown layout 'layouts/none'; known: none"),
        ("text", "{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}", "nested too deeply"),
        ("text", "x" * 262_145, "it has 262145 bytes; at most 262144"),
        ("subject", "", "of every channel there are title, text, html; name its channel, as in push.subject, or"),
        ("email", "", "name its channel"),
        ("fr/email.html/x", "", "the name of a part is like"),
        ("../text", "", "the name of a part is like"),
        ("", "", "the name of a part is like"),
        ("de_AT/sms.text", "", "did you mean de-AT/sms.text?"),
    ],
)  # fmt: skip
def test_problems_are_found_before_it_is_used(key: str, source: str, says: str) -> None:
    (found,) = problems(t={key: source})
    assert says in found


@pytest.mark.parametrize("name", ["", ".", "../x", "a/b", "x" * 101, "é", "a\n"])
def test_names_are_file_names(name: str) -> None:
    assert "a name has 1 to 100 letters" in problems(**{name: {"text": "x"}})[0]


def test_all_problems_are_told() -> None:
    found = problems(a={"text": "{{", "html": "{% x %}"}, b={}, c={"text": "fine"})
    assert [line.split(":")[0] for line in found] == [
        "template 'a', text, line 1",
        "template 'a', html, line 1",
        "template 'b'",
    ]


def test_threads_may_share_an_engine() -> None:
    """What one takes is not counted for the other."""
    engine = TemplateEngine({"t": {"text": "{% for i in range(20000) %}{{ i }}{% endfor %}"}})
    texts: list[str] = []
    threads = [
        threading.Thread(target=lambda: texts.append(engine.render("t", "sms", None, {})["text"])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["".join(map(str, range(20_000)))] * 4
