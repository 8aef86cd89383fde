"""The router's process."""

from __future__ import annotations

import sys

import msgspec

from dispatcher.child_settings import RouterSettings
from dispatcher.router.link import SupersededError
from dispatcher.router.router import Router
from shards.process import begin_child, fail, say_ready

RECURSION_MAX = 750  # below Python's own: what the router decodes, every process after it can


def main() -> None:
    stop, line = begin_child("the router")
    sys.setrecursionlimit(RECURSION_MAX)
    router = Router(msgspec.json.decode(line, type=RouterSettings), stop)
    say_ready()
    try:
        router.run()
    except SupersededError as error:
        fail(str(error))


if __name__ == "__main__":
    main()
