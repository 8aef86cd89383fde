"""Every structure that crosses a socket, its encoders and decoders, and the error codes.

A message is one MessagePack or JSON document; its first byte tells which. Two families live here: the public
one (``Notification``, requests, answers), which is a contract with programs in other languages, and the internal
one (``Data``, ``Ping``, ``Report``, ...), which only the processes of one installation exchange.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal

import msgspec
import orjson
import xxhash
from msgspec import Meta, Raw, Struct

from shards.answers import ErrorClass

# --- vocabulary ------------------------------------------------------------------------------------------------


class Priority(enum.IntEnum):
    """The number is that on the wire."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3


PRIORITIES = tuple(priority.name.lower() for priority in Priority)
PRIORITY_NUMBERS: dict[str | int, int] = {name: number for number, name in enumerate(PRIORITIES)} | {
    number: number for number in range(len(PRIORITIES))
}
CHANNELS = ("email", "sms", "push", "inapp", "webhook", "system")

Code = Literal[
    "bad_encoding",
    "bad_request",
    "unknown_op",
    "unknown_key",
    "bad_value",
    "too_large",
    "too_many",
    "too_deep",
    "unknown_category",
    "unknown_channel",
    "unknown_template",
    "unknown_topic",
    "not_found",
    "already_final",
    "overloaded",
    "unavailable",
    "unsupported",
    "internal",
]

USER_ID_BYTES_MAX = 256
KEY_BYTES_MAX = 255
MADE_KEY = "~auto~"  # how keys begin that a client made, so that it may send again
TOPIC_BYTES_MAX = 256
EVERY_USER = "*"  # the topic of all who have a document
MESSAGE_BYTES_HARD_MAX = 64 * 2**20  # of a request: beyond, ZeroMQ closes the connection; below, too_large is answered
POSITIONS_MAX = 60_000  # of one frame: a position must fit 16 bits in an inbox entry
PAGE_BYTES_MAX = 4 * 2**20  # of the items of one answer; a page ends before it, and goes on with its cursor
RECONNECT_MS = 10  # of sockets between our processes; libzmq would look only every 100 ms whether one has started
COLLECTOR = -1  # the ``shard`` of a reply from the collector


class Error(Struct, omit_defaults=True, frozen=True):
    """What was wrong, where, and what to do about it; the same shape everywhere an error is answered."""

    code: Code
    message: str
    field: str | None = None
    retry_after_ms: int | None = None


class RequestError(Exception):
    """Carries an ``Error`` from the place that found it to the place that answers."""

    def __init__(self, code: Code, message: str, field: str | None = None, retry_after_ms: int | None = None):
        super().__init__(message)
        self.error = Error(code, message, field, retry_after_ms)


# --- public: the notification and the requests ------------------------------------------------------------------


class Notification(Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What a producer submits. Exactly one of ``user_id``, ``recipients`` and ``topic`` addresses it."""

    user_id: str | None = None
    recipients: list[str] | None = None
    topic: str | None = None
    category: str = "system"
    type: Literal["info", "success", "warning", "error"] = "info"
    priority: str | int | None = None
    title: str | None = None
    body: str | None = None
    template: str | None = None
    payload: dict[str, Any] | None = None
    channels: Annotated[list[str], Meta(min_length=1)] | None = None
    idempotency_key: str | None = None
    id: str | None = None
    send_at: str | int | None = None
    expires_at: str | int | None = None
    metadata: dict[str, str] | None = None


_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class Plain(Struct, forbid_unknown_fields=True, gc=False):
    """The common kind of ``Notification``, narrow enough that decoding it is most of checking it.

    Lengths are in code points, of at most 4 bytes each. Whatever does not fit is decoded as ``Notification``.
    """

    user_id: str
    title: str
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=KEY_BYTES_MAX // 4)]
    category: str = "system"
    type: Literal["info", "success", "warning", "error"] = "info"
    priority: Literal["low", "normal", "high", "critical"] | None = None
    body: str | None = None
    payload: dict[str, str | _Integer | bool | None] | None = None
    metadata: dict[str, str] | None = None


class UserRoute(Struct, gc=False):
    """All that the router decodes of a notification to one user."""

    user_id: str


class Route(Struct, gc=False):
    """The only fields of a notification that the router decodes."""

    user_id: str | None = None
    recipients: list[str] | None = None
    topic: str | None = None


# A frame's entry: a notification as its producer encoded it, or, fanned out, the recipients of this shard with it. To
# a topic, it is fanned out to one "recipient", which is the broadcast's id.
Fanned = tuple[list[str], Notification]
Entry = Notification | Fanned


class Submit(Struct, forbid_unknown_fields=True):
    op: Literal["submit"]
    notifications: Raw
    seq: int | str | None = None


class Request(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Any operation but ``submit``: the union of what they take. ``OPERATIONS`` says which takes what."""

    op: str
    seq: int | str | None = None
    id: str | None = None
    user_id: str | None = None
    idempotency_key: str | None = None
    user: dict[str, Any] | None = None
    topic: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] | None = None
    cursor: str | int | None = None
    ids: list[str] | None = None
    state: Literal["seen", "read", "archived"] | None = None
    channel: str | None = None
    category: str | None = None
    reason: str | None = None
    error_class: str | None = None
    since: str | int | None = None
    name: str | None = None
    parts: dict[str, str] | None = None
    notification: dict[str, Any] | None = None


class WorkerCall(Struct, forbid_unknown_fields=True):
    """``channel.attach`` or ``channel.detach``. Each of the ``results`` is checked by itself, as a ``WorkResult``."""

    op: Literal["channel.attach", "channel.detach"]
    channel: str
    worker: str
    seq: int | str | None = None
    limit: Annotated[int, Meta(ge=0, le=1000)] = 1
    wait_ms: Annotated[int, Meta(ge=0, le=30_000)] = 10_000
    results: list[Any] = []


class WorkResult(Struct, forbid_unknown_fields=True, frozen=True):
    """What a worker says of a delivery; it was taken where there is no ``error_class``.

    ``no_contact`` and ``returned`` say that nothing was attempted.
    """

    token: str
    detail: str = ""
    bad: Annotated[list[str], Meta(max_length=100)] = []
    error_class: ErrorClass | Literal["no_contact", "returned"] | None = None
    message: str = ""
    retry_after_ms: Annotated[int, Meta(ge=0, le=2**53)] | None = None


_DEAD_FILTERS = ("channel", "category", "reason", "error_class", "since", "user_id", "id")

# op -> (what it must have, what it may have); the router checks this before anything is asked of a shard.
OPERATIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "status": ((), ("id", "user_id", "idempotency_key")),
    "explain": (("notification",), ()),
    "cancel": ((), ("id", "user_id", "idempotency_key")),
    "user.put": (("user_id", "user"), ()),
    "user.get": (("user_id",), ()),
    "user.delete": (("user_id",), ()),
    "topic.subscribe": (("topic", "user_id"), ()),
    "topic.unsubscribe": (("topic", "user_id"), ()),
    "inbox.list": (("user_id",), ("limit", "cursor")),
    "inbox.mark": (("user_id", "ids", "state"), ()),
    "dead.list": ((), (*_DEAD_FILTERS, "limit", "cursor")),
    "dead.replay": ((), (*_DEAD_FILTERS, "limit")),
    "dead.purge": ((), (*_DEAD_FILTERS, "limit")),
    "backup.begin": (("id",), ()),
    "backup.end": (("id",), ()),
    "channel.pause": (("channel",), ()),
    "channel.resume": (("channel",), ()),
    "channel.attach": (("channel", "worker"), ("limit", "wait_ms", "results")),
    "channel.detach": (("channel", "worker"), ()),
    "template.list": ((), ()),
    "template.put": (("name", "parts"), ()),
    "config.reload": ((), ()),
    "stats": ((), ()),
    "ping": ((), ()),
}

# --- internal: router, shards and collector ---------------------------------------------------------------------

SUBMIT, INGEST, UNROUTABLE, EXPANSION = 0, 1, 2, 3  # where a frame's notifications came from


class Data(Struct, array_like=True, tag="D", gc=False):
    """A numbered frame, router to shard: ``body`` is an encoded list of entries, some of them ``fanned`` out.

    ``at_us`` is when the router had it, in microseconds since the epoch.
    """

    epoch: int
    gen: int
    conn: int
    n: int
    source: int
    at_us: int
    fanned: bool
    body: bytes
    error: Error | None = None  # of UNROUTABLE: why; the body is then the raw message. Of EXPANSION it is a ``Turn``'s


class Ping(Struct, array_like=True, tag="P", gc=False):
    """Sent every 100 ms: ``hi`` is the last number sent on this connection."""

    epoch: int
    gen: int
    conn: int
    hi: int


class Ask(Struct, array_like=True, tag="V", gc=False):
    """The router asks for verdicts whose report was lost with its shard."""

    epoch: int
    gen: int
    numbers: list[int]


ToShard = Data | Ping | Ask


class Duplicate(Struct, array_like=True, gc=False, frozen=True):
    index: int
    id: str
    mismatch: bool


class Rejection(Struct, array_like=True, gc=False, frozen=True):
    index: int
    error: Error
    near: list[str] = []  # of an unknown topic: names that are known here


class Verdict(Struct, array_like=True, gc=False, frozen=True):
    """The exceptions of a frame, by position after fan-out; what is not named here was accepted."""

    duplicates: list[Duplicate] = []
    rejected: list[Rejection] = []


class Report(Struct, array_like=True, tag="A", gc=False):
    """A fact about a shard's journal: of epoch ``(epoch, gen)`` it has the frames up to ``have``.

    ``resend`` makes it a request to send the window again. ``verdicts`` are ``(n, verdict)`` of frames just
    journaled, or of frames that were asked for.
    """

    shard: int
    incarnation: int
    epoch: int
    gen: int
    conn: int
    have: int
    base: int
    generation: str
    resend: bool = False
    verdicts: list[tuple[int, Verdict | None]] = []


class Turn(Struct, array_like=True, tag="B", gc=False):
    """A shard is ready for the next page of a broadcast. It becomes a numbered frame, whose body is ``(id, step)``."""

    shard: int
    id: str
    step: int


class Stalled(Struct, array_like=True, tag="X", gc=False):
    """A shard cannot write its journal; said again and again until a ``Report`` says otherwise."""

    shard: int
    reason: str


class Reply(Struct, array_like=True, tag="R", gc=False):
    """A shard's or the collector's answer to a ``Query``: a document, or an error."""

    query: int
    shard: int
    result: Any = None
    error: Error | None = None


class Publish(Struct, array_like=True, tag="S", gc=False):
    """Documents for the stream: ``(topic, JSON)``."""

    documents: list[tuple[bytes, bytes]]


class OutboxAck(Struct, array_like=True, tag="T", gc=False):
    """The collector has everything of this shard's generation up to ``n``."""

    generation: str
    n: int


class Query(Struct, array_like=True, tag="Q", gc=False):
    """An operation, router to shard or collector, on the control socket."""

    query: int
    request: Request


class Subscriptions(Struct, array_like=True, tag="U", gc=False):
    """The prefixes that somebody is subscribed to, so that shards publish only what is read."""

    prefixes: list[bytes]


class Offer(Struct, array_like=True, tag="W", gc=False):
    """Deliveries of an attached channel, as ``(number, delivery)``, for the router to give to a worker."""

    shard: int
    channel: str
    deliveries: list[tuple[int, Raw]]


class Want(Struct, array_like=True, tag="L", gc=False):
    """How many deliveries of a channel may lie at the router of this epoch for its ``workers`` to take."""

    epoch: int
    channel: str
    count: int
    workers: int


class Taken(Struct, array_like=True, tag="K", gc=False):
    """A worker is given these in a moment."""

    channel: str
    worker: str
    numbers: list[int]


class Settled(Struct, array_like=True, tag="E", gc=False):
    """What became of deliveries that were offered."""

    channel: str
    results: list[tuple[int, WorkResult]]


class Gone(Struct, array_like=True, tag="G", gc=False):
    """There will be no more results from this worker."""

    channel: str
    worker: str


class DeadLetter(Struct, array_like=True, gc=False):
    """A delivery that ended for good, with all that an operator needs to judge it."""

    id: str
    user_id: str | None
    channel: str | None
    category: str | None
    reason: str
    error_class: str
    last_error: str
    attempts: int
    died_at_ms: int
    notification: bytes  # as JSON


class DeadAdded(Struct, array_like=True, tag="a", gc=False):
    letter: DeadLetter


class DeadRemoved(Struct, array_like=True, tag="r", gc=False):
    ids: list[tuple[str, str | None]]  # (id, channel)


class Metrics(Struct, array_like=True, tag="m", gc=False):
    """What happened in one shard since its last metrics: ``(channel, outcome, count)``."""

    at_s: int
    counts: list[tuple[str, str, int]]


OutboxItem = DeadAdded | DeadRemoved | Metrics


class Outbox(Struct, array_like=True, tag="O", gc=False):
    """Numbered items ``first``, ``first + 1``, ... of a shard's outbox."""

    shard: int
    generation: str
    first: int
    items: list[OutboxItem]


Work = Want | Taken | Settled | Gone
FromShard = Report | Reply | Publish | Stalled | Turn | Offer
ToShardControl = Query | OutboxAck | Subscriptions | Work
ToCollector = Outbox | Query

pack = msgspec.msgpack.Encoder().encode

# --- documents --------------------------------------------------------------------------------------------------

_JSON_STARTS = frozenset(b"{[ \t\r\n")


def is_json(message: bytes | Raw) -> bool:
    """Whether the first byte announces JSON; everything else is MessagePack."""
    view = memoryview(message)
    return bool(view) and view[0] in _JSON_STARTS


def hash_user(user_id: str) -> int:
    """The 64-bit hash that decides the shard: ``xxh3_64(user_id as UTF-8)``; shard = hash mod N."""
    return xxhash.xxh3_64_intdigest(user_id.encode())


def make_id(generation: str, user_hash: int, seq: int, index: int) -> str:
    """The server's id of one recipient's notification: opaque to others, URL-safe, enough to find it."""
    return f"{generation}-{user_hash:016x}-{seq:x}-{index:x}"


def parse_id(text: str) -> tuple[str, int, int, int]:
    """``(generation, user hash, seq, index)``; ``RequestError`` not_found if it is not one of our ids."""
    try:
        generation, user_hash, seq, index = text.split("-")
        return generation, int(user_hash, 16), int(seq, 16), int(index, 16)
    except ValueError:
        raise RequestError("not_found", f"{text[:80]!r} is not an id that a receipt carried", "id") from None


def is_broadcast(text: str) -> bool:
    """Whether an id is a broadcast's, which is the same in all shards; no generation has a name so short."""
    return text.startswith("b-")


def encode_answer(answer: dict[str, Any], as_json: bool) -> bytes:
    """The answer in the encoding of the question. orjson writes all JSON that leaves the process."""
    if as_json:
        return orjson.dumps(answer, default=_plain)
    return pack(answer)


def _plain(value: object) -> Any:
    return msgspec.to_builtins(value)
