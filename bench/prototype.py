"""The floor of the end-to-end benchmark: a bare prototype of the design, as fast as plain Python gets it.

    python -m bench.prototype [--events 1000000] [--users 10000] [--shards 2] [--batch 500]
                              [--durability power|process] [--seed 1] [--json]

One producer process, a router and N journaling shards do the real work on every notification: routing, journal,
duplicates, preferences, limits, lanes, retries, inbox rows. There are no receipts, no ledger, no acknowledgements, no
recovery and no options: what the dispatcher adds to this is what those cost.

What made it fast, by measurement: memory that is touched while the cache still has it. So a notification's object dies
with its frame, and a delivery refers to the frame's bytes (keeping the objects until they are sent took a sixth of the
throughput); and so what is alike (category and preferences) is decided for a whole turn at once.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from itertools import compress, repeat
from multiprocessing.connection import Connection, wait
from operator import is_
from pathlib import Path
from time import monotonic, process_time
from typing import Any, NamedTuple

import msgspec
import xxhash
import zmq

from dispatcher.simulation.workload import batches, producer_share, user_document, user_id
from shards.wire.encoding import pack
from shards.wire.ids import hash_user
from shards.wire.notification import Notification

PRODUCERS, DUPLICATE_RATE = 100, 0.01  # logical producers, as `simulate` has them: equal seeds, equal events
FAILURE_RATE, MAX_RETRIES = 0.1, 3
RETRY_BASE_S, RETRY_FACTOR = 0.05, 2.0
EMAIL_INTERVAL_S, EMAIL_TOLERANCE_S = 60 / 1000, 60 - 60 / 1000  # GCRA: 1000/minute, with a burst of 1000
ROUTES = {
    "transaction": ("email", "push", "inapp"),
    "marketing": ("email", "inapp"),
    "security": ("email", "sms", "push"),
    "system": ("inapp",),
}
LANES = {"security": 0, "transaction": 1, "system": 2, "marketing": 3}  # critical, high, normal, low
SIMULATED = ("email", "sms", "push")

HIGH_WATER = 128  # messages, at either end of a link
TURN_FRAMES = 128  # at most so many in one commit
END = b""

# A person is where to enter deliveries by category, the user's hash, and the user's number in the shard. A delivery is
# its key, its frame's body, the person, the place (seq << 16 | index in the body), and the number of the attempt.
Person = tuple[dict[str, Callable[[Any], None]], int, int]
Delivery = tuple[str | None, bytes, Person, int, int]
Lane = deque[Delivery]


class Route(msgspec.Struct, gc=False):
    user_id: str


class ShardOf(dict[str, int]):
    """The shard of each user, hashed once."""

    def __init__(self, shards: int):
        self.shards = shards

    def __missing__(self, user: str) -> int:
        number = self[user] = hash_user(user) % self.shards
        return number


class Bucket:
    """What a turn brought of one category to users of equal preferences, and where it goes."""

    def __init__(self, category: str, off: frozenset[str], lanes: dict[str, list[Lane]]):
        on = [channel for channel in ROUTES[category] if channel not in off]
        lane = {channel: lanes[channel][LANES[category]] for channel in on if channel in SIMULATED}
        self.items: list[Delivery] = []
        self.planned = len(ROUTES[category])
        self.suppressed = self.planned - len(on)
        self.inapp = "inapp" in on
        self.email = lane.pop("email", None)
        self.others = tuple(lane.values())


class Options(NamedTuple):
    events: int
    users: int
    shards: int
    batch: int
    durability: str
    seed: int
    inbox: bool


def produce(conn: Connection, endpoint: bytes, options: Options) -> None:
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    push.sndhwm = HIGH_WATER
    push.connect(endpoint.decode())
    settle(conn, None)
    send = push.send
    cpu, started = process_time(), monotonic()
    for producer in range(PRODUCERS):
        share = producer_share(options.events, PRODUCERS, producer)
        for batch in batches(options.seed, producer, share, options.users, DUPLICATE_RATE, options.batch):
            send(pack(batch))
    send(END)
    finish(conn, {"started": started, "cpu": process_time() - cpu})


def route(conn: Connection, links: list[str]) -> None:
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.rcvhwm = HIGH_WATER
    pull.bind("tcp://127.0.0.1:*")
    pushes = []
    for link in links:
        push = context.socket(zmq.PUSH)
        push.sndhwm = HIGH_WATER
        push.connect(link)
        pushes.append(push)
    settle(conn, pull.getsockopt(zmq.LAST_ENDPOINT))
    decode_routes = msgspec.msgpack.Decoder(list[Route]).decode
    decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
    shard_of = ShardOf(len(links))
    recv = pull.recv
    cpu = process_time()
    while message := recv():
        frames: list[list[msgspec.Raw]] = [[] for _ in pushes]
        add = [frame.append for frame in frames]
        for to, raw in zip(decode_routes(message), decode_raws(message), strict=True):
            add[shard_of[to.user_id]](raw)
        for push, frame in zip(pushes, frames, strict=True):
            if frame:
                push.send(pack(frame))
    for push in pushes:
        push.send(END)
    finish(conn, {"cpu": process_time() - cpu})


def open_journal(path: str, durability: str) -> sqlite3.Connection:
    journal = sqlite3.connect(path, isolation_level=None)
    journal.executescript(f"""
        PRAGMA page_size = 16384; PRAGMA locking_mode = exclusive; PRAGMA journal_mode = wal;
        PRAGMA synchronous = {"full" if durability == "power" else "normal"};
        PRAGMA cache_size = -65536; PRAGMA cache_spill = off; PRAGMA wal_autocheckpoint = 4000;
        CREATE TABLE frames (seq INTEGER PRIMARY KEY, notifications INTEGER, body BLOB);
        CREATE TABLE inbox (user_hash INTEGER, place INTEGER, PRIMARY KEY (user_hash, place)) WITHOUT ROWID;
    """)
    return journal


def shard(conn: Connection, number: int, link: str, path: str, options: Options) -> None:
    seed, inbox = options.seed, options.inbox
    lanes: dict[str, list[Lane]] = {channel: [deque() for _ in range(4)] for channel in SIMULATED}
    suffixes_of = {channel: [f":{channel}:{attempt}" for attempt in range(MAX_RETRIES + 2)] for channel in SIMULATED}
    queues = [(lane, suffixes_of[channel]) for channel in SIMULATED for lane in lanes[channel]]
    buckets: list[Bucket] = []
    enters: dict[frozenset[str], dict[str, Callable[[Any], None]]] = {}
    people: dict[str | None, Person] = {}
    for index in range(options.users):
        name = user_id(index)
        if hash_user(name) % options.shards == number:
            off = frozenset(user_document(seed, index)["preferences"]["channels"])
            if off not in enters:
                added = {category: Bucket(category, off, lanes) for category in ROUTES}
                enters[off] = {category: bucket.items.append for category, bucket in added.items()}
                buckets += added.values()
            people[name] = (enters[off], hash_user(name) - (1 << 63), len(people))
    arrivals = [0.0] * len(people)  # by the user's number: the theoretical arrival time of the next email
    journal = open_journal(path, options.durability)
    execute, executemany = journal.execute, journal.executemany
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    pull.rcvhwm = HIGH_WATER
    pull.bind(link)
    settle(conn, None)

    decode = msgspec.msgpack.Decoder(list[Notification]).decode
    digest, draw, threshold = xxhash.xxh3_128_digest, xxhash.xxh3_64_intdigest, int(FAILURE_RATE * 2**64)
    heap: list[tuple[float, int, Lane, Delivery]] = []
    heappush, heappop, jitter = heapq.heappush, heapq.heappop, random.Random(f"{seed}:{number}").random
    delays = [RETRY_BASE_S * RETRY_FACTOR ** (attempt - 1) for attempt in range(MAX_RETRIES + 1)]
    seen: dict[bytes, int] = {}
    first, person_of = seen.setdefault, people.__getitem__
    recv, poll, again, no_block = pull.recv, pull.poll, zmq.Again, zmq.NOBLOCK
    seq = duplicates = planned = delivered = suppressed = limited = dead = retries = entered = 0
    ended = False
    cpu = process_time()
    while not ended or heap:
        # Receive a turn: what is there, within bounds.
        bodies: list[bytes] = []
        if poll(max(0, int((heap[0][0] - monotonic()) * 1000) + 1) if heap else None):
            try:
                while len(bodies) < TURN_FRAMES:
                    if not (body := recv(no_block)):
                        ended = True
                        break
                    bodies.append(body)
            except again:
                pass
        now = monotonic()

        if bodies:
            # Judge: the first with a digest is the notification, any other is its duplicate.
            rows: list[tuple[int, int, bytes]] = []
            for body in bodies:
                seq += 1
                notifications = decode(body)
                names = [notification.user_id for notification in notifications]
                keys = [notification.idempotency_key for notification in notifications]
                categories = [notification.category for notification in notifications]
                digests = [digest(f"{name}\0{key}".encode()) for name, key in zip(names, keys, strict=True)]
                places = list(range(seq << 16, (seq << 16) + len(names)))
                new = list(map(is_, map(first, digests, places), places))
                duplicates += new.count(False)
                deliveries = zip(keys, repeat(body), map(person_of, names), places, repeat(1))
                for category, delivery in compress(zip(categories, deliveries, strict=True), new):
                    delivery[2][0][category](delivery)
                rows.append((seq, len(names), body))

            # Decide, for all of one category to users of equal preferences at once.
            entries: list[tuple[int, int]] = []
            for bucket in buckets:
                if items := bucket.items:
                    planned += bucket.planned * len(items)
                    suppressed += bucket.suppressed * len(items)
                    if bucket.inapp:
                        entries += [(person[1], place) for _, _, person, place, _ in items]
                    if bucket.email is not None:
                        passed = []
                        for delivery in items:
                            user = delivery[2][2]
                            arrival = arrivals[user]
                            if arrival <= now:
                                arrivals[user] = now + EMAIL_INTERVAL_S
                            elif arrival <= now + EMAIL_TOLERANCE_S:
                                arrivals[user] = arrival + EMAIL_INTERVAL_S
                            else:
                                limited += 1
                                continue
                            passed.append(delivery)
                        bucket.email.extend(passed)
                    for lane in bucket.others:
                        lane.extend(items)
                    items.clear()

            # Journal, and with the same commit deliver in-app.
            execute("BEGIN IMMEDIATE")
            executemany("INSERT INTO frames VALUES (?, ?, ?)", rows)
            if inbox:
                executemany("INSERT INTO inbox VALUES (?, ?)", entries)
            execute("COMMIT")
            entered += len(entries)

        # Send what is in the lanes, each channel's most urgent first.
        while heap and heap[0][0] <= now:
            _, _, lane, delivery = heappop(heap)
            lane.append(delivery)
        for lane, suffixes in queues:
            if lane:
                batch = list(lane)
                lane.clear()
                failed = [one for one in batch if draw(f"{one[0]}{suffixes[one[4]]}".encode(), seed) < threshold]
                delivered += len(batch) - len(failed)
                for key, body, person, place, attempt in failed:
                    if attempt > MAX_RETRIES:
                        dead += 1
                    else:
                        retries += 1
                        due = now + jitter() * delays[attempt]
                        heappush(heap, (due, retries, lane, (key, body, person, place, attempt + 1)))
    finished, cpu = monotonic(), process_time() - cpu
    (events,) = execute("SELECT ifnull(sum(notifications), 0) FROM frames").fetchone()
    (stored,) = execute("SELECT count(*) FROM inbox").fetchone()
    if stored != (entered if inbox else 0) or events != len(seen) + duplicates:
        raise RuntimeError(f"the journal has {events} events, {stored} inbox rows")
    outcomes = {"delivered": delivered + entered, "suppressed": suppressed, "rate_limited": limited, "dead": dead}
    totals = {"cpu": cpu, "events": events, "duplicates": duplicates, "planned": planned, **outcomes}
    finish(conn, {"finished": finished, "totals": totals})


def settle(conn: Connection, ready: Any) -> None:
    """Say that this process is ready, wait for the start, and keep the garbage collector out of what follows."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    conn.send(ready)
    conn.recv()
    gc.collect()
    gc.freeze()
    gc.disable()


def finish(conn: Connection, result: dict[str, Any]) -> None:
    """Report, and stay until killed: a sender that closes its ipc loses what a full receiver has not read yet."""
    conn.send(result)
    threading.Event().wait()


def run(
    events: int, users: int, shards: int, batch: int, durability: str, seed: int, inbox: bool = True
) -> dict[str, Any]:
    """One run in processes and a directory of its own; raises unless every event and delivery is accounted for."""
    # On the disk: /tmp is often in memory.
    directory = Path(tempfile.mkdtemp(prefix="prototype-", dir="/var/tmp" if Path("/var/tmp").is_dir() else None))
    deadline = monotonic() + 60 + events / 5_000
    options = Options(events, users, shards, batch, durability, seed, inbox)
    spawn = multiprocessing.get_context("spawn")
    processes: list[Any] = []

    def start(target: Callable[..., None], *arguments: Any) -> Connection:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
        process.start()
        processes.append(process)
        theirs.close()
        return ours

    def answer(conn: Connection) -> Any:
        if not wait([conn], max(0.0, deadline - monotonic())):
            raise TimeoutError("the prototype did not finish in time")
        try:
            return conn.recv()
        except EOFError:
            raise RuntimeError("a process of the prototype died") from None

    try:
        links = [f"ipc://{directory}/{number}" for number in range(shards)]
        workers = [start(shard, number, link, f"{directory}/{number}.db", options) for number, link in enumerate(links)]
        router = start(route, links)
        producer = start(produce, answer(router), options)
        for conn in (*workers, producer):
            answer(conn)
        for conn in (*workers, router, producer):
            conn.send("go")
        results = [answer(worker) for worker in workers]
        sent, routed = answer(producer), answer(router)
    finally:
        for process in processes:
            process.kill()
            process.join()
        shutil.rmtree(directory, ignore_errors=True)

    total = {name: sum(result["totals"][name] for result in results) for name in results[0]["totals"]}
    outcomes = {name: total[name] for name in ("delivered", "suppressed", "rate_limited", "dead")}
    if total["events"] != events or total["planned"] != sum(outcomes.values()):
        raise RuntimeError(f"of {events} events: {total}")
    elapsed = max(result["finished"] for result in results) - sent["started"]
    cpu = {"producer": sent["cpu"], "router": routed["cpu"], "shards": total["cpu"]}
    return {
        "events": events,
        "events_per_s": round(events / elapsed),
        "elapsed_s": round(elapsed, 3),
        "deliveries": total["delivered"],
        "dead": total["dead"],
        "duplicates": total["duplicates"],
        "planned": total["planned"],
        "outcomes": outcomes,
        "cpu_s": {role: round(seconds, 3) for role, seconds in cpu.items()},
        "shards": shards,
        "durability": durability,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.prototype", description=(__doc__ or "").partition("\n")[0])
    for name, default in {"events": 1_000_000, "users": 10_000, "shards": 2, "batch": 500, "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    parser.add_argument("--json", action="store_true", help="print exactly one JSON object")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    result = run(**options)
    print(json.dumps(result) if as_json else f"{result['events_per_s']:,} events/s")


if __name__ == "__main__":
    main()
