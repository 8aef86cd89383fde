"""What blocking and asynchronous callers share: a call is a generator of what it waits for.

It yields a future, whose result it is sent, or seconds to wait; what it returns is the call's result. ``wait_for`` goes
through the steps of a call in a thread, ``wait_for_async`` in an event loop.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from dispatcher.api.futures import awaited

T = TypeVar("T")
Steps = Generator["Future[Any] | float", Any, T]


def wait_for(steps: Steps[T]) -> T:
    value: Any = None
    error: Exception | None = None
    try:
        while True:
            step = steps.send(value) if error is None else steps.throw(error)
            value, error = None, None
            if isinstance(step, Future):
                try:
                    value = awaited(step)
                except (KeyboardInterrupt, SystemExit):  # of this thread, and none of the steps' business
                    raise
                except Exception as raised:  # noqa: BLE001 - the steps decide
                    error = raised
            else:
                time.sleep(step)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


async def wait_for_async(steps: Steps[T]) -> T:
    import asyncio  # noqa: PLC0415 - whoever has no event loop is spared it

    from dispatcher.api.waking import done  # noqa: PLC0415 - as above

    value: Any = None
    error: Exception | None = None
    try:
        while True:
            step = steps.send(value) if error is None else steps.throw(error)
            value, error = None, None
            if isinstance(step, Future):
                await done(step)
                try:
                    value = step.result()
                except Exception as raised:  # noqa: BLE001 - the steps decide
                    error = raised
            else:
                await asyncio.sleep(step)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()
