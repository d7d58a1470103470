"""What to type so that a card's runtime is installed: into its target's interpreter, or an environment of its own."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from hwprofiles.target import Target


def apart(target: Target, folder: str, install: Callable[[str], str]) -> str:
    """One shell line. `install` makes the command of the words before the packages, such as `python3 -m pip install`.

    Where the target is on this machine and names no interpreter, it is ours that would be changed, and other targets
    need its onnxruntime and its torch. So the line makes an environment, `~/folder`, and then a profile of the user's
    of the target's name, which says so; one that ships stays as it is beneath it.
    """
    if target.transport == "local" and target.python is None:
        return (
            f"python3 -m venv ~/{folder} && {install(f'~/{folder}/bin/pip install')} && "
            f"autotune targets add {target.name} --force --set python=$HOME/{folder}/bin/python"
        )
    command = install(f"{shlex.quote(target.python or 'python3')} -m pip install")
    host, port = target.options.get("host"), target.options.get("port")
    if target.transport == "ssh" and isinstance(host, str):
        door = f"-p {port} " if port else ""
        return f"ssh {door}{shlex.quote(host)} {shlex.quote(command)}"
    return command
