"""What OpenSSH's messages mean, in one line with what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence

# What it says, and what to do about it. The first that is found counts: causes come before their consequences.
_ADVICE = (
    ("could not resolve hostname", "check option `host`, or its entry in ~/.ssh/config"),
    ("stdio forwarding failed", "the jump host cannot reach it: check that the device is on"),
    ("open failed: administratively prohibited", "the jump host forbids forwarding"),
    ("connection refused", "no SSH server listens there: start sshd on the device, or check option `port`"),
    ("timed out", "the device does not answer: check that it is on and in the network"),
    ("no route to host", "the device does not answer: check that it is on and in the network"),
    ("network is unreachable", "this machine has no way to that network"),
    ("too many authentication failures", "your agent offers too many keys: set option `identity`"),
    ("permission denied", "it takes none of your keys: set options `user` and `identity`, or once run ssh-copy-id"),
    ("unprotected private key file", "nobody else may read a private key: chmod 600"),
    ("bad owner or permissions", "correct the owner and permissions of that file"),
    ("bad configuration option", "correct that file, or option `config`"),
    ("can't open user config file", "correct option `config`"),
    ("not responding", "the connection went silent"),
    ("kex_exchange_identification", "what listens there is no SSH server, or it turns this machine away"),
)
_IGNORED = re.compile(r"@{3}|^warning: permanently added|post-quantum|store now, decrypt|may need to be upgraded", re.I)


def explain(lines: Sequence[str], host: str) -> str:
    """The one of ssh's lines that says why there is no connection, and what to do; "" if there is none."""
    text = "\n".join(lines)
    if "HOST IDENTIFICATION HAS CHANGED" in text:
        offending = re.search(r"Offending \S+ key in (.+):(\d+)", text)
        where = f"the one in {offending[1]}, line {offending[2]}" if offending else "the one you have accepted"
        return (
            f"its host key is not {where}: somebody may stand between you and the device, or it was installed anew; "
            "only if you know the latter, delete that line and connect once by hand"
        )
    if "host key verification failed" in text.lower() or "host key is known for" in text:
        return f"its host key is unknown here: connect once by hand and compare the fingerprint: ssh {host}"
    for words, advice in _ADVICE:
        for line in lines:
            if words in line.lower():
                return f"{line}; {advice}"
    useful = [line for line in lines if not _IGNORED.search(line)]
    return useful[-1] if useful else ""
