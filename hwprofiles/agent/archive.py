"""Packs the agent into the one file that travels: a zip archive that Python runs as it is."""

from __future__ import annotations

import io
import zipfile
from importlib import resources

_MODULES = ("frames.py", "probe.py", "timing.py", "cache.py", "program.py")
_MAIN = "from hwprofiles.agent.program import main\n\nmain()\n"


def build_agent(backend: str) -> bytes:
    """The archive: our device-side modules plus `backend`, the source of the runtime's device side.

    Equal sources give equal bytes, so the file can be kept on the device under its digest.
    """
    folder = resources.files("hwprofiles.agent")
    sources = {f"hwprofiles/agent/{name}": folder.joinpath(name).read_text("utf-8") for name in _MODULES}
    sources |= {"hwprofiles/__init__.py": "", "hwprofiles/agent/__init__.py": ""}
    sources |= {"__main__.py": _MAIN, "agent_backend.py": backend}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(sources.items()):
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), source)
    return buffer.getvalue()
