"""Packs the agent into the one file that travels: a zip archive that Python runs as it is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from importlib import resources

_HOST_ONLY = frozenset({"__init__.py", "archive.py", "client.py", "readings.py"})
_WORKER = "agent_worker"  # the worker's module in the archive
_MAIN = f"""\
import runpy

from hwprofiles.agent.supervisor import main

main()
runpy.run_module("{_WORKER}", run_name="__main__")
"""
_AGENT = "from hwprofiles.agent.program import main\n\nmain()\n"


def build_agent(backend: str, modules: Mapping[str, str] | None = None) -> bytes:
    """The agent: our device-side modules, `backend`, the source of the runtime's device side, and what it imports.

    `modules` are sources by dotted name ("mine.kernels"); on the device they are found before what is installed there.
    """
    return build_archive(_AGENT, {"agent_backend": backend, **(modules or {})})


def build_archive(worker: str, modules: Mapping[str, str] | None = None) -> bytes:
    """Any program, with the supervisor around it that every transport relies on.

    `worker` is the source of what is to run, as a `__main__` (Python 3.9); `modules` are sources that it can import,
    by dotted name, besides our device-side ones. Equal sources give equal bytes, so the file can be kept on the device
    under its digest.
    """
    folder = resources.files("hwprofiles.agent")
    own = [entry for entry in folder.iterdir() if entry.name.endswith(".py") and entry.name not in _HOST_ONLY]
    sources = {f"hwprofiles/agent/{entry.name}": entry.read_text("utf-8") for entry in own}
    sources |= {"hwprofiles/__init__.py": "", "hwprofiles/agent/__init__.py": ""}
    for name, text in (modules or {}).items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            sources.setdefault("/".join(parts[:depth]) + "/__init__.py", "")
        sources["/".join(parts) + ".py"] = text
    sources |= {"__main__.py": _MAIN, f"{_WORKER}.py": worker}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(sources.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, source, zipfile.ZIP_DEFLATED)  # a ZipInfo asks for no compression by itself
    return buffer.getvalue()
