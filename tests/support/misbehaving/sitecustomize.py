"""Makes a process of the service misbehave. With this folder first on PYTHONPATH every Python process loads it.

``MISBEHAVE`` is ``MODULE HOW FILE``: the process ``python -m MODULE`` misbehaves if FILE exists at its start.
With ``HURRY`` the supervisor waits hardly between starts, and gives up after a few.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import NoReturn


def _crash(suspects: bool = False) -> NoReturn:
    raise RuntimeError("out of luck")


def _hang(suspects: bool = False) -> None:
    threading.Event().wait()


def _die_of_a_delivery(suspects: bool = False) -> NoReturn:
    from shards.process import say

    say("ready suspects")
    os._exit(3)


HOW = {"crash": _crash, "hang": _hang, "die-of-a-delivery": _die_of_a_delivery}


def _misbehave() -> None:
    module = sys.orig_argv[2] if sys.orig_argv[1:2] == ["-m"] else ""
    if module == "dispatcher" and "HURRY" in os.environ:
        import dispatcher.child

        dispatcher.child.BACKOFF_MAX_S = 0.05

        import dispatcher.supervisor

        dispatcher.supervisor.CRASH_LOOP = 3
    target, how, file = os.environ.get("MISBEHAVE", "- - -").split()
    if module == target and Path(file).exists():
        import shards.process

        setattr(shards.process, "say_ready", HOW[how])  # noqa: B010 - mypy forbids the assignment


_misbehave()
