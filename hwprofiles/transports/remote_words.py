"""Why a program did not start on another machine, in one line with what to do."""

from __future__ import annotations

from hwprofiles.transports.remote_start import NotStarted

_MISSING = ("not found", "no such file", "unknown command", "inaccessible or not found")
_WRONG_MACHINE = ("exec format error", "cannot execute binary file", "bad cpu type", "not executable: 64-bit elf")


def why_not_started(error: NotStarted, python: str) -> str:
    """`python` is the interpreter as the target names it. For endings that are not the connection's own fault."""
    last = error.lines[-1] if error.lines else ""
    if error.why == "refused":
        advice = (
            "set option `folder` to another place" if "its files in" in str(error) else "set `python` to a newer one"
        )
        return f"the device {error}; {advice}"
    if error.why == "silent":
        return f"{error}{_quoted(last)}; it may be overloaded, or its login files may wait for something"
    if error.why == "garbled":
        return (
            f"our program began there, but {error}; what leads to the device must pass on every byte (no terminal, no "
            "filter, nothing else that writes there)"
        )
    if error.why == "noisy":
        return f"the login there prints {error}; make its login files silent for commands that are not typed"
    text = " ".join(error.lines).lower()
    said = last or str(error)
    if any(words in text for words in _WRONG_MACHINE):
        return f"{python!r} is made for another kind of processor than the device has ({said})"
    if error.code == 127 or (error.code in (1, 126) and any(words in text for words in _MISSING)):
        return (
            f"there is no {python!r} ({said}); install Python 3.9 or newer there, or set `python` in its profile to "
            "the path of one"
        )
    if error.code == 126:
        return f"{python!r} may not be executed there ({said}); set `python` in its profile to another"
    if "has no attribute 'buffer'" in text or "unknown option: -c" in text:
        return f"{python!r} there is older than Python 3.9; set `python` in its profile to a newer one"
    return f"{python!r} did not start our program: it ended with {error}{_quoted(last)}"


def _quoted(last: str) -> str:
    return f', its last words are "{last[:300]}"' if last else ""
