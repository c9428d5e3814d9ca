"""Lets callers wait for a refresh in coroutines. Callers for the same resource of a connection share a refresh."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import partial
from typing import Any

from django.db import close_old_connections
from django.db import connection as database

from connections import tracing
from connections.errors import TokenUnavailable
from connections.services.tokens import refresh_locks, single_flight
from connections.services.tokens.single_flight import TokenRequirement
from connections.services.tokens.token_calls import Wait

# Runs a function that uses the database outside of the event loop. The function's arguments follow it.
RunInThread = Callable[..., Awaitable[Any]]

logger = logging.getLogger(__name__)

MOST_REFRESHES = 16  # simultaneous refreshes in one process
MOST_OF_ONE_APP = 8  # simultaneous refreshes for one app registration, so that slow ones don't hold up other apps
MOST_WAITING = 2400  # callers in one process
MOST_OF_ONE_CONNECTION = 1200  # callers for one connection
_LOOK_EVERY = 0.05  # seconds between checks for refreshes in other processes


class Refreshes:
    """The refreshes that callers in this process wait for. They run here, each in a thread, or in other processes."""

    def __init__(self, run_in_thread: RunInThread) -> None:
        self._run_in_thread = run_in_thread
        self._tasks: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._waiting: Counter[asyncio.Task[None]] = Counter()
        self._threads = asyncio.Semaphore(MOST_REFRESHES)
        self._of_app: dict[int, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, MOST_OF_ONE_APP))
        self._elsewhere: dict[str, asyncio.Future[None]] = {}
        self.is_closing = asyncio.Event()

    def begin(self, wait: Wait, wanted: TokenRequirement) -> asyncio.Task[None]:
        """Start the connection's refresh, or join a running one. Raises TokenUnavailable if too many callers are
        waiting.
        """
        key = (wait.connection_pk, wait.resource)
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.ensure_future(self._refresh(wait, wanted))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key))
        if self._waiting[task] >= MOST_OF_ONE_CONNECTION or self._waiting.total() >= MOST_WAITING:
            raise TokenUnavailable("Too many callers are waiting for a token.")
        return task

    async def wait(self, task: asyncio.Task[None], patience: float) -> bool:
        """Wait for the refresh. Return whether it ended within ``patience`` seconds and before the server shut down."""
        closing = asyncio.ensure_future(self.is_closing.wait())
        self._waiting[task] += 1
        try:
            done, _ = await asyncio.wait({task, closing}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            return task in done
        finally:
            closing.cancel()
            self._waiting[task] -= 1
            if not self._waiting[task]:
                del self._waiting[task]

    async def _refresh(self, wait: Wait, wanted: TokenRequirement) -> None:
        async with self._of_app[wait.app_pk], self._threads:
            try:
                context = tracing.carry_into(Context())
                arguments = (wait.connection_pk, wanted, wait.resource)
                is_ours = await self._run_in_thread(context.run, _refresh_in_turn, *arguments)
            except Exception:
                # The callers get no token, and the scheduled sweep will try again.
                logger.exception("A token could not be refreshed.", extra={"connection": wait.connection_pk})
                return
        if not is_ours:
            await self._end_elsewhere(refresh_locks.lock_name(wait.connection_pk, wait.resource))

    async def _end_elsewhere(self, turn: str) -> None:
        """Wait until another process has finished its refresh. A single task polls for all waiting callers."""
        is_first = not self._elsewhere
        future = self._elsewhere[turn] = asyncio.get_running_loop().create_future()
        if is_first:
            self._poll = asyncio.ensure_future(self._look())
        await future

    async def _look(self) -> None:
        while self._elsewhere:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                done = await self._run_in_thread(refresh_locks.is_done, list(self._elsewhere))
            except Exception:
                # Wake all callers. They ask again, and the first one that has to wait starts a new poll.
                logger.exception("The refreshes in other processes could not be checked.")
                done = set(self._elsewhere)
            for turn in done:
                self._elsewhere.pop(turn).set_result(None)


def _refresh_in_turn(pk: int, wanted: TokenRequirement, resource: str) -> bool:
    if database.in_atomic_block:  # in a test
        return single_flight.refresh_in_turn(pk, wanted, resource)
    close_old_connections()
    try:
        return single_flight.refresh_in_turn(pk, wanted, resource)
    finally:
        close_old_connections()
