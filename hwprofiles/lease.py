"""One measurement on a device at a time: across processes, users and machines that reach it.

The lock lives on the device (`hwprofiles.agent.lock`). A keeper, an agent of its own without a runtime, holds it there
for us and dies with its connection, so the lock is free at once when we are gone, however we went.

NOTE: the lease is taken per operation, not for as long as a device is open. Two studies on one device then take
turns trial by trial, and neither starves. Timing holds the device alone (`exclusive`); inference and profiling share
it, since they do not care about each other but would disturb a timing.
"""

from __future__ import annotations

import contextlib
import getpass
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from hwprofiles.agent.client import AgentClient, Moment
from hwprofiles.errors import DeviceFailure, TargetBusy, TargetLost, TargetUnavailable

_PING = 10.0  # seconds between two signs of life while the device is held; the device gives up after 60
_PATIENCE = 15.0  # seconds for the keeper to answer: it never does anything that takes time
_FRESH = 2.0  # seconds after an answer in which the keeper is taken to be there
_DRIFT, _SLACK = 0.02, 0.5  # how far the device's clock and ours may drift apart: a share, and seconds


class Keeper:
    """Holds the device's lock through a connection of its own. For use by several threads.

    `start` gives a new agent that was not greeted; `wait` bounds the time to queue, in seconds. A keeper that was lost
    is started anew by the next use.
    """

    def __init__(self, start: Callable[[], AgentClient], label: str, *, wait: float = 900.0) -> None:
        self._start = start
        self._label = label
        self._wait = wait
        self._line = threading.Lock()  # around every exchange with the keeper
        self._client: AgentClient | None = None
        self._names = itertools.count()
        self._held = 0
        self._alarm = threading.Condition()
        self._closed = False
        self._pulse: threading.Thread | None = None

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def exclusive(self, what: str) -> Iterator[int]:
        """Nobody else uses the device meanwhile. Gives the token of the claim; `what` is shown to those who wait.

        Raises `TargetBusy`, naming the holder; `TargetUnavailable`; and `TargetLost` at the end of the block if the
        claim, the device or its clock was lost on the way: what was measured is worth nothing then.
        """
        client, name, token = self._acquire(True, what)
        begin = client.moment
        try:
            yield token
        except BaseException:
            self._leave(client, name)
            raise
        self._leave(client, name, must=True)
        assert begin is not None and client.moment is not None  # every reply brings one
        check_clocks(begin, client.moment, self._label)

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """No timing happens meanwhile; others that share may. Raises `TargetBusy`, naming the holder."""
        client, name, _ = self._acquire(False, "inference or profiling")
        try:
            yield
        finally:
            self._leave(client, name)

    def holder(self) -> str | None:
        """Who holds the device alone right now, in words; None if nobody does. Raises `TargetUnavailable`."""
        told = self._retry("holder").get("holder")
        return None if told is None else _spell(told)

    def release(self, force: bool) -> str:
        """Take the device from whoever holds it alone; what was done, in words.

        Without `force` only says that nobody has it. What shares the device (inference) or waits for it, and hangs,
        frees itself within a minute, and is not touched. Raises `TargetBusy` naming the holder without `force`, and
        `TargetUnavailable` if the holder cannot be ended from this account.
        """
        holder = self.holder()
        if holder is None:
            return f"{self._label}: nobody holds it"
        if not force:
            raise TargetBusy(f"{self._label}: held by {holder}; stop it there, or take the device from it by force")
        return f"{self._label}: {_plain(self._retry('evict').get('done', ''))} ({holder})"

    def responds(self) -> bool:
        """Whether the device still answers at all."""
        client = self._client
        try:
            if client is not None:
                self._ask(client, "ping")
        except (TargetLost, TargetUnavailable):
            return False
        return True

    @property
    def boot(self) -> str | None:
        """Of the device, as the keeper sees it; None before it was asked anything."""
        client = self._client
        return client.moment.boot if client is not None and client.moment is not None else None

    def close(self) -> None:
        """End the keeper; everything it held is free."""
        with self._alarm:
            self._closed = True
            self._alarm.notify_all()
        if self._pulse is not None:
            self._pulse.join()
        with self._line:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _acquire(self, exclusive: bool, what: str) -> tuple[AgentClient, str, int]:
        """(the keeper that holds it, name of the claim, token or 0)."""
        name = f"{os.getpid()}-{next(self._names)}"
        who = {"user": _user(), "host": socket.gethostname(), "pid": os.getpid(), "what": what}
        deadline, pause = time.monotonic() + self._wait, 0.005
        client = self._connected()
        if client.moment is None or time.monotonic() - client.moment.got > _FRESH:
            self._retry("ping")  # one that was lost while it was idle is replaced here, where nothing is at stake
            client = self._connected()
        try:
            while True:
                reply = self._ask(client, "attempt", name=name, exclusive=exclusive, who=who)
                if reply.get("got"):
                    with self._line:  # garbage ends the keeper, which nobody must be talking to then
                        token = _token(client, reply) if exclusive else 0
                    break
                if time.monotonic() >= deadline:
                    told = reply.get("holder")
                    raise TargetBusy(
                        f"{self._label}: the device is in use by {_spell(told) if told else 'another process'}; waited "
                        f"{self._wait:g} s. Wait for it or stop it"
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, 0.1)
        except BaseException:
            self._leave(client, name, counted=False)
            raise
        with self._alarm:
            self._held += 1
            if self._pulse is None:
                self._pulse = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
                self._pulse.start()
            self._alarm.notify_all()
        return client, name, token

    def _leave(self, client: AgentClient, name: str, *, must: bool = False, counted: bool = True) -> None:
        """Give a claim back. `must`: raise `TargetLost` if it could not be, because it was lost before."""
        if counted:
            with self._alarm:
                self._held -= 1
        try:
            self._ask(client, "leave", name=name)
        except (TargetLost, TargetUnavailable):
            if must:
                raise

    def _beat(self) -> None:
        """Signs of life while something is held: a device that hears none frees itself."""
        while True:
            with self._alarm:
                self._alarm.wait_for(lambda: self._closed or self._held > 0)
                self._alarm.wait_for(lambda: self._closed, timeout=_PING)
                if self._closed:
                    return
                client = self._client if self._held else None
            if client is not None:
                with contextlib.suppress(TargetLost, TargetUnavailable):  # whoever holds it learns it at the end
                    self._ask(client, "ping")

    def _connected(self) -> AgentClient:
        with self._line:
            if self._client is None or not self._client.look():
                self._client = self._start()
            return self._client

    def _retry(self, op: str) -> dict[str, Any]:
        """Ask, and once more with a new keeper if the old one turns out to be gone."""
        try:
            return self._ask(self._connected(), op)
        except TargetLost:
            return self._ask(self._connected(), op)

    def _ask(self, client: AgentClient, op: str, **fields: Any) -> dict[str, Any]:
        """Raises `TargetLost` if the keeper is gone, `TargetUnavailable` if the lock cannot be used."""
        with self._line:
            self._refuse_dead(client)
            try:
                return client.request(op, stage="lease", timeout=_PATIENCE, **fields)[0]
            except DeviceFailure as error:
                if client.alive:  # it refused
                    raise TargetUnavailable(error.failure.message) from error
                log = (error.failure.traceback or "").strip().splitlines()[-1:]
                said = "; ".join([error.failure.message, *log])
                if client.moment is None:
                    raise TargetUnavailable(said) from error
                raise TargetLost(f"{said}; the lease of the device is lost with its keeper") from error

    def _refuse_dead(self, client: AgentClient) -> None:
        if not client.alive:
            raise TargetLost(f"{self._label}: the lease of the device is lost with its keeper")


def check_clocks(begin: Moment, end: Moment, label: str) -> None:
    """Raise `TargetLost` unless device and host saw the same time pass between two readings, on the same boot."""
    if begin.boot != end.boot:
        raise TargetLost(f"{label}: the device has started anew; what was being measured is lost")
    # Each reading was taken at some time between `sent` and `got`.
    least, most = end.sent - begin.got, end.got - begin.sent
    device = end.device - begin.device
    slack = _DRIFT * most + _SLACK
    if not least - slack <= device <= most + slack:
        raise TargetLost(
            f"{label}: {device:.2f} s passed on the device while {most:.2f} s passed here; it slept, or its clock "
            "cannot be trusted. What was being measured is lost"
        )


def _token(client: AgentClient, reply: dict[str, Any]) -> int:
    """Of an exclusive claim. Raises `TargetLost` if the keeper gives none."""
    with client.reading("lease"):
        token = reply["token"]
        if type(token) is not int:
            raise ValueError("the token of a claim is no number")
        return token


def _spell(told: Any) -> str:
    """A holder in words: who, what, since when."""
    if not isinstance(told, dict):
        return "another process"
    who = f"{told.get('user', told.get('account', '?'))}@{told.get('host', '?')} (process {told.get('pid', '?')})"
    seconds = told.get("seconds")
    since = f" for {seconds:.0f} s" if isinstance(seconds, (int, float)) and 0 <= seconds < 1e10 else ""
    return _plain(f"{who}{since}: {told.get('what', 'unknown work')}")


def _plain(text: Any) -> str:
    """It comes from a file that others may write."""
    return "".join(c for c in str(text)[:1000] if c.isprintable())[:300]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in containers
        return str(os.getuid())
