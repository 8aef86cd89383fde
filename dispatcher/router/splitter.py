"""From a producer's message to pieces for shards: only the routing fields are decoded, bytes are passed on as sent.

A message whose notifications all hash to one shard is passed on whole; otherwise each notification's bytes go into
the list of its shard.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import xxhash

from dispatcher.router.receipts import ToTopic
from shards.validation import check_address, decode_error, located
from shards.wire.encoding import is_json, pack
from shards.wire.errors import Error, RequestError
from shards.wire.notification import Route, UserRoute

BROADCAST_DIGEST_BYTES = 16
WHOLE_MIN = 100  # shorter lists are gathered, even where one shard gets all of it

_users_msgpack = msgspec.msgpack.Decoder(list[UserRoute])
_users_json = msgspec.json.Decoder(list[UserRoute])
_raw_msgpack = msgspec.msgpack.Decoder(list[msgspec.Raw])
_raw_json = msgspec.json.Decoder(list[msgspec.Raw])
_route_msgpack = msgspec.msgpack.Decoder(Route)
_route_json = msgspec.json.Decoder(Route)


class Listed(msgspec.Struct):
    """How long the list of recipients is, as it came."""

    recipients: msgspec.Raw


_listed_msgpack = msgspec.msgpack.Decoder(Listed)
_listed_json = msgspec.json.Decoder(Listed)


class Keyed(msgspec.Struct):
    """What names a notification to a topic; the shards judge whether it is a text."""

    idempotency_key: Any = None
    id: Any = None


_keyed_msgpack = msgspec.msgpack.Decoder(Keyed)
_keyed_json = msgspec.json.Decoder(Keyed)


class Piece(NamedTuple):
    """The part of one message that goes to one shard, before it is gathered into a frame."""

    shard: int
    fanned: bool
    whole: bytes | None  # the producer's list as it stands, or
    entries: list[Any]  # the encoded entries of this shard
    size: int
    positions: list[int] | range
    hashes: array[int]


class Split(NamedTuple):
    """A message by shard. ``errors`` are of what cannot be routed: ``(index, error, raw bytes)``.

    ``topics`` has, by position, what goes to a topic: one position, in a piece of every shard.
    """

    pieces: list[Piece]
    positions: int
    shape: list[tuple[int, int | None]] | None
    sizes: list[int | None] | None
    errors: list[tuple[int, Error, bytes]]
    topics: dict[int, ToTopic]


class Limits(NamedTuple):
    """``batch_max`` counts each recipient, ``fanout_bytes_max`` a notification's bytes once for each of its recipients.

    ``name_broadcast`` gives an id that no other broadcast has.
    """

    shards: int
    batch_max: int
    fanout_bytes_max: int
    name_broadcast: Callable[[], str]


def split(notifications: bytes | msgspec.Raw, limits: Limits) -> Split:
    """Raises ``RequestError`` where the list as a whole is not acceptable."""
    shards, batch_max, _, _ = limits
    as_json = is_json(notifications)
    try:
        # what names a recipient in another way as well is for the shard to refuse
        routes = (_users_json if as_json else _users_msgpack).decode(notifications)
        hashes = [_hash(route.user_id.encode()) for route in routes]
    except (msgspec.ValidationError, UnicodeDecodeError):
        return _split_singly(notifications, as_json, limits)
    except msgspec.MsgspecError as error:
        raise RequestError("bad_encoding", f"not a valid list of notifications: {error}"[:300]) from None
    except RecursionError:
        raise RequestError("too_deep", "the message is nested too deeply") from None
    count = len(routes)
    if count > batch_max:
        raise RequestError("too_many", f"{count} notifications; at most {batch_max} per batch", "notifications")
    numbers = [value % shards for value in hashes]
    if not count:
        return Split([], 0, None, None, [], {})
    if count >= WHOLE_MIN and numbers.count(numbers[0]) == count:
        whole = bytes(notifications)
        part = Piece(numbers[0], False, whole, [], len(whole), range(count), array("Q", hashes))
        return Split([part], count, None, None, [], {})
    raws = (_raw_json if as_json else _raw_msgpack).decode(notifications)
    positions: list[list[int]] = [[] for _ in range(shards)]
    for position, number in enumerate(numbers):
        positions[number].append(position)
    # a fair share of the bytes is near enough for the bound on a window
    size = len(memoryview(notifications)) // count
    pieces = []
    for number, mine in enumerate(positions):
        if len(mine) > 1:
            pick = itemgetter(*mine)
            pieces.append(
                Piece(number, False, None, list(pick(raws)), size * len(mine), mine, array("Q", pick(hashes)))
            )
        elif mine:
            at = mine[0]
            pieces.append(Piece(number, False, None, [raws[at]], size, mine, array("Q", [hashes[at]])))
    return Split(pieces, count, None, None, [], {})


_hash = xxhash.xxh3_64_intdigest


def _split_singly(notifications: bytes | msgspec.Raw, as_json: bool, limits: Limits) -> Split:
    """Entry by entry: some have several recipients or a topic, or cannot be routed."""
    shards, batch_max, fanout_bytes_max, name_broadcast = limits
    try:
        raws = (_raw_json if as_json else _raw_msgpack).decode(notifications)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if isinstance(error, msgspec.ValidationError):
            raise RequestError("bad_request", "notifications must be a list", "notifications") from None
        raise RequestError("bad_encoding", f"not a valid list of notifications: {error}"[:300]) from None
    except RecursionError:
        raise RequestError("too_deep", "the message is nested too deeply", "notifications") from None
    if len(raws) > batch_max:
        raise RequestError("too_many", f"{len(raws)} notifications; at most {batch_max} per batch", "notifications")
    errors: list[tuple[int, Error, bytes]] = []
    shape: list[tuple[int, int | None]] = []
    sizes: list[int | None] = []
    entries: dict[int, list[bytes | msgspec.Raw]] = {}
    positions: dict[int, list[int]] = {}
    hashes: dict[int, array[int]] = {}
    topics: dict[int, ToTopic] = {}
    fanned = set()
    fanout_bytes_left = fanout_bytes_max
    decode = (_route_json if as_json else _route_msgpack).decode
    for index, raw in enumerate(raws):
        sizes.append(None)
        try:
            route = decode(raw)
            check_address(route)
            if route.topic is not None:
                if len(shape) >= batch_max:
                    raise RequestError("too_many", "the batch has no room for it", "topic")
                id_ = _broadcast_id(route.topic, raw, as_json) or name_broadcast()
                topics[len(shape)] = ToTopic(route.topic, id_, bytes(raw))
                entry = _fanned([id_], raw, as_json)
                for shard in range(shards):
                    fanned.add(shard)
                    entries.setdefault(shard, []).append(entry)
                    positions.setdefault(shard, []).append(len(shape))
                    hashes.setdefault(shard, array("Q")).append(0)
                shape.append((index, None))
                continue
            recipients, listed = _recipients(route, batch_max - len(shape))
            if listed:
                copied = _content_bytes(raw, as_json) * len(recipients)
                if copied > fanout_bytes_left:
                    problem = f"a copy for each of {len(recipients)} recipients has {copied} bytes"
                    room = f"the batch has room for {fanout_bytes_left}"
                    raise RequestError("too_many", f"{problem}; {room}", "recipients")
                fanout_bytes_left -= copied
        except RequestError as error:
            errors.append((index, error.error, bytes(raw)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            errors.append((index, _routing_error(raw, error), bytes(raw)))
        else:
            by_shard: dict[int, list[str]] = {}
            at: dict[int, list[int]] = {}
            for number, recipient in enumerate(recipients):
                hashed = _hash(recipient.encode())
                shard = hashed % shards
                by_shard.setdefault(shard, []).append(recipient)
                positions.setdefault(shard, [])
                at.setdefault(shard, []).append(len(shape))
                hashes.setdefault(shard, array("Q")).append(hashed)
                shape.append((index, number if listed else None))
            if listed:
                sizes[index] = len(recipients)
            for shard, names in by_shard.items():
                positions[shard] += at[shard]
                if listed:
                    fanned.add(shard)
                    entries.setdefault(shard, []).append(_fanned(names, raw, as_json))
                else:
                    entries.setdefault(shard, []).append(raw)
    for index, _, _ in errors:
        shape.append((index, None))
    pieces = [
        Piece(
            shard,
            shard in fanned,
            None,
            mine,
            sum(len(memoryview(entry)) for entry in mine),
            positions[shard],
            hashes[shard],
        )
        for shard, mine in entries.items()
    ]
    return Split(pieces, len(shape), shape, sizes, errors, topics)


def _recipients(route: Route, room: int) -> tuple[list[str], bool]:
    """Who is addressed, and whether as a list."""
    if route.user_id is not None:
        return [route.user_id], False
    recipients = route.recipients or []
    if len(recipients) > room:
        raise RequestError("too_many", f"{len(recipients)} recipients; the batch has room for {room}", "recipients")
    return recipients, True


def _broadcast_id(topic: str, raw: msgspec.Raw, as_json: bool) -> str | None:
    """Of one with a key: the same for all its repetitions, so that every shard knows it by the same id."""
    keyed = (_keyed_json if as_json else _keyed_msgpack).decode(raw)
    return broadcast_id(topic, keyed.idempotency_key, keyed.id)


def broadcast_id(topic: str, idempotency_key: object, own_id: object) -> str | None:
    """None of a notification that has neither."""
    key = own_id if idempotency_key is None else idempotency_key
    if not isinstance(key, str):
        return None
    named = hashlib.blake2b(b"\0".join((topic.encode(), key.encode())), digest_size=BROADCAST_DIGEST_BYTES)
    return f"b-{named.hexdigest()}"


def _content_bytes(raw: msgspec.Raw, as_json: bool) -> int:
    """What each recipient of a notification gets of it: all but the list of them."""
    listed = (_listed_json if as_json else _listed_msgpack).decode(raw)
    return len(memoryview(raw)) - len(memoryview(listed.recipients))


def _routing_error(raw: msgspec.Raw, error: Exception) -> Error:
    if isinstance(error, msgspec.ValidationError) and not located(error)[1]:
        return Error("bad_request", "a notification must be a map with texts as keys")
    return decode_error(raw, error)


def _fanned(names: list[str], raw: msgspec.Raw, as_json: bool) -> bytes:
    """The entry ``[recipients, notification]``."""
    if as_json:
        return b"[" + msgspec.json.encode(names) + b"," + raw + b"]"
    return b"\x92" + pack(names) + raw
