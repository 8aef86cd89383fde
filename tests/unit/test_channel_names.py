"""The channels that the package promises by name: each is there, and is one by the protocol."""

from __future__ import annotations

import inspect

import pytest

import dispatcher
from shards.channels.registry import METHODS, PROVIDERS, find

PROMISED = {
    "EmailChannel": "email",
    "InAppChannel": "inapp",
    "PushChannel": "push",
    "SmsChannel": "sms",
    "SystemChannel": "system",
    "WebhookChannel": "webhook",
}


@pytest.mark.parametrize(("kind", "name"), PROMISED.items())
def test_each_is_one_by_the_protocol(kind: str, name: str) -> None:
    channel = getattr(dispatcher, kind)
    assert channel.name == name
    for method, given in METHODS.items():
        inspect.signature(getattr(channel, method)).bind("self", given)
    assert inspect.iscoroutinefunction(channel.send)
    assert not inspect.iscoroutinefunction(channel.supports_recipient)
    assert set(METHODS) | {"name"} == {name for name in vars(dispatcher.NotificationChannel) if name[0] != "_"}


def test_those_that_work_by_themselves_are_what_the_configuration_names() -> None:
    by_name = {getattr(dispatcher, kind) for kind in PROMISED if kind != "InAppChannel"}
    assert by_name < {find(provider) for provider in PROVIDERS}
