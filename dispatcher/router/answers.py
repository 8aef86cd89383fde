"""What clients are answered on ``submit``."""

from __future__ import annotations

from typing import Any

import zmq

from shards import logs
from shards.wire.encoding import encode_answer
from shards.wire.errors import Error

log = logs.logger()


class Answers:
    """Each goes to the ``envelope`` that its request came in, in the encoding of the request."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def give(self, envelope: list[bytes], as_json: bool, seq: int | str | None, result: dict[str, Any] | Error) -> bool:
        """Whether it was sent: else the client is gone, or reads nothing."""
        answer: dict[str, Any] = {"ok": False, "error": result} if isinstance(result, Error) else {"ok": True, **result}
        if seq is not None:
            answer["seq"] = seq
        return self.send(envelope, as_json, answer)

    def send(self, envelope: list[bytes], as_json: bool, answer: dict[str, Any]) -> bool:
        """As ``give``; the document is whole."""
        try:
            body = encode_answer(answer, as_json)
        except TypeError as problem:  # orjson's; a bug, but not one that is to bring everybody's router down
            log.error("an answer cannot be encoded", error=str(problem))
            seq = {"seq": answer["seq"]} if "seq" in answer else {}
            refusal = Error("internal", "the answer cannot be encoded")
            body = encode_answer({"ok": False, "error": refusal, **seq}, as_json)
        try:
            self._socket.send_multipart([*envelope, body], zmq.DONTWAIT)
        except zmq.ZMQError:
            return False  # the work is done, and it may ask again
        return True
