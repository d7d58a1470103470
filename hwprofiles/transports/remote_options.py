"""The options of a target, read with their types; what nobody knows is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from hwprofiles.errors import BadProfile
from hwprofiles.target import Target

_PLAIN_RUNTIME = "onnxruntime"  # has no options of its own

# Options that the device and the protocol of measuring read from the same table.
_ELSEWHERE = frozenset(
    {
        "quiet_wait",
        "quiet_wait_final",
        "lease_wait",
        "cache_bytes",
        "address_limit",
        "runner",
        "runner_files",
        "runner_warmup",
        "runner_settings",
    }
)


class Options:
    """`target.options` for one transport. Every method raises `BadProfile` naming target and option."""

    def __init__(self, target: Target, known: Iterable[str]) -> None:
        self._target = target
        self._known = frozenset(known)
        for name in target.options:
            self._check_known(name)

    def text(self, name: str, default: str = "") -> str:
        value = self._target.options.get(name, default)
        if not isinstance(value, str) or any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise self.wrong(name, "a text without control characters")
        return value

    def number(self, name: str, default: float, *, least: float, most: float, whole: bool = False) -> float:
        value = self._target.options.get(name, default)
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            raise self.wrong(name, f"a {'whole ' if whole else ''}number from {least:g} to {most:g}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        value = self._target.options.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def words(self, name: str) -> tuple[str, ...]:
        value = self._target.options.get(name, ())
        if not isinstance(value, tuple) or not all(word and word.isprintable() for word in value):
            raise self.wrong(name, 'a list of words, such as ["sudo", "-u", "bench"]')
        return value

    def wrong(self, name: str, wanted: str) -> BadProfile:
        """To be raised: the option is not what was wanted."""
        value = self._target.options.get(name)
        found = "missing" if value is None else repr(list(value) if isinstance(value, tuple) else value)
        return BadProfile(f"target {self._target.name!r}: option {name!r} is {found}; give {wanted}")

    def _check_known(self, name: str) -> None:
        runtime = self._target.runtime
        if name in self._known or name in _ELSEWHERE or name == runtime or name.startswith(f"{runtime}_"):
            return
        foreign = runtime != _PLAIN_RUNTIME
        near = difflib.get_close_matches(name, sorted(self._known | _ELSEWHERE), n=2, cutoff=0.75 if foreign else 0.6)
        if foreign and not near:
            return  # a runtime from elsewhere knows its own options; a slip of the pen is told all the same
        known = ", ".join(sorted(self._known or _ELSEWHERE))
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {known}"
        raise BadProfile(
            f"target {self._target.name!r}: transport {self._target.transport!r} has no option {name!r}; {advice}"
        )
