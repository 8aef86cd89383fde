"""What a delivery becomes as a mail, and what never becomes one."""

from __future__ import annotations

import base64
import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP, default
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.channels.base import Recipient, SendError
from shards.channels.mail_message import Composer, Mail
from shards.channels.mail_settings import Settings
from shards.contacts import Contacts
from shards.hidden import Secret
from shards.options import read
from tests.support.deliveries import mail_to
from tests.support.service import ROOT

GUIDE = (ROOT / "docs" / "email.md").read_text()
SENDER = "Shop <no-reply@shop.example>"
UNSUBSCRIBE = "https://shop.example/u?user={user_id}&category={category}&id={delivery_id}&t={token}"


def composer(**settings: Any) -> Composer:
    return Composer(Settings(**{"host": "mail.test", "sender": SENDER, **settings}))


def parsed(mail: Mail) -> EmailMessage:
    """As a reader has it: with line feeds alone."""
    return message_from_bytes(mail.content.replace(b"\r\n", b"\n"), policy=default)


def refused(composer: Composer, **delivery: Any) -> SendError:
    with pytest.raises(SendError) as caught:
        composer.compose(mail_to(**delivery))
    return caught.value


def test_text_alone_has_the_headers_of_a_mail() -> None:
    mail = composer().compose(mail_to())
    assert mail.sender == "no-reply@shop.example"
    assert mail.recipient == "ada@example.org"
    found = parsed(mail)
    assert found["From"] == SENDER
    assert found["To"] == "ada@example.org"
    assert found["Subject"] == "Order 17 has shipped"
    assert found["Message-ID"] == "<d-1@shop.example>"
    assert found["Auto-Submitted"] == "auto-generated"
    assert parsedate_to_datetime(found["Date"]).tzinfo is not None
    assert found.get_content_type() == "text/plain"
    assert found.get_content() == "It comes tomorrow.\n"


def test_html_is_the_alternative_to_the_text() -> None:
    found = parsed(composer().compose(mail_to(html="<p>It <b>comes</b> tomorrow \N{PARTY POPPER}.</p>")))
    assert found.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in found.iter_parts()] == ["text/plain", "text/html"]
    html = found.get_body(("html",))
    assert html is not None
    assert html.get_content() == "<p>It <b>comes</b> tomorrow \N{PARTY POPPER}.</p>\n"


def test_html_without_text_stands_alone() -> None:
    assert parsed(composer().compose(mail_to(text="", html="<p>Hi</p>"))).get_content_type() == "text/html"


def test_the_message_id_is_the_same_at_every_attempt() -> None:
    one = composer(domain="ids.example")
    ids = {parsed(one.compose(mail_to(attempt=attempt)))["Message-ID"] for attempt in (1, 2)}
    assert ids == {"<d-1@ids.example>"}


def test_a_delivery_without_a_title_is_named_by_its_text() -> None:
    found = parsed(composer().compose(mail_to(title="", text="Your order\nhas shipped. " + "More. " * 50)))
    assert found["Subject"].strip().startswith("Your order has shipped. More.")
    assert len(found["Subject"].strip()) <= 78


@pytest.mark.parametrize("text", ["\u3054\u6ce8\u6587\u306e\u54c1" * 30, "https://shop.example/" + "x" * 2_000_000])
def test_a_text_without_spaces_names_a_mail_as_well(text: str) -> None:
    assert parsed(composer().compose(mail_to(title="", text=text)))["Subject"] == f"{text[:75]}..."


def test_what_no_subject_may_have_is_left_out_of_one_that_is_made() -> None:
    assert parsed(composer().compose(mail_to(title="", text="a\0b\x1bc\x85d")))["Subject"] == "a b c d"


@pytest.mark.parametrize(
    "subject",
    [
        "Gr\u00fc\u00dfe aus K\u00f6ln \N{PARTY POPPER}",
        "long " * 60 + "end",
        "=?utf-8?q?not_encoded?=, it only looks so",
        "x" * 500,
        "x" * 75 + " =?utf-8?q?a=0D=0ABcc:_eve?= \u00e9",
        "no\u00a0break, \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 =?utf-8?q?x?=",
        '"quotes", commas; <angles> and (braces)',
    ],
)
def test_a_subject_is_read_as_it_was_written(subject: str) -> None:
    mail = composer().compose(mail_to(title=subject))
    assert parsed(mail)["Subject"].strip() == subject
    assert mail.content.isascii()
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))


def test_what_is_quick_comes_out_as_what_is_slow() -> None:
    ours = composer(headers={"X-Shop": "Caf\u00e9 1"}).compose(mail_to(title="Gr\u00fc\u00dfe", html="<p>\u00e9</p>"))
    theirs = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    for name, value in parsed(ours).items():
        if not name.startswith(("Content", "MIME")):
            theirs[name] = value
    theirs.set_content("It comes tomorrow.")
    theirs.add_alternative("<p>\u00e9</p>", subtype="html")
    theirs.set_boundary(str(parsed(ours).get_boundary()))
    assert ours.content == theirs.as_bytes()


@pytest.mark.parametrize("text", ["a\r\nb\nc\rd", "\r\n", "a\r"])
def test_bare_line_ends_become_those_of_mail(text: str) -> None:
    content = composer().compose(mail_to(text=text, html=text)).content
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", content)


def test_a_body_with_control_characters_is_encoded() -> None:
    mail = composer().compose(mail_to(text="a\0b\x1bc"))
    assert not re.search(rb"[\x00\x1b]", mail.content)
    assert parsed(mail).get_content() == "a\0b\x1bc\n"


def test_a_part_that_holds_the_boundary_gets_another_one() -> None:
    one = composer()
    boundary = str(parsed(one.compose(mail_to(html="<p>1</p>"))).get_boundary())
    text = f"--{boundary}\nContent-Type: text/plain\n\nforged"
    found = parsed(one.compose(mail_to(text=text, html="<p>2</p>")))
    assert found.get_boundary() != boundary
    assert len(list(found.iter_parts())) == 2


@pytest.mark.parametrize("bad", ["a\r\nBcc: eve@example.org", "a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\x85b"])
def test_a_line_break_in_the_subject_is_permanent(bad: str) -> None:
    error = refused(composer(), title=bad)
    assert error.error_class == "permanent"
    assert "subject" in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.org\r\nRCPT TO:<eve@example.org>",
        "ada@example.org>\nBcc: eve@example.org",
        "ada eve@example.org",
        "<ada@example.org>",
        "ada",
        "@example.org",
        "ada@exa mple.org",
        "ada\0@example.org",
        "a@b@c@",
    ],
)
def test_what_is_no_address_is_a_bad_one(address: str) -> None:
    error = refused(composer(), address=address)
    assert error.error_class == "bad_address"
    assert error.bad == (address,)
    assert error.message.isprintable()


def test_a_domain_beyond_ascii_is_written_in_ascii() -> None:
    mail = composer().compose(mail_to("ada@m\u00fcnchen.example.org"))
    assert mail.recipient == "ada@xn--mnchen-3ya.example.org"
    assert not mail.utf8
    assert parsed(mail)["To"] == "ada@xn--mnchen-3ya.example.org"


def test_a_name_beyond_ascii_needs_smtputf8() -> None:
    mail = composer().compose(mail_to("\u00fcser@m\u00fcnchen.example.org"))
    assert mail.recipient == "\u00fcser@xn--mnchen-3ya.example.org"
    assert mail.utf8
    assert "To: \u00fcser@xn--mnchen-3ya.example.org\r\n".encode() in mail.content


def test_the_sender_has_a_name_and_replies_go_elsewhere() -> None:
    name = "Caf\u00e9, Shop n\u00b0\u00a01"
    one = composer(sender=f'"{name}" <no-reply@b\u00fccher.example>', reply_to="help@shop.example")
    mail = one.compose(mail_to())
    assert mail.sender == "no-reply@xn--bcher-kva.example"
    found = parsed(mail)
    assert found["From"].addresses[0].display_name == name
    assert found["From"].addresses[0].addr_spec == "no-reply@xn--bcher-kva.example"
    assert found["Reply-To"] == "help@shop.example"
    assert found["Message-ID"] == "<d-1@xn--bcher-kva.example>"


def test_headers_of_the_settings_are_in_each_mail() -> None:
    found = parsed(composer(headers={"X-Mailer": "shop", "Feedback-ID": "1:shop"}).compose(mail_to()))
    assert (found["X-Mailer"], found["Feedback-ID"]) == ("shop", "1:shop")


def test_an_encoded_word_smuggles_no_header_in() -> None:
    word = "=?utf-8?q?a=0D=0ABcc:_eve@example.org=0D=0A=0D=0Aforged?="
    assert parsed(composer().compose(mail_to(title=word)))["Bcc"] is None
    error = refused(composer(), **attached(filename=f"{word}.pdf"))
    assert error.error_class == "permanent"


# What goes wrong in headers: line breaks of all kinds, encoded words, quoting, length.
PIECES = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            ["\r\n", "\n", "=?utf-8?q?", "=0D=0ABcc:_eve", "?=", '"', "\\", "<", ">", ",", ";", " ", "\t", "\x85"]
        ),
        st.sampled_from(["=?utf-8?b?DQpCY2M6IGV2ZQ==?=", "=?us-ascii?q?=00?=", "x" * 80, "\u00e9" * 80, "\u2028"]),
    ),
    max_size=6,
).map("".join)


@given(title=PIECES, text=PIECES, html=st.none() | PIECES, filename=PIECES)
def test_whatever_is_said_the_headers_are_ours(title: str, text: str, html: str | None, filename: str) -> None:
    attachment = {"filename": filename, "content_type": "a/b", "content": b"x"}
    try:
        title.encode(), text.encode(), (html or "").encode(), filename.encode()
        mail = composer().compose(mail_to(title=title, text=text, html=html, payload={"attachments": [attachment]}))
    except (SendError, UnicodeEncodeError):  # lone surrogates are refused at submit
        return
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xff]", mail.content)
    assert all(len(line) <= 998 for line in mail.content.split(b"\r\n"))
    top, _, rest = mail.content.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0].decode() for line in top.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert names == [*("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")]
    for block in rest.split(b"\r\n--=_")[1:]:
        head = block.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        assert {line.partition(b":")[0].lower() for line in head if line[:1] not in (b" ", b"\t")} <= {
            *(b"content-type", b"content-transfer-encoding", b"content-disposition", b"mime-version", b"")
        }


# --- attachments -----------------------------------------------------------------------------------------------------


def attached(content: object = base64.b64encode(b"%PDF-1.7").decode(), **fields: object) -> dict[str, Any]:
    one = {"filename": "rechnung.pdf", "content_type": "application/pdf", "content": content, **fields}
    return {"payload": {"attachments": [one]}}


@pytest.mark.parametrize(
    "filename",
    [
        "invoice.pdf",
        "R\u00e9sum\u00e9 \N{PARTY POPPER}.pdf",
        'a "quoted" name.pdf',
        "Screenshot at 5.30\u202fPM.png",  # as macOS writes it
        "Facture n\u00b0\u00a017, \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.pdf",
    ],
)
@pytest.mark.parametrize("html", [None, "<p>Hi</p>"])
def test_attachments_follow_the_text(filename: str, html: str | None) -> None:
    found = parsed(composer().compose(mail_to(html=html, **attached(filename=filename))))
    body = found.get_body(("plain",))
    assert body is not None
    assert body.get_content() == "It comes tomorrow.\n"
    (attachment,) = found.iter_attachments()
    assert attachment.get_filename() == filename
    assert attachment.get_content_type() == "application/pdf"
    assert attachment.get_content() == b"%PDF-1.7"


def test_attachments_may_be_bytes_and_text() -> None:
    found = parsed(composer().compose(mail_to(**attached(b"a,b\n", filename="a.csv", content_type="text/csv"))))
    (attachment,) = found.iter_attachments()
    assert attachment.get_payload(decode=True) == b"a,b\n"


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({"attachments": {}}, "payload.attachments: Expected `array`"),
        ({"attachments": ["x"]}, "payload.attachments[0]: Expected `object`"),
        (attached(3)["payload"], "payload.attachments[0].content: Expected `bytes`"),
        (attached("%%%")["payload"], "payload.attachments[0].content: Invalid base64"),
        (attached(filename="a\r\nb")["payload"], "payload.attachments[0]: its filename"),
        (attached(filename="")["payload"], "payload.attachments[0]: its filename"),
        (attached(content_type="pdf")["payload"], "payload.attachments[0]: its content_type is 'pdf'"),
        (attached(content_type="multipart/mixed")["payload"], "payload.attachments[0]: its content_type"),
        (attached(content_type="text/plain\r\nX: y")["payload"], "payload.attachments[0]: its content_type"),
        (attached(name="x")["payload"], "payload.attachments[0]: Object contains unknown field `name`"),
        (attached(base64.b64encode(bytes(101)).decode())["payload"], "at most 100 with 100 bytes"),
    ],
)
def test_a_wrong_attachment_is_permanent_and_named(payload: dict[str, Any], told: str) -> None:
    error = refused(composer(attachment_bytes=100), payload=payload)
    assert error.error_class == "permanent"
    assert told in error.message
    assert error.message.isprintable()


# --- unsubscribing ---------------------------------------------------------------------------------------------------


def verify(secret: str, user_id: str, category: str, token: str) -> bool:
    """As docs/email.md tells readers to do it."""
    (code,) = re.findall(r"(?s)```python\n(.*?)```", GUIDE)
    found: dict[str, Any] = {}
    exec(code, found)
    return bool(found["is_ours"](secret, user_id, category, token))


def test_an_unsubscribable_mail_has_the_headers_for_one_click() -> None:
    one = composer(unsubscribe_url=UNSUBSCRIBE, unsubscribe_secret=Secret("hush"))
    user = Recipient("us/er &\u00e9", Contacts(email="ada@example.org"))
    found = parsed(one.compose(mail_to(recipient=user, unsubscribable=True)))
    assert found["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch(r"<(https://[!-~]+)>", found["List-Unsubscribe"])
    assert link is not None
    query = parse_qs(urlsplit(link[1]).query)
    assert query["user"] == ["us/er &\u00e9"]
    assert query["category"] == ["marketing"]
    assert query["id"] == ["d-1"]
    assert verify("hush", query["user"][0], query["category"][0], query["t"][0])
    assert not verify("mum", query["user"][0], query["category"][0], query["t"][0])
    assert not verify("hush", "another", query["category"][0], query["t"][0])
    assert not verify("hush", query["user"][0], "security", query["t"][0])


def test_a_long_link_stays_whole() -> None:
    one = composer(unsubscribe_url="https://shop.example/" + "x" * 400 + "?u={user_id}")
    content = one.compose(mail_to(unsubscribable=True)).content
    assert b"List-Unsubscribe: <https://shop.example/" + b"x" * 400 + b"?u=user-1>\r\n" in content


def test_a_link_that_fits_into_no_header_is_permanent() -> None:
    one = composer(unsubscribe_url="https://shop.example/" + "x" * 500 + "?u={user_id}")
    user = Recipient("\u00e9" * 128, Contacts(email="ada@example.org"))
    assert "unsubscribe_url" in refused(one, recipient=user, unsubscribable=True).message


@pytest.mark.parametrize(("url", "unsubscribable"), [(UNSUBSCRIBE, False), ("", True)])
def test_other_mails_have_no_link(url: str, unsubscribable: bool) -> None:
    one = composer(unsubscribe_url=url, unsubscribe_secret=Secret("hush") if url else None)
    assert parsed(one.compose(mail_to(unsubscribable=unsubscribable)))["List-Unsubscribe"] is None


def test_the_secret_is_not_in_the_link() -> None:
    one = composer(unsubscribe_url=UNSUBSCRIBE, unsubscribe_secret=Secret("hush"))
    assert "hush" not in unquote(one.compose(mail_to(unsubscribable=True)).content.decode())


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": ""}, "host is ''"),
        ({"host": "smtp.example.org:587"}, "port is a setting of its own"),
        ({"host": "::1"}, None),
        ({"host": "smtp://example.org"}, "host is"),
        ({"port": 65_536}, "port is 65536"),
        ({"sender": "Shop"}, "sender is 'Shop'"),
        ({"sender": "a@shop.example, b@shop.example"}, "sender is"),
        ({"sender": '"\u00e9=?utf-8?q?x?=" <a@shop.example>'}, "sender is"),
        ({"sender": '"'}, "sender is"),
        ({"sender": ".:"}, "sender is"),
        ({"sender": " .,"}, "sender is"),
        ({"sender": "\ud800 <a@shop.example>"}, "sender is"),
        ({"sender": "Shop <a@shop.example>\r\nBcc: e@x.org"}, "sender is"),
        ({"reply_to": "nobody"}, "reply_to is 'nobody'"),
        ({"tls": "ssl"}, "Invalid enum value 'ssl'"),
        ({"username": "ada"}, "password is missing"),
        ({"password": "hush"}, "username is missing"),
        ({"username": "ada", "password": "hush", "tls": "none"}, 'tls is "none" while there is a password'),
        ({"username": "ada", "password": "hush", "tls": "none", "host": "127.0.0.1"}, None),
        ({"ca_file": "/nowhere/ca.pem"}, "ca_file is '/nowhere/ca.pem', which has no certificates"),
        ({"headers": {"X-A": "a\r\nBcc: e@x.org"}}, "headers.X-A has a line break"),
        ({"headers": {"X-A": "\ud800"}}, "headers.X-A has a line break"),
        ({"headers": {"X A": "b"}}, "headers has 'X A'"),
        ({"headers": {"bcc": "e@x.org"}}, "headers has 'bcc'"),
        ({"headers": {"List-Unsubscribe": "x"}}, "headers has 'List-Unsubscribe'"),
        ({"connections": 0}, "connections is 0"),
        ({"mails_per_connection": 0}, "mails_per_connection is 0"),
        ({"attachment_bytes": -1}, "attachment_bytes is -1"),
        ({"domain": "shop example"}, "domain is"),
        ({"helo": "a\r\nb"}, "helo is"),
        ({"unsubscribe_secret": "hush"}, "unsubscribe_secret is given while"),
        ({"unsubscribe_url": "http://shop.example/{user_id}"}, "https://"),
        ({"unsubscribe_url": "https://shop.example/{token}"}, "unsubscribe_secret"),
        ({"unsubscribe_url": "https://shop.example/{user_id}", "unsubscribe_secret": "hush"}, "lacks {token}"),
        ({"unsubscribe_url": "https://shop.example/{usr}"}, "no placeholder {usr}"),
        ({"unsubscribe_url": "https://shop.example/a b"}, "%20"),
        ({"unsubscribe_url": "https://shop.example/{user_id}/" + "x" * 900}, "at most 900"),
        ({"unsubscribe_url": UNSUBSCRIBE, "unsubscribe_secret": "hush"}, None),
    ],
)
def test_settings_are_checked_before_anything_is_sent(options: dict[str, Any], told: str | None) -> None:
    class Provider:
        Settings = Settings

    given = {"host": "mail.test", "sender": SENDER, **options}
    if told is None:
        read(Provider, given)
        return
    with pytest.raises(msgspec.ValidationError, match=re.escape(told)) as caught:
        read(Provider, given)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("tls", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_follows_the_encryption(tls: Any, port: int) -> None:
    assert Settings(host="mail.test", sender=SENDER, tls=tls).port_used == port
    assert Settings(host="mail.test", sender=SENDER, tls=tls, port=2_525).port_used == 2_525


# --- docs/email.md ---------------------------------------------------------------------------------------------------


def test_the_guide_names_every_setting() -> None:
    for field in msgspec.structs.fields(Settings):
        assert f"`{field.name}`" in GUIDE
