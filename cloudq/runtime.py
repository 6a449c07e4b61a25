"""The parts that all of an app shares: settings, clock, codec, broker, result store, scheduler."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import tzinfo
from functools import cache, partial
from threading import RLock
from typing import TYPE_CHECKING, Any

from cloudq.clock import Clock, real_time
from cloudq.driver import BackendDriver, BrokerDriver, Code, StoreLimits
from cloudq.driver.billing import Meter, meter_of
from cloudq.driver.blobs import Blobs
from cloudq.driver.forks import imported, renew_after_fork
from cloudq.driver.immutable import immutable
from cloudq.driver.loader import open_backend, open_blobs, open_broker, open_scheduler
from cloudq.errors import PayloadError, ServiceError
from cloudq.messages.codec import Codec
from cloudq.messages.message import new_id
from cloudq.messages.redaction import Redaction
from cloudq.results.backend import Backend
from cloudq.results.ends_log import EndsLog
from cloudq.results.events import KEPT, History
from cloudq.results.large import LargeValues
from cloudq.results.record import State
from cloudq.settings import Level, Settings
from cloudq.text import describe

if TYPE_CHECKING:  # an app that sends and runs nothing starts without them
    from zoneinfo import ZoneInfo

    from cloudq.broker.broker import Broker
    from cloudq.broker.one_time import OneTimeSchedules
    from cloudq.messages.encryption import Encryption
    from cloudq.messages.payloads import Payloads
    from cloudq.results.sealing import Sealing


@immutable
class Services:
    """The outside world of an app: the time, and the drivers behind its URLs.

    Real ones by default; `cloudq.testing` puts others in their place. `clock` tells epoch
    seconds: delays, leases, expiry and records go by it. `sleep` waits before a busy service is
    asked again. Time limits of running tasks stay on the real clock, as does every wait for a
    thread or a process.
    """

    clock: Clock = real_time
    sleep: Callable[[float], None] = time.sleep
    open_broker: Callable[[str], BrokerDriver] = open_broker
    open_backend: Callable[[str], BackendDriver] = open_backend
    open_scheduler: Callable[[str], object] = open_scheduler
    open_blobs: Callable[[str], Blobs] = open_blobs


class Runtime:
    """Everything that the parts of one app share. Safe to use from many threads.

    Settings are read when they are needed, so that a later change counts everywhere. The broker,
    the result store and the one-time scheduler are opened at their first use, and again after
    `close`.
    """

    def __init__(self, name: str, conf: Settings) -> None:
        self.name = name
        self.conf = conf
        self.services = Services()
        self.tasks: Mapping[str, Any] = {}
        self.lock = RLock()
        self._broker: Broker | None = None
        self._backend: Backend | None = None
        self._scheduler: OneTimeSchedules | None = None
        self._payloads: Payloads | None = None
        self._encryption: Encryption | None = None
        self._redaction: Redaction | None = None
        renew_after_fork(self, Runtime._in_child)

    def _in_child(self) -> None:
        """Forget a lock that a thread of the parent may hold; brokers and stores open anew."""
        self.lock = RLock()

    def clock(self) -> float:
        """The time that this app goes by, in epoch seconds; tests can set it."""
        return self.services.clock()

    @property
    def zone(self) -> tzinfo:
        """The time zone of datetimes without one."""
        return zone_of(self.conf.timezone)

    @property
    def codec(self) -> Codec:
        """The codec that reads and writes this app's messages, as its settings say."""
        return Codec.of(self.conf, self.name, clock=self.clock, encryption=self.encryption)

    @property
    def redaction(self) -> Redaction:
        """The rules for what is shown of calls: by the setting `redact`, and the app's tasks."""
        made, patterns = self._redaction, self.conf.redact
        if made is None or made.patterns is not patterns:
            made = self._redaction = Redaction(patterns, self.tasks)
        return made

    def hides(self, task: str) -> bool:
        """Tell whether something of a task's calls has a name by which it is secret."""
        redaction = self.redaction
        try:
            return redaction.known[task] is not None
        except KeyError:
            return redaction.of(task) is not None

    @property
    def encryption(self) -> Encryption | None:
        """The keys that encrypt what is sent and stored; None where there are none."""
        conf = self.conf
        if not conf.encryption_keys:
            return None
        keys = {name: key.get_secret_value() for name, key in conf.encryption_keys.items()}
        given = keys, conf.encryption_key, conf.encryption_required, conf.encryption_hides_task
        with self.lock:
            if self._encryption is None or self._encryption.given != given:
                made = imported("cloudq.messages.encryption").Encryption(
                    keys, seals=given[1], required=given[2], hides_task=given[3]
                )
                self._encryption = made
            return self._encryption

    @property
    def is_open(self) -> bool:
        """Tell whether the broker or the result store has been opened."""
        return self._broker is not None or self._backend is not None

    @property
    def broker(self) -> Broker:
        """The broker, opened at its first use. Raises `ConfigurationError`."""
        opened = self._broker
        if opened is not None:
            return opened
        with self.lock:
            if self._broker is None:
                self._broker = self._open_broker()
            return self._broker

    @property
    def backend(self) -> Backend | None:
        """The result store, opened at its first use; None when the app has none."""
        opened = self._backend
        if opened is not None:
            return opened
        with self.lock:
            url = self.conf.backend_url
            if self._backend is None and url is not None:
                self._backend = self._open_backend(url)
            return self._backend

    def new_id(self) -> str:
        """Return the id of a call that is made now. Opens nothing."""
        opened = self._backend
        return new_id() if opened is None else opened.new_id()

    @property
    def event_level(self) -> Level:
        """The events of which each is recorded by itself."""
        return self.conf.task_events or Level.FAILED

    @property
    def keeps_events(self) -> bool:
        """True where calls that succeed, or that start, have events of their own. Opens nothing."""
        opened = self._backend
        if opened is not None:
            return opened.history is not None and opened.history.keeps_successes
        return State.SUCCESS in KEPT[self.event_level]

    @property
    def scheduler(self) -> OneTimeSchedules | None:
        """The one-time schedules of long-delayed calls; None where their queue re-sends them."""
        conf = self.conf
        if conf.scheduler_eta is None or conf.scheduler is None:
            return None
        with self.lock:
            if self._scheduler is None:
                from cloudq.broker.one_time import OneTimeSchedules

                self._scheduler = OneTimeSchedules(
                    partial(self.services.open_scheduler, conf.scheduler),
                    url=conf.scheduler,
                    app=self.name,
                    after=conf.scheduler_eta,
                )
            return self._scheduler

    def payloads(self) -> Payloads | None:
        """Return the store of large payloads, opened at its first use; None without one."""
        opened = self._payloads
        if opened is not None:
            return opened
        with self.lock:
            conf, url = self.conf, self.conf.payload_url
            if self._payloads is None and url is not None:
                imported("cloudq.messages.payloads")
                from cloudq.messages.payloads import Payloads

                self._payloads = Payloads(
                    self.services.open_blobs(url),
                    url=url,
                    most=conf.payload_limit,
                    app=self.name,
                    encryption=self.encryption,
                    clock=self.clock,
                    sleep=self.services.sleep,
                    reopen=partial(self.services.open_blobs, url),
                )
            return self._payloads

    def payloads_to_read(self) -> Payloads | None:
        """Return the store of large payloads for a call that has come.

        Raises `PayloadError` where it cannot be opened, say for want of credentials: the call is
        not to blame, and waits.
        """
        try:
            return self.payloads()
        except ServiceError:
            raise
        except Exception as error:
            said = f"the payload store cannot be opened: {describe(error)}"
            raise PayloadError(said, code=Code.CREDENTIALS) from error

    def meters(self) -> list[Meter]:
        """Return the meters of the drivers that are open in this process and have one."""
        parts = (self._broker, self._backend, self._scheduler, self._payloads)
        opened = [each.opened for each in parts if each is not None]
        return [meter for driver in opened if (meter := meter_of(driver)) is not None]

    def close(self) -> None:
        """Close what is open; a later use opens it again."""
        with self.lock:
            if self._scheduler is not None:
                self._scheduler.close()
            self._scheduler = None
            if self._broker is not None:
                self._broker.close()
            if self._backend is not None:
                self._backend.write_ends()
                self._backend.close()
            if self._payloads is not None:
                self._payloads.close()
            self._broker = self._backend = self._payloads = None
            if self._encryption is not None:
                self._encryption.close()

    def _open_broker(self) -> Broker:
        imported("cloudq.broker.broker")  # no fork cuts that short
        from cloudq.broker.broker import Broker
        from cloudq.broker.claim_check import ClaimCheck
        from cloudq.broker.delayed import DelayedStore

        conf, codec = self.conf, self.codec
        return Broker(
            self.services.open_broker(conf.broker),
            url=conf.broker,
            reopen=partial(self.services.open_broker, conf.broker),
            publish_retries=conf.publish_retries,
            delayed_store=DelayedStore(self._store) if conf.backend_url is not None else None,
            codec=codec,
            clock=self.clock,
            sleep=self.services.sleep,
            bundle_bytes=conf.bundle_bytes,
            claims=ClaimCheck(codec, self.payloads, conf.payload_store_over),
        )

    def _store(self) -> Backend:
        opened = self.backend
        assert opened is not None  # a broker without a store keeps no delayed messages
        return opened

    def _open_backend(self, url: str) -> Backend:
        conf = self.conf
        driver = self.services.open_backend(url)
        return Backend(
            driver,
            url=url,
            reopen=partial(self.services.open_backend, url),
            expires=conf.result_expires,
            history=self._history(driver.limits),
            clock=self.clock,
            large=LargeValues(self.payloads, conf.payload_store_over),
            sealing=self._sealing(),
        )

    def _sealing(self) -> Sealing | None:
        encryption = self.encryption
        if encryption is None:
            return None
        apps = frozenset({self.name, *self.conf.signing_apps})
        sealing: Sealing = imported("cloudq.results.sealing").Sealing(encryption, self.name, apps)
        return sealing

    def _history(self, limits: StoreLimits) -> History | None:
        conf = self.conf
        if self.event_level is Level.NONE:
            return None
        logs_ends = limits.shared and not limits.billed and conf.task_events is None
        return History(
            self.event_level,
            expires=conf.task_events_expires,
            arguments=conf.task_events_args,
            max_body=conf.max_body,
            clock=self.clock,
            redaction=self.redaction,
            ends=EndsLog(self.clock, conf.task_events_expires) if logs_ends else None,
        )


@cache
def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name."""
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)
