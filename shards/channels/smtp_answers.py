"""What a mail server's refusal means, and how it is told."""

from __future__ import annotations

import re

from shards.answers import Answers
from shards.channels.base import SendError
from shards.channels.smtp_conversation import Reply

ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")  # RFC 3463
ABOUT_MAIL = ("MAIL", "RCPT", "DATA")
ABOUT_RECIPIENT = ("RCPT", "DATA")
MESSAGE_LENGTH_MAX = 300


def refusal(answers: Answers, server: str, command: str, reply: Reply, contact: str = "") -> SendError:
    """The error that a refused command is; ``contact`` is the recipient as the user's document has it.

    It is looked up by the reply code, with the enhanced status code as detail; without one, with the command.
    """
    enhanced = ENHANCED.match(reply.text)
    error_class = answers.error_class("smtp", reply.code, enhanced[0] if enhanced else command)
    if (error_class == "bad_address" and command not in ABOUT_RECIPIENT) or (
        error_class == "permanent" and command not in ABOUT_MAIL
    ):
        error_class = "misconfigured"  # it is our sender or we that it will not have, with any mail
    bad = [contact] if error_class == "bad_address" else []
    return SendError(error_class, worded(f"{server} answered {command} with {reply.code} {reply.text}"), bad=bad)


def worded(text: str) -> str:
    """A service's words as a message may have them: one line, bounded."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:MESSAGE_LENGTH_MAX])
