"""What Apprise may take to send one message: by itself it bounds neither all its requests together nor their answers.

Its services call ``requests.post`` and the like, each of which makes a session of its own.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any

import requests
import urllib3

ANSWER_BYTES = 2**20  # decompressed; a list that a service looks a name up in may be long
READ_BYTES = 65_536

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class LateError(Exception):
    """There is no time for another request. As it is none of requests' own, a service gives up its other targets."""


class BoundedSession(requests.Session):
    """Waits for nothing after the deadline of its thread, and reads only the start of an answer."""

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        deadline = _deadline.get()
        if deadline is None:  # of a plug-in, in a thread of its own
            return super().send(request, **options)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise LateError("there was no time for all of it; name fewer targets in a URL")
        response = super().send(request, **{**options, "stream": True, "timeout": left_s})
        content = b""
        try:
            while len(content) < ANSWER_BYTES and (more := response.raw.read1(READ_BYTES, decode_content=True)):
                content += more
                if time.monotonic() > deadline:
                    raise requests.ReadTimeout("the answer does not end", request=request)
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        finally:
            response.close()
        response._content = content
        return response


def end_by(deadline: float) -> None:
    """From now on the requests of this thread are bounded; ``deadline`` is monotonic."""
    _deadline.set(deadline)
    requests.sessions.Session = BoundedSession  # type: ignore[misc] # nothing can be passed to requests.post
