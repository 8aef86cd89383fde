"""What does it cost to render a template? Beside ``str.format`` of the same texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.report import Figure, medians, options, result, seconds, show
from shards.templates import TemplateEngine, variables_of
from shards.wire.notification import Notification

ITEM = "<li>{{ item.title }}</li>"
TEMPLATES = {
    "layouts": {"mail.html": '<html lang="{{ locale }}"><body>{% block content %}{% endblock %}</body></html>'},
    "order": {
        "title": "Order {{ order }} shipped",
        "text": "Dear {{ name }}, order {{ order }} is on its way to {{ address.city }}.",
        "email.html": "{% extends 'layouts/mail.html' %}{% block content %}"
        "<p>Dear {{ name }}, order {{ order }} is on its way to {{ address.city }}.</p>{% endblock %}",
    },
    "digest": {"html": f"<ul>{{% for item in items %}}{ITEM}{{% endfor %}}</ul>"},
}
BARE = (
    "Order {order} shipped",
    "Dear {name}, order {order} is on its way to {city}.",
    '<html lang="{locale}"><body><p>Dear {name}, order {order} is on its way to {city}.</p></body></html>',
)
ORDER = Notification(payload={"order": 17, "name": "Ada Lovelace", "address": {"city": "London"}})
DIGEST = Notification(payload={"items": [{"title": f"Item {number}"} for number in range(20)], "count": 20})


def run(rounds: int = 5, items: int = 5_000) -> dict[str, Any]:
    engine = TemplateEngine(TEMPLATES)

    def render(name: str, channel: str, said: Notification) -> Callable[[], float]:
        return lambda: _us(
            items, lambda: engine.render(name, channel, "fr-CA", variables_of(said, "ada", "high", "fr-CA"))
        )

    def bare(*texts: str) -> Callable[[], float]:
        given = {**(ORDER.payload or {}), "locale": "fr-CA", "city": "London"}
        return lambda: _us(items, lambda: [text.format(**given) for text in texts])

    def bare_digest() -> float:
        said = (DIGEST.payload or {})["items"]
        return _us(items, lambda: "<ul>" + "".join("<li>{title}</li>".format(**item) for item in said) + "</ul>")

    sms, push, email, digest, bare_sms, bare_push, bare_email, digest_floor = medians(
        rounds,
        render("order", "sms", ORDER),
        render("order", "push", ORDER),
        render("order", "email", ORDER),
        render("digest", "email", DIGEST),
        bare(BARE[1]),
        bare(*BARE[:2]),
        bare(*BARE),
        bare_digest,
    )
    return result(
        "templates",
        rounds,
        [
            Figure("sms: one part", sms, bare_sms, "us"),
            Figure("push: two parts", push, bare_push, "us"),
            Figure("email: three parts, one in a layout", email, bare_email, "us"),
            Figure("a digest of 20 items in HTML", digest, digest_floor, "us"),
        ],
        items=items,
    )


def _us(items: int, work: Callable[[], object]) -> float:
    def all_of_them() -> None:
        for _ in range(items):
            work()

    return seconds(all_of_them) / items * 1e6


def main() -> None:
    chosen = options("bench.templates", __doc__, 5, items=5_000)
    show(run(chosen.rounds, chosen.items), chosen.json)


if __name__ == "__main__":
    main()
