"""The parent of all processes: starts them in order, restarts what dies, stops them in order.

Children are started anew (``python -m``), never forked, and die with their parent. Order: collector, shards,
router, as each needs those before it to keep its promises; stopping goes the other way.
"""

from __future__ import annotations

import functools
import re
import resource
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from dispatcher import reshard, templates
from dispatcher.channel_options import without_table, without_unsubscribe
from dispatcher.child import READY_S, Child
from dispatcher.child_settings import CollectorSettings, RouterSettings
from dispatcher.curve import KeyFileError, server_secret
from dispatcher.data_directory import DataDirectory, Identity, explained
from dispatcher.errors import BrokenError, StartError
from dispatcher.reload import Handover, Source, changed_tables, check_channels
from dispatcher.reloads import Put, Reloaded, puts_file
from dispatcher.settings import Settings, SettingsError
from shards import logs
from shards.process import WRONG_CONFIGURATION, Bell
from shards.rules import DEFAULT_CATEGORIES, PlacedRule
from shards.settings import ShardSettings
from shards.template_parts import listed
from shards.units import encode_hook
from shards.wire.errors import Error, RequestError

log = logs.logger()

CHECK_MS = 100
CRASH_LOOP = 10  # ends in a row, each soon after its start
STOP_MARGIN_S = 2.0  # beyond the time to drain: to end a last turn, and the last answers
STOP_COLLECTOR_S = 5.0
DESCRIPTORS_MAX = 65_536
DESCRIPTORS_SPARE = 512  # clients, files
DESCRIPTORS_PER_SHARD = 6  # of the router


class Supervisor:
    """``run`` returns when ``stop`` was called, from a signal handler as well, and everything has stopped.

    A second ``stop`` kills what has not stopped yet; then ``run`` raises ``BrokenError``.
    """

    def __init__(
        self,
        settings: Settings,
        on_ready: Callable[[], None] = lambda: None,
        load: Callable[[], tuple[Settings, Source]] | None = None,
        source: Source = lambda _keys: "the configuration",
    ) -> None:
        """``load`` reads the configuration again; without it ``reload`` changes nothing. ``source`` is of this one."""
        self.settings = settings
        self._load = load or (lambda: (settings, source))
        self._source = source
        self._library = templates.Library({}, {})
        self._reads = 0  # of the configuration, after the first
        self._reloads = 0  # how often it was told to reload,
        self._reloaded = (0, 0)  # and did, for itself and for the router
        self._put: dict[int, dict[str, Any]] = {}  # what was put with the last of them, by number,
        self._refused: dict[int, Error] = {}  # and what was not
        self._handover: Handover | None = None  # while a change is on its way to the children
        self.directory = DataDirectory(Path(settings.dispatcher.data_dir).absolute())
        self._on_ready = on_ready
        self._bell = Bell()
        self._stops = 0  # how often it was told to
        self._children: list[Child] = []

    def stop(self) -> None:
        self._stops += 1
        self.wake()

    def reload(self) -> None:
        """Read the configuration again, and go by it; the log says what became of it. From signal handlers too."""
        self._reloads += 1
        self.wake()

    def wake(self) -> None:
        """Look at once after the children, one of which has ended."""
        self._bell.ring()

    def run(self) -> None:
        """Raises ``StartError`` or ``SettingsError`` if the service cannot run."""
        with self.directory.lock():
            self._library = templates.load(self.settings, self.directory.path, self._source)
            identity = self.directory.identity(self.settings.dispatcher.shards, lambda: self._stops > 0)
            with explained(self.directory.path, "see that this user can write to it"):
                self.directory.number_configuration(identity, self._configuration())
            self._make_children(identity)
            self._raise_descriptor_limit()
            self._warn_unconfigured()
            for name, key in without_unsubscribe(self.settings.channels, self.settings.categories):
                log.warning("unsubscribable, but its e-mails do not say how", category=name, missing=key)
            for key, channel in without_table(self.settings.channels, self.settings.categories, self.settings.rules):
                log.warning("not configured, and named by the configuration: dead letters", channel=channel, key=key)
            try:
                self._start_all()
                if not self._stops:
                    log.info("ready", shards=len(self._children) - 2, data_dir=str(self.directory.path))
                    self._on_ready()
                self._watch()
            finally:
                self._stop_all()
            if self._stops > 1:
                raise BrokenError("told to stop twice: killed; what was under way will be repeated")

    def _raise_descriptor_limit(self) -> None:
        """Children inherit it. A client is a descriptor of the router, and so are its links to the shards."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            soft = limit
        wanted = DESCRIPTORS_SPARE + DESCRIPTORS_PER_SHARD * len(self._children)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            log.warning("few file descriptors: clients may have to wait; raise LimitNOFILE", limit=soft, wanted=wanted)

    def _warn_unconfigured(self) -> None:
        """Name the channels that the default routing would use, and that nothing is configured for."""
        named = {
            channel
            for name, category in DEFAULT_CATEGORIES.items()
            if name not in self.settings.categories
            for channel in category.channels
        }
        missing = sorted(named - {"inapp", *self.settings.channels})
        if missing:
            log.warning("not configured, and named by the default routing: suppressed", channels=",".join(missing))

    # --- children ----------------------------------------------------------------------------------------------

    def _make_children(self, identity: Identity) -> None:
        self._identity = identity
        for pattern in ("settings-*", "puts-*"):
            for stale in (self.directory.path / "run").glob(pattern):
                stale.unlink()  # a signal that is not from here must not bring back what once was
        try:
            secret = server_secret(self.settings.curve)
        except KeyFileError as error:
            raise StartError(str(error)) from None

        def child(name: str, module: str, settings: Callable[[], bytes]) -> None:
            self._children.append(Child(name, module, settings, self.directory.path, self.settings.log))

        child(
            "collector",
            "dispatcher.collector",
            lambda: msgspec.json.encode(CollectorSettings("collector.db", identity.shards)),
        )
        for number in range(identity.shards):
            child(
                f"shard {number}",
                "shards.worker",
                functools.partial(self._shard_settings, number, identity),
            )
        child("router", "dispatcher.router", lambda: self._router_settings(identity, secret))

    def _configuration(self) -> bytes:
        """All that shards go by, and that is the same for each of them."""
        return self._shard_settings(0, Identity(shards=1, secret=0), incarnation=0, reads=0)

    def _shard_settings(
        self, number: int, identity: Identity, incarnation: int | None = None, reads: int | None = None
    ) -> bytes:
        settings = self.settings
        return msgspec.json.encode(
            ShardSettings(
                shard=number,
                shards=identity.shards,
                path=reshard.journal_path(identity.directory, number),
                durability=settings.dispatcher.durability,
                incarnation=time.time_ns() // 1000 if incarnation is None else incarnation,
                secret=identity.secret,
                version=identity.version,
                reads=self._reads if reads is None else reads,
                categories=settings.categories,
                rate_limits=settings.rate_limits,
                caps=settings.caps,
                retry=settings.retry,
                priorities=settings.priorities,
                idempotency=settings.idempotency,
                retention=settings.retention,
                bounds=settings.bounds,
                schedules=settings.schedules,
                digests=settings.digests,
                channels=settings.channels,
                errors=settings.errors,
                drain=settings.dispatcher.drain,
                rules=msgspec.convert(settings.rules, tuple[PlacedRule, ...], from_attributes=True),
                preferences=settings.preferences,
                templates=self._library.sources,
                templates_put=tuple(sorted(self._library.put)),
                output_bytes=settings.templates.output_bytes,
            ),
            enc_hook=encode_hook,
        )

    def _router_settings(self, identity: Identity, secret: str) -> bytes:
        service, limits, allow = self.settings.dispatcher, self.settings.limits, self.settings.curve.allow
        return msgspec.json.encode(
            RouterSettings(
                epoch=self.directory.next_epoch(),
                shards=identity.shards,
                ingest=self._absolute(service.ingest),
                submit=self._absolute(service.submit),
                stream=self._absolute(service.stream),
                receipt_timeout_s=float(service.receipt_timeout),
                drain_s=float(service.drain),
                message_bytes=limits.message_bytes,
                batch=limits.batch,
                fanout_bytes=limits.fanout_bytes,
                window_frames=limits.window_frames,
                window_bytes=limits.window_bytes,
                requests=limits.requests,
                channels=self._timeouts(),
                curve_secret=secret,
                allow=str(Path(allow).absolute()) if allow else "",
            )
        )

    def _timeouts(self) -> dict[str, float | None]:
        """What the router is to know of the channels."""
        return {name: float(one.timeout) if one.is_attached else None for name, one in self.settings.channels.items()}

    @staticmethod
    def _absolute(endpoint: str) -> str:
        """An ipc path is the user's, relative to where they stand; children stand in the data directory."""
        match = re.fullmatch(r"ipc://(.+)", endpoint)
        return f"ipc://{Path(match[1]).absolute()}" if match else endpoint

    # --- life --------------------------------------------------------------------------------------------------

    def _start_all(self) -> None:
        """Collector and shards together, the router when they are ready."""
        for group in (self._children[:-1], self._children[-1:]):
            for child in group:
                if not child.start():
                    raise BrokenError(f"the {child.name} {child.why}")
            while not self._stops and not all(child.ready for child in group):
                self._listen()
                for child in self._children:
                    if child.reap():
                        kind = StartError if child.code == WRONG_CONFIGURATION else BrokenError
                        raise kind(f"the {child.name} does not start: {child.why}")
                    if child.overdue(time.monotonic()):
                        raise BrokenError(f"the {child.name} is not ready within {READY_S:.0f} s")

    def _listen(self) -> None:
        """Hear what children say, for a moment; ``stop``, ``reload`` and ``wake`` end it."""
        poller = select.poll()
        talking = {output: child for child in self._children if (output := child.output()) is not None}
        poller.register(self._bell, select.POLLIN)
        for output in talking:
            poller.register(output, select.POLLIN)
        for output, _ in poller.poll(CHECK_MS):
            if output in talking:
                talking[output].listen()
        self._bell.hear()

    def _watch(self) -> None:
        while not self._stops:
            self._listen()
            now = time.monotonic()
            for child in self._children:
                if child.overdue(now):
                    child.kill("not ready in time")
                if child.reap():
                    child.schedule_restart(now)
                    if child.failures > CRASH_LOOP:
                        raise BrokenError(
                            f"the {child.name} ended {child.failures} times in a row, each time soon after its start; "
                            f"giving up. The last time: {child.why}"
                        )
                    log.warning("ended, restarting", child=child.name, why=child.why, failures=child.failures)
                if not child.running and now >= child.restart_at:
                    child.start()
            self._step_reload(now)

    # --- another configuration ---------------------------------------------------------------------------------

    def _step_reload(self, now: float) -> None:
        """One reload after the other. Those that were asked for before it began are answered by it."""
        if self._handover is None:
            asked = self._reloads, self._children[-1].asked
            if asked != self._reloaded:
                reads = asked[0] != self._reloaded[0] or self._children[-1].asked_to_read > self._reloaded[1]
                self._reloaded = asked
                self._begin_reload(reads)
            return
        if self._handover.step(now):
            self._handover = None
            self._tell_router(None)

    def _begin_reload(self, reads: bool) -> None:
        """Read the configuration again, or only keep what templates are put."""
        before = self.settings, self._library
        tables: list[str] = []
        puts = self.directory.path / puts_file(self._reloaded[1])
        self._put, self._refused = {}, {}
        try:
            if reads:
                self._reads += 1
                after, source = self._load()
                tables = changed_tables(self.settings, after, source)
                check_channels(after.channels, {name for child in self._children for name in child.knew}, source)
                self.settings, self._library = after, templates.load(after, self.directory.path, source)
            self._take_puts(puts)
            if self._library != before[1] and "templates" not in tables:
                tables.append("templates")
            self.directory.number_configuration(self._identity, self._configuration())
        except (SettingsError, OSError) as error:
            self.settings, self._library = before
            puts.unlink(missing_ok=True)
            log.error("configuration not reloaded", error=str(error))
            self._tell_router(Error("bad_value" if isinstance(error, SettingsError) else "unavailable", str(error)))
            return
        logs.configure("supervisor", self.settings.log)
        for child in self._children:
            child.log_settings = self.settings.log
        log.info("configuration reloaded", version=self._identity.version, tables=",".join(tables))
        self._handover = Handover(
            self._children[1:-1], self._identity.version
        )  # a secret's file may have changed alone

    def _take_puts(self, file: Path) -> None:
        """Store the templates that lie in a file, one by one: what is wrong with one is not the others' fault."""
        if not file.exists():
            return
        library = self._library
        for put in msgspec.json.decode(file.read_bytes(), type=list[Put]):
            try:
                library = templates.put(library, self.settings, put.name, put.parts)
                self._put[put.number] = listed(put.name, put.parts, put=True)
            except RequestError as refused:
                self._refused[put.number] = refused.error
        file.unlink()
        if self._put:
            templates.store(self.directory.path, library)
            self._library = library

    def _tell_router(self, error: Error | None) -> None:
        """The router and the collector go by no more of it than the log's level."""
        collector, *_, router = self._children
        told = Reloaded(self._reloaded[1], self._identity.version, error, self._put, self._refused, self._timeouts())
        try:
            if error is None and collector.ready and collector.running:
                collector.change()
            if router.ready and router.running:  # otherwise nobody waits there
                router.change(msgspec.json.encode(told))
            elif error is None:
                router.kill("it was started with the configuration before")
        except OSError as problem:
            log.error("cannot tell of the reload", error=str(problem))

    def _stop_all(self) -> None:
        started = time.monotonic()
        collector, *shards, router = self._children
        drain_s = self.settings.dispatcher.drain + STOP_MARGIN_S
        for group, seconds in (([router], drain_s), (shards, drain_s), ([collector], STOP_COLLECTOR_S)):
            self._stop_group([child for child in group if child.running], seconds)
        log.info("stopped", took_s=round(time.monotonic() - started, 3))

    def _stop_group(self, group: list[Child], seconds: float) -> None:
        """End all of them; what does not in time, or not before a second ``stop``, is killed."""
        if group:
            log.info("stopping", children=",".join(child.name for child in group), at_most_s=seconds)
        for child in group:
            child.terminate()
        deadline = time.monotonic() + seconds
        while (left := [child for child in group if child.running and not child.reap()]) and self._stops <= 1:
            if time.monotonic() > deadline:
                break
            self._listen()
        for child in left:
            log.warning("does not stop: killed; what it had under way will be repeated", child=child.name)
            child.kill()
            child.reap()
