"""The waiting room: whoever is put aside is let in again, whatever happens to the others."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from portal.waiting import Wait, WaitingRoom
from portal.worker import Worker, _PutAside


def test_one_that_cannot_be_let_in_leaves_nobody_waiting() -> None:
    let_in: list[str] = []
    all_in = threading.Event()

    def back(connection: str) -> None:
        if connection == "broken":
            raise OSError("the client has gone")
        let_in.append(connection)
        if len(let_in) == 2:
            all_in.set()

    room = WaitingRoom(back, at_a_time=1)
    for connection in ("broken", "first", "second"):
        room.put(connection, Wait("refresh:1", 30, lambda keys: keys))
    assert all_in.wait(10)
    assert let_in == ["first", "second"]


def test_a_connection_that_cannot_be_put_aside_is_closed_and_no_longer_counted() -> None:
    class Room:
        def put(self, connection: object, wait: Wait) -> None:
            raise RuntimeError("can't start new thread")

    closed: list[bool] = []
    worker: Any = Worker.__new__(Worker)
    worker.room, worker.nr_conns = Room(), 1
    done: Future[Any] = Future()
    done.set_result(_PutAside(Wait("refresh:1", 30, lambda keys: keys)))
    worker.finish_request(SimpleNamespace(close=lambda: closed.append(True)), done)
    assert (closed, worker.nr_conns) == ([True], 0)


def test_without_a_thread_nobody_is_put_aside_and_the_next_one_finds_an_open_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    all_in = threading.Event()
    room = WaitingRoom(lambda connection: all_in.set() if connection == "second" else None, at_a_time=1)

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError):
            room.put("first", Wait("refresh:1", 30, lambda keys: keys))
    room.put("second", Wait("refresh:1", 30, lambda keys: keys))
    assert all_in.wait(10)
