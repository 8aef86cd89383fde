"""A mail server's password is rotated under load: the reload brings the new one, and every mail arrives, once."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.support.mail_server import MailServer
from tests.support.service import RunningDispatcher, wait_until

COUNT = 50
ROTATED_AT = 5  # mails
PATIENCE_S = 120.0
CONFIG = """
[channels.email]
host = "127.0.0.1"
port = {port}
ca_file = "{ca}"
sender = "no-reply@shop.example"
username = "shop"
password = "file:{password}"
mails_per_connection = 1
"""


@pytest.mark.parametrize("reloaded", ["at once", "when it is paused"])
def test_mails_under_way_at_a_rotation_all_arrive(tmp_path: Path, reloaded: str) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca, password = tmp_path / "ca.pem", tmp_path / "password"
    authority.cert_pem.write_to_path(ca)
    password.touch(mode=0o600)
    password.write_text("old")
    logins = {"shop": "old"}
    asked: list[str] = []

    def rotate(recipient: str) -> None:
        asked.append(recipient)
        if len(asked) == ROTATED_AT:
            logins["shop"] = "new"

    with MailServer(context, logins=logins, answer=rotate) as server:
        with RunningDispatcher(CONFIG.format(port=server.port, ca=ca, password=password)) as dispatcher:
            for user in range(COUNT):
                address = {"email": f"user-{user}@example.org"}
                dispatcher.request("user.put", user_id=f"user-{user}", user={"contacts": address})
            users = (f"user-{user}" for user in range(COUNT))
            dispatcher.client.submit(*({"user_id": user, "title": "Hello", "channels": ["email"]} for user in users))
            wait_until(lambda: logins["shop"] == "new", PATIENCE_S, "the password is another")
            if reloaded == "when it is paused":
                wait_until(lambda: dispatcher.request("stats")["channels"]["email"]["paused"], PATIENCE_S, "it pauses")
            password.write_text("new")
            dispatcher.request("config.reload")
            stats = dispatcher.settled_stats(PATIENCE_S)
        assert stats["outcomes"]["delivered"] == COUNT
        assert {str(mail["To"]) for mail in server.mails} == {f"user-{user}@example.org" for user in range(COUNT)}
        assert len(server.mails) == COUNT, "none came twice"
