"""The one place where an error becomes one line on stderr and an exit code.

0 done, 1 regression or bug, 2 usage or configuration, 3 inconclusive or nothing feasible, 65 bad data, 69
target unavailable, 74 disk, 75 locked by another run, 124 deadline, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from autotune.errors import AutotuneError, TrialFailure
from hwprofiles.errors import DeviceFailure, HardwareError

INTERRUPTED = 130
DISK = 74
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}

# A failure outside a trial, e.g. of the original model: what kind of error is that for whoever called us?
_FAILURE_CODES = {
    "bad_model": 65,
    "nonfinite": 65,
    "unsupported": 65,
    "user_code": 65,
    "unavailable": 69,
    "disk": DISK,
    "timeout": 124,
}


def guarded(app: typer.Typer, arguments: Sequence[str], *, debug: bool) -> int:
    """Run the command line and return its exit code. With `debug`, errors come with their traceback.

    What nobody expected goes through, and is put into one line by the except hook when the process ends.
    """
    before = sys.excepthook
    if not debug:
        sys.excepthook = _report_bug
    code = _exit_code(app, arguments, debug)
    sys.excepthook = before
    return code


def _exit_code(app: typer.Typer, arguments: Sequence[str], debug: bool) -> int:
    try:
        # Not app(): that would put an except hook of its own in place of ours.
        result = get_command(app)(list(arguments), prog_name="autotune", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:  # a mistake on the command line
        message = error.format_message().rstrip(".")
        if message:  # empty where the help was asked for by giving nothing
            context = getattr(error, "ctx", None)  # of the command whose words were wrong
            command = context.command_path if context is not None else "autotune"
            _say(error, f"{message}; see `{command} --help`", debug)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt) as error:
        _say(error, "interrupted; a study keeps what was finished, and the same command goes on from there", debug)
        return INTERRUPTED
    except (DeviceFailure, TrialFailure) as error:
        _say(error, f"{error.failure.stage}: {error.failure.message}", debug)
        return _FAILURE_CODES.get(error.failure.kind, error.exit_code)
    except (AutotuneError, HardwareError) as error:
        _say(error, str(error), debug)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output, e.g. `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _say(
            error,
            f"{error.strerror}: {error.filename or 'the disk'}; free space or choose another place",
            debug,
        )
        return DISK
    return result if isinstance(result, int) else 0


def _say(error: BaseException, message: str, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    line = " ".join(message.split()) or type(error).__name__
    sys.stderr.write(f"autotune: {_printable(line)}\n")
    sys.stderr.flush()


def _printable(text: str) -> str:
    """No control characters: names out of foreign files must not steer the terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _report_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    frame = traceback.extract_tb(trace)[-1] if trace is not None else None
    place = f" ({os.path.basename(frame.filename)}:{frame.lineno})" if frame is not None else ""  # noqa: PTH119
    text = " ".join(str(error).split())
    sys.stderr.write(
        f"autotune: unexpected {kind.__name__}: {_printable(text)}{place}; this is a bug, run the command again with "
        "--debug and report what it prints\n"
    )
