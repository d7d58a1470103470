"""What an adb server can say that a real one on this machine never says: phones that are not ready."""

from __future__ import annotations

import socketserver
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from hwprofiles.errors import TargetUnavailable
from hwprofiles.transports.adb_devices import Server

Serve = Callable[[str], tuple[str, int]]

_PHONE = "R58M123ABC"


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that lists what it is given and refuses everything else; "" answers with garbage."""
    servers: list[socketserver.ThreadingTCPServer] = []

    def start(listing: str) -> tuple[str, int]:
        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                asked = self.rfile.read(int(self.rfile.read(4) or b"0", 16)).decode()
                if not listing:
                    self.wfile.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                elif asked == "host:devices-l":
                    self.wfile.write(b"OKAY" + _counted(listing))
                else:
                    self.wfile.write(b"FAIL" + _counted(f"device unauthorized, asked for {asked}"))

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        host, port = server.server_address[:2]
        return str(host), int(port)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("unauthorized", rf"device {_PHONE} is unauthorized; unlock it and allow USB debugging"),
        ("offline", rf"device {_PHONE} is offline; plug it in again"),
        ("no permissions (user in plugdev group)", rf"device {_PHONE} is no permissions; .*udev rules"),
        ("recovery", rf"device {_PHONE} is recovery; boot it into Android"),
        ("somehow", rf"device {_PHONE} is somehow; look at: adb devices -l"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_phone_that_is_not_ready(serve: Serve, state: str, said: str, named: bool) -> None:
    server = Server(serve(f"{_PHONE:<22} {state} usb:1-1 transport_id:1\n"), "target 'phone'")
    with pytest.raises(TargetUnavailable, match=rf"^target 'phone': {said}"):
        server.choose(_PHONE if named else "")


def test_no_phone_at_all(serve: Serve) -> None:
    server = Server(serve("\n"), "target 'phone'")
    with pytest.raises(
        TargetUnavailable, match=r"has no device; plug one in with USB debugging on, or run: adb connect"
    ):
        server.choose("")
    with pytest.raises(TargetUnavailable, match=rf"has no device {_PHONE}; it has none"):
        server.choose(_PHONE)


def test_a_phone_that_refuses_a_command(serve: Serve) -> None:
    server = Server(serve(f"{_PHONE} device model:Pixel_9\n"), "target 'phone'")
    assert server.choose("") == _PHONE
    with pytest.raises(TargetUnavailable, match=rf"cannot talk to device {_PHONE}: device unauthorized"):
        server.shell(_PHONE, "true")


def test_something_else_listens_there(serve: Serve) -> None:
    with pytest.raises(TargetUnavailable, match=r"the adb server at 127\.0\.0\.1:\d+ does not answer as one"):
        Server(serve(""), "target 'phone'").choose("")


def test_without_adbutils(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(TargetUnavailable, match=r"needs adbutils .*pip install 'hw-autotune\[android\]'"):
        Server(("127.0.0.1", 1), "target 'phone'")


def _counted(text: str) -> bytes:
    return f"{len(text):04x}{text}".encode()
