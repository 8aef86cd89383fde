"""A worker of an attached channel, written from docs/protocol.md alone."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from tests.support.client import SubmitClient
from tests.support.service import wait_until

Delivery = dict[str, Any]


class Worker:
    """One DEALER. ``attach`` makes one call; results are given with ``results`` of the next one."""

    def __init__(self, endpoint: str, channel: str, name: str, timeout_s: float = 60.0) -> None:
        self.client = SubmitClient(endpoint, timeout_s)
        self.channel = channel
        self.name = name

    def attach(self, limit: int = 0, wait_ms: int = 0, results: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        return self.client.request(
            "channel.attach",
            channel=self.channel,
            worker=self.name,
            limit=limit,
            wait_ms=wait_ms,
            **({} if results is None else {"results": results}),
        )

    def take(self, count: int = 1) -> list[Delivery]:
        """So many deliveries, with as many calls as it takes."""
        taken: list[Delivery] = []

        def enough() -> bool:
            if missing := count - len(taken):
                taken.extend(self.attach(missing, 1_000)["deliveries"])
            return len(taken) == count

        wait_until(enough, 60.0, f"{count} deliveries")
        return taken

    def settle(self, deliveries: list[Delivery], **result: Any) -> None:
        """The same result of each."""
        answer = self.attach(results=[{"token": one["token"], **result} for one in deliveries])
        assert answer["rejected"] == []

    def detach(self) -> bool:
        return bool(self.client.request("channel.detach", channel=self.channel, worker=self.name)["detached"])

    def close(self) -> None:
        """Without a word."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
