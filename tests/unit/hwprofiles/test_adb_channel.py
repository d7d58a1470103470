"""adb's shell protocol, however its bytes come in pieces."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.transports.adb_channel import (
    CLOSE_STDIN,
    EXIT,
    STDERR,
    STDIN,
    STDOUT,
    AdbChannel,
    GarbledError,
    Parser,
    Result,
    converse,
    message,
)
from hwprofiles.transports.protocol import Ending


@given(
    st.lists(st.tuples(st.integers(min_value=0, max_value=255), st.binary(max_size=50)), max_size=10),
    st.lists(st.integers(min_value=1, max_value=20), min_size=1),
)
def test_messages_come_out_as_they_went_in(sent: list[tuple[int, bytes]], pieces: list[int]) -> None:
    data = b"".join(message(kind, text) for kind, text in sent)
    parser, found, turn = Parser(), [], 0
    while data:
        size = pieces[turn % len(pieces)]
        found += list(parser.feed(data[:size]))
        data, turn = data[size:], turn + 1
    assert found == sent


def test_a_conversation_feeds_and_collects() -> None:
    here, there = socket.socketpair()

    def device() -> None:
        parser, got, open_ = Parser(), b"", True
        while open_:
            for kind, data in parser.feed(there.recv(4096)):
                got += data if kind == STDIN else b""
                open_ = open_ and kind != CLOSE_STDIN
        there.sendall(message(STDOUT, str(len(got)).encode()) + message(STDERR, b"done") + message(EXIT, b"\x07"))

    with here, there:
        worker = threading.Thread(target=device)
        worker.start()
        assert converse(here, io.BytesIO(b"x" * 300_000), 20.0) == Result(7, "300000", "done")
        worker.join()


def test_a_conversation_that_breaks_or_hangs_is_told() -> None:
    here, there = socket.socketpair()
    with here:
        with there:
            with pytest.raises(TimeoutError):
                converse(here, None, 0.1)
            there.sendall(message(STDOUT, b"half of it"))
        with pytest.raises(ConnectionError):
            converse(here, None, 5.0)


def test_a_message_longer_than_any_is_refused_before_it_comes() -> None:
    parser = Parser()
    assert list(parser.feed(message(STDOUT, b"x"))) == [(STDOUT, b"x")]
    with pytest.raises(GarbledError, match="4294967295 bytes"):
        list(parser.feed(b"\x01\xff\xff\xff\xff"))


def test_a_conversation_keeps_so_much_text_and_no_more() -> None:
    piece = message(STDERR, b"e" * 1000)
    for count, fits in ((1048, True), (1049, False)):
        here, there = socket.socketpair()
        with here, there:
            data = piece * count + message(EXIT, b"\x00")
            worker = threading.Thread(target=send_all, args=(there, data))
            worker.start()
            if fits:
                assert len(converse(here, None, 20.0).stderr) == count * 1000
            else:
                with pytest.raises(GarbledError, match="more than 1024 KiB"):
                    converse(here, None, 20.0)
            here.close()
            worker.join()


def send_all(line: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the other side has heard enough
        line.sendall(data)


def test_a_channel_on_which_garbage_comes_is_broken() -> None:
    line, device, guard, watched = *socket.socketpair(), *socket.socketpair()
    with device, watched:
        channel = AdbChannel(line, guard, "it broke", lambda code: None)
        device.sendall(b"\x01\xff\xff\xff\xff and so on")
        ending = channel.ended(wait=5)
        assert ending is not None and ending.code is None
        assert ending.said.startswith("it broke: a message of 4294967295 bytes")
        assert os.read(channel.replies, 1) == b""
        channel.kill()
        assert watched.recv(100) == b""


def test_what_the_program_wrote_comes_before_its_end() -> None:
    line, device, guard, watched = *socket.socketpair(), *socket.socketpair()
    with device, watched:
        channel = AdbChannel(line, guard, "it broke", lambda code: None)
        size = 3 << 20  # more than a pipe holds

        def send() -> None:
            for start in range(0, size, 1 << 16):
                device.sendall(message(STDOUT, b"r" * min(1 << 16, size - start)))
            device.sendall(message(STDERR, b"last words") + message(EXIT, b"\x8b"))

        sender = threading.Thread(target=send)
        sender.start()
        got = 0
        while piece := os.read(channel.replies, 1 << 20):
            got += len(piece)
        sender.join()
        assert got == size
        assert channel.ended(wait=5) == Ending(139, "SIGSEGV")
        assert os.read(channel.log, 100) == b"last words"
        assert watched.recv(100) == message(STDIN, b"ended\n")  # it has ended by itself
        channel.kill()


def test_a_broken_connection_has_no_exit_code() -> None:
    line, device, guard, watched = *socket.socketpair(), *socket.socketpair()
    with watched:
        channel = AdbChannel(line, guard, "it broke", lambda code: None)
        device.close()
        assert channel.ended(wait=5) == Ending(None, "it broke")
        assert os.read(channel.replies, 1) == b""
        channel.kill()
        channel.kill()
        assert watched.recv(100) == b""  # the guard ends what may still run there
