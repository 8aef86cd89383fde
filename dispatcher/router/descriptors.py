"""File descriptors kept back for the router's links, while clients may take all the others.

A client's connection is a file descriptor. Where there is none left, libzmq tries without pause to accept the next
client, and ends the whole process when a shard connects anew. So before that the public ports stop accepting:
the kernel drops what asks for a connection, as on a busy network, and the client asks again. Unbinding them instead
would close the connections that there are. (A public ``ipc://`` endpoint cannot be closed so.)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import socket
import struct
import threading
from pathlib import Path

from shards import logs

RESERVE = 8
RESERVE_PER_SHARD = 4  # a shard that starts anew takes them while those of its predecessor are still being closed
REOPEN = 4  # so many more must be free to accept again
SOME_FILE = 0  # standard input: what the descriptors kept back stand for
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # of Linux; the module socket does not name them
CLONE_FILES = 0x400
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF: return 0 bytes of every packet

log = logs.logger()


class Reserve:
    """To be made when the public sockets are bound; ``check`` is to be called several times a second.

    One reserve is held, for a crowd that comes between two checks; another must be free, for the links.
    """

    def __init__(self, shards: int) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = RESERVE + RESERVE_PER_SHARD * shards
        self._reserve = wanted if limit == resource.RLIM_INFINITY else min(wanted, limit // 8)
        self._listeners = _listeners()
        self._kept = _take(self._reserve)
        self._open = True

    def check(self) -> None:
        """Stop accepting where the descriptors have run out, and accept again when there are enough."""
        found = _take(self._reserve if self._open else 2 * self._reserve + REOPEN)
        if self._open and len(found) < self._reserve:
            _give_back(found)
            self._close()
        elif not self._open and len(found) == 2 * self._reserve + REOPEN:
            self._kept, found = found[: self._reserve], found[self._reserve :]
            _give_back(found)
            self._reopen()
        else:
            _give_back(found)

    def _close(self) -> None:
        self._open = False
        log.warning("file descriptors run out: no new clients are accepted; raise LimitNOFILE")
        program = ctypes.create_string_buffer(DROP_ALL)
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # a kernel without filters: it goes on as it can
                listener.setsockopt(
                    socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program))
                )
        thread = threading.Thread(target=self._turn_away)
        thread.start()
        thread.join()
        _give_back(self._kept)

    def _turn_away(self) -> None:
        """Close what the kernel has accepted already, or it would take what is kept back.

        In a table of descriptors of its own: a descriptor that is free in the common one is libzmq's at once.
        """
        private = ctypes.CDLL(None).unshare(CLONE_FILES) == 0  # some containers forbid it: then libzmq gets its share
        _give_back(self._kept.copy() if private else self._kept)
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # BlockingIOError: none is left
                while True:
                    listener.accept()[0].close()

    def _reopen(self) -> None:
        self._open = True
        log.info("new clients are accepted again")
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _listeners() -> list[socket.socket]:
    """The public ports of this process, which libzmq opened; nothing else of it listens on TCP."""
    numbers = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    listeners = [socket.socket(fileno=os.dup(number)) for number in list(filter(_listens, numbers))]
    for one in listeners:
        one.setblocking(False)  # for libzmq too, which must not wait for a client that was turned away
    return listeners


def _listens(number: int) -> bool:
    try:
        one = socket.socket(fileno=number)
    except OSError:
        return False  # no socket
    listens = one.family != socket.AF_UNIX and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    one.detach()
    return listens


def _take(count: int) -> list[int]:
    """So many descriptors, or what there is."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.dup(SOME_FILE))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
    return taken


def _give_back(taken: list[int]) -> None:
    while taken:
        os.close(taken.pop())
