"""A channel for pagers that are called over HTTP: an example of a plug-in, in one file.

The user's document has the number of their pager: {"contacts": {"other": {"pager": "4711"}}}
"""

from __future__ import annotations

import httpx
import msgspec

from dispatcher import Context, Delivery, Recipient, Secret, SendError, Sent

TEXT_MAX = 80  # characters that a pager can show


class PagerChannel:
    name = "pager"

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """What stands in [channels.pager]. Wrong values and unknown keys are refused at start, with the key's name."""

        url: str
        token: Secret  # in the file: env:NAME, file:PATH, or itself

        def __post_init__(self) -> None:
            if not self.url.startswith(("http://", "https://")):
                raise ValueError(f"url is {self.url!r}; it is to be like https://pagers.example.org/call")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._url = settings.url
        self._answers = context.answers
        self._client = httpx.AsyncClient(
            timeout=context.timeout_s,
            limits=httpx.Limits(max_connections=context.concurrency),
            headers={"Authorization": f"Bearer {settings.token.reveal()}"},
            trust_env=False,
        )

    def supports_recipient(self, recipient: Recipient) -> bool:
        return "pager" in recipient.contacts.other

    async def send(self, delivery: Delivery) -> Sent:
        call = {
            "id": delivery.id,  # the same at each attempt, so that the service can tell a repetition
            "pager": delivery.recipient.contacts.other["pager"],
            "text": (delivery.text or delivery.title)[:TEXT_MAX],
            "urgent": delivery.priority in {"high", "critical"},
        }
        try:
            answer = await self._client.post(self._url, json=call)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise SendError("transient", f"nothing was sent: {error}") from error
        except httpx.HTTPError as error:
            raise SendError("ambiguous", f"sent, but without an answer: {error!r}") from error
        if answer.is_success:
            return Sent(answer.text[:80])
        if answer.status_code == 404:
            raise SendError("bad_address", f"there is no pager {call['pager']}")
        # What else a status means is in the dispatcher's table of answers, which the operator may change.
        error_class = self._answers.error_class("http", answer.status_code)
        raise SendError(error_class, f"HTTP {answer.status_code}: {answer.text[:80]}")

    async def close(self) -> None:
        await self._client.aclose()
