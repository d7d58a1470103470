"""A way to the device that changes what passes through it: told as that, and without our own words."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from hwprofiles.agent.archive import build_archive
from hwprofiles.transports import remote_start
from hwprofiles.transports.remote_start import BOOT, NotStarted, Place, start_remotely
from hwprofiles.transports.remote_words import why_not_started

HELLO = build_archive("import os\nos.write(1, b'hello')\nos.read(0, 1)")
START = f"exec {sys.executable} -c '{BOOT}'"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where the program lies already: it begins at once."""
    there = Place(1 << 30, str(tmp_path / "there"), 60.0)
    start_remotely(through(""), HELLO, there).kill()
    return there


def through(redirections: str) -> list[str]:
    return ["bash", "-c", f"{START} {redirections}"]


@pytest.mark.parametrize(
    "redirections",
    [
        "1> >(exec sed -u y/abcdef/ABCDEF/)",  # what the program says first
        "2> >(exec sed -u y/abcdef/ABCDEF/ >&2)",  # and the word that it begins, in its log
        "2> >(exec sed -u s/^./x/ >&2)",
        "2> >(exec sed -u 's/$/ /' >&2)",
    ],
)
def test_a_damaged_beginning(redirections: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_start, "_BEHIND", 1.0)
    with pytest.raises(NotStarted) as raised:
        start_remotely(through(redirections), HELLO, place)
    assert raised.value.why == "garbled"
    said = " ".join([why_not_started(raised.value, "python3"), *raised.value.lines])
    assert "arrive damaged" in said and "every byte" in said
    assert not re.search("[0-9a-f]{16}", said, re.IGNORECASE)


def test_text_in_the_log_is_kept_and_our_marker_is_not(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_start, "_BEHIND", 1.0)
    command = ["bash", "-c", f"echo Welcome >&2; {START} 1> >(exec sed -u y/abcdef/ABCDEF/)"]
    with pytest.raises(NotStarted) as raised:
        start_remotely(command, HELLO, place)
    assert raised.value.lines == ("Welcome",)


def test_a_way_that_changes_nothing(place: Place) -> None:
    channel = start_remotely(through(""), HELLO, place)
    try:
        assert os.read(channel.replies, 100) == b"hello"
    finally:
        channel.kill()
