"""Kill processes at random under load, and account for every notification.

    python -m tests.chaos [--kills 300] [--seconds-max 600] [--shards 4] [--all-at-once] [--seed S]
                          [--durability process|power]

Producers submit batches and resend what was not acknowledged, with the same keys. A killer ends shards, the router
and the collector with SIGKILL, or with ``--all-at-once`` the supervisor and all of them, and starts the command again.
At the end everything must be as if nothing had happened. Failures are drawn from the key, the channel and the
attempt, so ``tests.support.expected`` knows each delivery's outcome, and the totals must be equal to it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from tests.support.expected import DIGEST, UNWANTED, Expected, Workload
from tests.support.killer import Killer
from tests.support.pipeline import Pipeline
from tests.support.service import RunningDispatcher, wait_until

PRODUCERS = 3
WINDOW = 4  # batches of a producer that wait for their receipt
BATCH_MAX = 100
RESEND_S = 2.0  # without an answer: the router that had it may be dead
BACK_OFF_S = 0.05
SETTLE_S = 120.0
SAMPLE = 5_000  # acknowledged keys whose status is asked for
PROGRESS_S = 10.0
PAGE = 200  # a long page of many frames takes so long that others of the pipeline come too late

CONFIG = """
[dispatcher]
receipt_timeout = "1s"
[retry]
base = "20ms"
max_retries = {max_retries}
[rate_limits]
email = {{ rate = "1000000/second" }}
[bounds]
lane_items = 1000
[categories.social]
channels = ["inapp"]
[digests.social]
template = "social"
window = "1s"
categories = ["social"]
""" + "".join(
    f'[channels.{name}]\nprovider = "simulated"\nconcurrency = 10000\nlatency = "5ms"\n'
    "failure_rate = {failure_rate}\nseed = {seed}\n"
    for name in ("email", "sms", "push")
)


class Plan(NamedTuple):
    """What to do: ``kills`` of one process each, and ``falls`` of all at once, in random order."""

    kills: int = 300
    falls: int = 0
    seconds_max: float = 600.0
    shards: int = 4
    seed: int = 1
    durability: Literal["power", "process"] = "process"
    rate: int = 2_000  # notifications per second, of all producers
    failure_rate: float = 0.1
    max_retries: int = 3


class Batch(NamedTuple):
    first: int
    size: int


class Cancel(NamedTuple):
    """Of one event, which is not due before the end of the run."""

    event: int


class Producer:
    """Submits numbered batches over one DEALER, resends what is not acknowledged, remembers what is."""

    def __init__(self, workload: Workload, endpoint: str, number: int, rate: float) -> None:
        self.workload = workload
        self.number = number
        self.acknowledged: list[Batch] = []
        self.resubmissions: Counter[str] = Counter()
        self.violations: list[str] = []
        self.finish = threading.Event()  # no new batches
        self.abandon = threading.Event()  # stop, whatever is outstanding
        self._rate = rate
        self._endpoint = endpoint
        self._random = random.Random(f"{workload.seed}:producer:{number}")
        self._made = 0
        self.cancelled = 0
        self._unwanted: list[Cancel] = []  # acknowledged, and to be cancelled
        self._thread = threading.Thread(target=self._run, name=f"producer {number}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Whether everything it submitted is acknowledged."""
        self._thread.join(seconds)
        ended = not self._thread.is_alive()
        self.abandon.set()
        self._thread.join()
        return ended

    def _run(self) -> None:
        outstanding: dict[int, Batch | Cancel] = {}
        sent_at: dict[int, float] = {}
        started = time.monotonic()
        seq = 0
        with Pipeline(self._endpoint) as pipeline:
            while not self.abandon.is_set() and (outstanding or self._unwanted or not self.finish.is_set()):
                now = time.monotonic()
                batches = sum(isinstance(one, Batch) for one in outstanding.values())
                fresh: list[Batch | Cancel] = list(self._unwanted)
                self._unwanted.clear()
                if not self.finish.is_set() and batches < WINDOW and self._made < (now - started) * self._rate:
                    fresh.append(self._next_batch())
                for one in fresh:
                    seq += 1
                    outstanding[seq] = one
                    self._send(pipeline, seq, one)
                    sent_at[seq] = now
                for late in [one for one in outstanding if now - sent_at[one] > RESEND_S]:
                    self.resubmissions["no answer"] += 1
                    self._send(pipeline, late, outstanding[late])
                    sent_at[late] = now
                for answer in pipeline.answers(0.01):
                    waiting = outstanding.get(answer["seq"])
                    if waiting is None:
                        continue  # the answer to an earlier copy came first
                    if isinstance(waiting, Cancel) and (answer["ok"] or answer["error"]["code"] == "already_final"):
                        del outstanding[answer["seq"]]
                        self.cancelled += 1
                    elif isinstance(waiting, Batch) and answer["ok"]:
                        self._check(waiting, answer)
                        del outstanding[answer["seq"]]
                        self.acknowledged.append(waiting)
                        self._unwanted += [
                            Cancel(event)
                            for event in range(waiting.first, waiting.first + waiting.size)
                            if self.workload.kind(self.number, event) == UNWANTED
                        ]
                    elif answer["error"]["code"] in ("unavailable", "overloaded"):
                        self.resubmissions[answer["error"]["code"]] += 1
                        sent_at[answer["seq"]] = now - RESEND_S + BACK_OFF_S
                    else:
                        self.violations.append(f"{waiting} was refused: {answer['error']}")
                        del outstanding[answer["seq"]]

    def _next_batch(self) -> Batch:
        count = self._random.choice((1, 1, 2, 10, BATCH_MAX // 2, BATCH_MAX))
        batch = Batch(self._made, count)
        self._made += count
        return batch

    def _send(self, pipeline: Pipeline, seq: int, one: Batch | Cancel) -> None:
        if isinstance(one, Batch):
            pipeline.send(seq, {"op": "submit", "notifications": self.notifications(one)})
            return
        wanted = self.workload.notification(self.number, one.event)
        pipeline.send(seq, {"op": "cancel", **{name: wanted[name] for name in ("user_id", "idempotency_key")}})

    def notifications(self, batch: Batch) -> list[dict[str, Any]]:
        return [self.workload.notification(self.number, batch.first + at) for at in range(batch.size)]

    def _check(self, batch: Batch, answer: dict[str, Any]) -> None:
        if answer["accepted"] + answer["duplicates"] != batch.size or answer["rejected"]:
            self.violations.append(f"producer {self.number} {batch}: {answer}")
        if any(duplicate["mismatch"] for duplicate in answer["duplicate"]):
            self.violations.append(f"producer {self.number} {batch}: a key has another content than its original")
        if None in answer["ids"] or len(set(answer["ids"])) != batch.size:
            self.violations.append(f"producer {self.number} {batch}: ids {answer['ids']}")


class Chaos:
    """One run: ``run`` gives the summary, whose ``violations`` must be empty."""

    def __init__(self, plan: Plan, report: Callable[[str], None] = lambda _: None) -> None:
        self.plan = plan
        self.report = report
        self.violations: list[str] = []
        self.workload = Workload(
            plan.seed, plan.failure_rate, plan.max_retries, int(time.time() * 1000), int(plan.seconds_max * 800)
        )
        config = CONFIG.format(max_retries=plan.max_retries, failure_rate=plan.failure_rate, seed=plan.seed)
        self.dispatcher = RunningDispatcher(config, shards=plan.shards, durability=plan.durability)
        self.producers = [
            Producer(self.workload, self.dispatcher.submit, number, plan.rate / PRODUCERS)
            for number in range(PRODUCERS)
        ]
        self.kills: Counter[str] = Counter()
        self.digests = self.inbox_items = self.sampled = self.lost = self.repeated = 0
        self.kept: Path | None = None  # where the data is, if something was wrong

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        try:
            self.dispatcher.start()
            self._put_users()
            for producer in self.producers:
                producer.start()
            try:
                self._kill()
            finally:
                settled = self._settle()
            stats = self._verify(settled)
            if not self.violations:
                self.dispatcher.stop()
        except AssertionError as error:
            self.violations.append(str(error))
            stats = {}
        finally:
            for producer in self.producers:
                producer.abandon.set()
            if self.violations:
                self.kept = Path(tempfile.mkdtemp(prefix="dispatcher-chaos-"))
                shutil.copytree(self.dispatcher.directory, self.kept, dirs_exist_ok=True, ignore=_no_sockets)
            self.dispatcher.kill()
            shutil.rmtree(self.dispatcher.directory, ignore_errors=True)
        return self._summary(stats, time.monotonic() - started)

    def _put_users(self) -> None:
        with Pipeline(self.dispatcher.submit) as pipeline:
            puts = [
                {"op": "user.put", "user_id": user, "user": document} for user, document in self.workload.documents()
            ]
            for answer in pipeline.exchange(puts):
                assert answer["ok"], answer

    # --- the kills ---------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        plan = self.plan
        chance = random.Random(f"{plan.seed}:killer")
        schedule = ["one"] * plan.kills + ["all"] * plan.falls
        chance.shuffle(schedule)
        deadline = time.monotonic() + plan.seconds_max
        mean_s = min(1.5, 0.8 * plan.seconds_max / len(schedule)) if schedule else 0.0
        pause = threading.Event()
        progress_at = 0.0
        killer = self._killer(chance)
        for done, kind in enumerate(schedule):
            pause.wait(chance.uniform(0.02, 2 * mean_s))
            if time.monotonic() > deadline:
                self.report(f"{plan.seconds_max:g} s are over after {done} of {len(schedule)} kills")
                break
            if kind == "all":
                self._fell()
                killer = self._killer(chance)
            else:
                role = wait_until(killer.kill_one, 30.0, "a process that may be killed")
                self.kills[role] += 1
            if time.monotonic() > progress_at:
                progress_at = time.monotonic() + PROGRESS_S
                resent = self.resubmissions.total()
                self.report(f"{done + 1} kills, {self.acknowledged} acknowledged, {resent} resent")

    def _killer(self, chance: random.Random) -> Killer:
        assert self.dispatcher.process is not None
        return Killer(self.dispatcher.process.pid, self.plan.shards, chance)

    def _fell(self) -> None:
        """The whole tree at once; then the same command again."""
        process = self.dispatcher.process
        assert process is not None
        assert process.poll() is None, f"the supervisor ended by itself\n{self.dispatcher.log()}"
        os.killpg(process.pid, signal.SIGKILL)
        self.dispatcher.kill()
        self.kills["all"] += 1
        self.dispatcher.start()

    # --- the account -------------------------------------------------------------------------------------------

    @property
    def acknowledged(self) -> int:
        return sum(batch.size for producer in self.producers for batch in producer.acknowledged)

    @property
    def resubmissions(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for producer in self.producers:
            total.update(producer.resubmissions)
        return total

    def _settle(self) -> bool:
        """Whether everything that was submitted is acknowledged in the end."""
        for producer in self.producers:
            producer.finish.set()
        deadline = time.monotonic() + SETTLE_S
        settled = [producer.join(max(0.0, deadline - time.monotonic())) for producer in self.producers]
        for producer in self.producers:
            self.violations += producer.violations
        if not all(settled):
            self.violations.append(f"some batches are not acknowledged after {SETTLE_S:g} s without kills")
        return all(settled)

    def _verify(self, settled: bool) -> dict[str, Any]:
        process = self.dispatcher.process
        assert process is not None
        assert process.poll() is None, f"the supervisor ended by itself\n{self.dispatcher.log()}"
        self.report(f"{self.acknowledged} acknowledged; waiting until nothing is pending")
        stats = wait_until(self._final_stats, SETTLE_S, "nothing is pending, and the collector has all dead letters")
        expected = Expected(self.workload)
        for number, event in self._events():
            expected.add(number, event)
        if settled:
            self._expect("accepted", expected.accepted, stats["accepted"])
            self._expect("planned", expected.planned, stats["planned"])
            found = {name: count for name, count in stats["outcomes"].items() if count}
            self._expect("outcomes", {name: count for name, count in expected.outcomes.items() if count}, found)
        self._expect("conserved", True, stats["conserved"])
        self._expect("rejected", 0, stats["rejected"])
        self._verify_dead(expected, stats)
        self._verify_status()
        self._verify_inboxes(expected)
        if settled:  # a digest is one attempt, of one of its items
            self.repeated = stats["attempts"] - expected.attempts - self.digests
            self._expect("attempts", expected.attempts + self.digests, stats["attempts"])
        return stats

    def _final_stats(self) -> dict[str, Any] | None:
        try:
            stats = self.dispatcher.request("stats")
        except AssertionError:
            return None
        if stats["not_responding"]:
            return None
        dead = sum(stats["dead_letters"].values())
        return None if stats["pending"] or stats["collector"]["dead_letters"] != dead else stats

    def _events(self) -> Iterator[tuple[int, int]]:
        for producer in self.producers:
            for batch in producer.acknowledged:
                for at in range(batch.size):
                    yield producer.number, batch.first + at

    def _expect(self, what: str, expected: object, found: object) -> None:
        if expected != found:
            self.violations.append(f"{what}: {found} instead of {expected}")

    def _verify_dead(self, expected: Expected, stats: dict[str, Any]) -> None:
        """The collector's table has each dead letter once, and exactly those that must have died."""
        database = sqlite3.connect(self.dispatcher.data_dir / "collector.db")
        with closing(database):
            rows = database.execute("SELECT id, channel, reason, attempts, notification FROM dead_letters").fetchall()
        self._expect("dead letters by reason", Counter(stats["dead_letters"]), Counter(row[2] for row in rows))
        self._expect("repeated ids of dead letters", 0, len(rows) - len({row[:2] for row in rows}))
        found = Counter((json.loads(row[4])["idempotency_key"], row[1]) for row in rows)
        self._differ("dead letters", expected.dead, found)
        wrong = [row[0] for row in rows if row[3] != self.plan.max_retries + 1]
        self._expect("dead letters with another number of attempts", [], wrong)

    def _differ(self, what: str, expected: Counter[Any], found: Counter[Any]) -> None:
        missing, surplus = expected - found, found - expected
        for kind, some in (("missing", missing), ("surplus", surplus)):
            if some:
                self.violations.append(f"{what}: {some.total()} {kind}, such as {sorted(some)[:5]}")

    def _verify_status(self) -> None:
        """A sample of the acknowledged keys is known, and every delivery has ended as it must."""
        events = list(self._events())
        sample = random.Random(f"{self.plan.seed}:sample").sample(events, min(SAMPLE, len(events)))
        lost: list[str] = []
        with Pipeline(self.dispatcher.submit) as pipeline:
            requests = [
                {"op": "status", "user_id": one["user_id"], "idempotency_key": one["idempotency_key"]}
                for one in (self.workload.notification(number, event) for number, event in sample)
            ]
            for request, (number, event), answer in zip(requests, sample, pipeline.exchange(requests), strict=True):
                if not answer["ok"]:
                    lost.append(request["idempotency_key"])
                    continue
                is_digest = self.workload.kind(number, event) == DIGEST
                outcomes = {
                    one["channel"]: (one["outcome"], 0 if is_digest else one["attempts"])
                    for one in answer["deliveries"]
                }
                self._expect(f"status of {request}", self.workload.deliveries(number, event), outcomes)
        self.sampled, self.lost = len(sample), len(lost)
        if lost:
            self.violations.append(f"status: {len(lost)} of {len(sample)} acknowledged keys are lost, as {lost[:5]}")

    def _verify_inboxes(self, expected: Expected) -> None:
        """Every in-app notification is in its user's inbox once, or counted in one digest there, and the cursors have
        no gap."""
        digested = 0
        ids: set[str] = set()
        found: Counter[tuple[str, str]] = Counter()
        cursors: dict[str, list[int]] = {user: [] for user in self.workload.users}
        wanted: list[dict[str, Any]] = [
            {"op": "inbox.list", "user_id": user, "limit": PAGE} for user in self.workload.users
        ]
        with Pipeline(self.dispatcher.submit) as pipeline:
            while wanted:
                following: list[dict[str, Any]] = []
                for request, answer in zip(wanted, pipeline.exchange(wanted), strict=True):
                    if not answer["ok"]:
                        self.violations.append(f"{request}: {answer['error']}")
                        continue
                    user = request["user_id"]
                    for item in answer["items"]:
                        if "count" in (item["payload"] or {}):
                            self.digests += 1
                            ids.add(item["id"])
                            digested += item["payload"]["count"]
                        else:
                            found[user, item["idempotency_key"]] += 1
                    cursors[user] += [item["cursor"] for item in answer["items"]]
                    if answer["next"] is not None:
                        following.append({**request, "cursor": answer["next"]})
                wanted = following
        self.inbox_items = found.total()
        self._differ("inbox", expected.inbox, found)
        self._expect("items of digests", expected.digested, digested)
        self._expect("ids of digests", self.digests, len(ids))
        for user, numbers in cursors.items():
            if numbers != list(range(1, len(numbers) + 1)):
                self.violations.append(f"inbox of {user}: the cursors have gaps")

    def _summary(self, stats: dict[str, Any], elapsed_s: float) -> dict[str, Any]:
        return {
            "seed": self.plan.seed,
            "durability": self.plan.durability,
            "shards": self.plan.shards,
            "kills": {**self.kills, "total": self.kills.total()},
            "acknowledged": self.acknowledged,
            "accepted": stats.get("accepted"),
            "sampled": self.sampled,
            "lost": self.lost,
            "inbox_items": self.inbox_items,
            "digests": self.digests,
            "cancelled": sum(producer.cancelled for producer in self.producers),
            "dead_letters": stats.get("collector", {}).get("dead_letters"),
            "resubmissions": dict(self.resubmissions),
            "duplicates": stats.get("duplicates"),
            "attempts": stats.get("attempts"),
            "repeated_attempts": self.repeated,  # of those counted: an attempt that a kill cut short never is
            "elapsed_s": round(elapsed_s, 1),
            "violations": self.violations,
            **({"kept": str(self.kept)} if self.kept else {}),
        }


def _no_sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(directory) / name).is_socket()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").partition("\n")[0])
    default = Plan()
    parser.add_argument("--kills", type=int, default=default.kills)
    parser.add_argument("--seconds-max", type=float, default=default.seconds_max, help="no kills after so long")
    parser.add_argument("--shards", type=int, default=default.shards)
    parser.add_argument("--all-at-once", action="store_true", help="each kill takes the whole process tree")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--durability", choices=("process", "power"), default=default.durability)
    parser.add_argument("--rate", type=int, default=default.rate, help="notifications per second")
    parser.add_argument("--failure-rate", type=float, default=default.failure_rate)
    options = vars(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service does not outlive the run
    if options.pop("all_at_once"):
        options["falls"], options["kills"] = options["kills"], 0
    summary = Chaos(Plan(**options), lambda text: print(text, file=sys.stderr, flush=True)).run()
    print(msgspec.json.format(msgspec.json.encode(summary)).decode())
    sys.exit(1 if summary["violations"] else 0)


if __name__ == "__main__":
    main()
