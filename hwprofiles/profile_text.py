"""A target as the text of a TOML profile, for people to read and change."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from hwprofiles.target import Target

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(target: Target) -> str:
    """What is not a default, name left out (the file has it). `Target` reads it back to an equal one."""
    facts = target.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    # These say what the target is, default or not.
    said = {key: getattr(target, key) for key in ("runtime", "provider", "transport", "threads")}
    plain = {**said, **{key: value for key, value in facts.items() if not isinstance(value, dict)}}
    first = {key: plain[key] for key in ("description", *said) if key in plain}
    lines = _table({**first, **plain})
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += ["", f"[{key}]", *_table(value)]
    return "\n".join(lines) + "\n"


def _table(facts: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in facts.items()]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, str):
        # A JSON string is a TOML one, but for the one control character that JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)  # booleans and numbers are spelled alike
