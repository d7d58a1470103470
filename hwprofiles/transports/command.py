"""The transport through a command that runs commands elsewhere: an emulator, a container, another user.

Options of the target:
- `prefix` (a list): put before `python ...`, e.g. ["docker", "exec", "-i", "bench"], ["sudo", "-n", "-u", "bench"],
  ["qemu-aarch64-static", "-L", "/srv/arm64"]. It must pass standard input, output, error and the exit status on.
- `shared` (default false): the inside sees this machine's files under the same paths. The agent's program and its
  cache then lie in the usual work folder; otherwise the program is sent through standard input.
- `folder`: where program and cached models lie, as seen inside (default: `~/.cache/hw-autotune` there).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hwprofiles.errors import BadProfile, TargetUnavailable
from hwprofiles.target import Target
from hwprofiles.transports.local import write_once
from hwprofiles.transports.remote_channel import RemoteChannel, open_channel, spell
from hwprofiles.transports.remote_options import Options
from hwprofiles.transports.remote_start import BOOT, NotStarted, Place, checked_folder, start_remotely
from hwprofiles.transports.remote_words import why_not_started


class CommandTransport:
    """`hwprofiles.transports.protocol.Transport` through the target's `prefix`."""

    def check(self, target: Target) -> None:
        _checked(target)

    def start(self, target: Target, program: bytes, work: Path) -> RemoteChannel:
        options = _checked(target)
        prefix, folder = options.words("prefix"), options.text("folder")
        if not prefix:
            raise options.wrong("prefix", 'a list of words, such as ["docker", "exec", "-i", "bench"]')
        python = "python3" if target.python is None else target.python
        try:
            if options.flag("shared", False):
                place = Path(folder).expanduser() if folder else work.absolute()
                archive = write_once(place, program)
                command = [*prefix, python, str(archive), str(place), str(target.memory_limit)]
                return open_channel(command, spell)
            where = Place(target.memory_limit, folder, target.timeout)
            return start_remotely([*prefix, python, "-c", BOOT], program, where)
        except NotStarted as error:
            raise TargetUnavailable(f"target {target.name!r}: {why_not_started(error, python)}") from error
        except (FileNotFoundError, PermissionError) as error:
            if shutil.which(prefix[0]) is not None:
                raise
            raise TargetUnavailable(
                f"target {target.name!r}: there is no command {prefix[0]!r} here; install it or change option `prefix`"
            ) from error


def _checked(target: Target) -> Options:
    """What is there is as it must be. Raises `BadProfile`."""
    options = Options(target, ("prefix", "folder", "shared"))
    options.words("prefix")
    options.flag("shared", False)
    checked_folder(options.text("folder"), target=target.name)
    python = target.python
    if python is not None and (not python or python.startswith("-") or not python.isprintable()):
        raise BadProfile(f"target {target.name!r}: python is {python!r}; give the name or path of an interpreter")
    return options
