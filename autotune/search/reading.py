"""Where activations of the float32 model are read: on the first target, or on this machine in its place.

They are a matter of the model, not of what runs it. A card would read them with TF32's rounding, and some of its
runtimes would build an engine with every activation as an output, for each structure; so where the first target speaks
a card's dialect this machine's processor is asked. Where the one that is asked fails, the other is.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from autotune import plugins
from autotune.compress.assembly import Assembler
from autotune.search.progress import Progress, Watcher
from hwprofiles.device import Device, open_device
from hwprofiles.errors import DeviceFailure, TargetUnavailable
from hwprofiles.registry import find_target
from hwprofiles.target import Target

HOST = "local"
_DIALECT = "ort-cpu"


class Reader:
    """`device` and `assembler`: where to run the model with more outputs, and what writes it for there."""

    def __init__(
        self,
        devices: Mapping[str, Device],
        assembler: Assembler,
        folder: Path,
        stack: ExitStack,
        watch: Watcher,
    ) -> None:
        """`devices` are those of the study, the first one first; `assembler` builds for that one. What is opened is
        closed by `stack`."""
        self._devices, self._folder, self._stack, self._watch = devices, folder, stack, watch
        self.device, self.assembler = next(iter(devices.values())), assembler
        self._others = [self._here] if assembler.dialect.name == _DIALECT else []
        if assembler.dialect.name != _DIALECT:
            first = (self.device, self.assembler)
            if (here := self._here()) is not None:
                self.device, self.assembler = here
                self._others = [lambda: first]

    def elsewhere(self, failure: DeviceFailure) -> bool:
        """After a failure: whether there is another place, which is the one from now on."""
        before = self.device.target.name
        while self._others:
            found = self._others.pop()()
            if found is not None and found[0] is not self.device:
                self.device, self.assembler = found
                said = " ".join(failure.failure.message.split())
                message = f"activations are read on {self.device.target.name}: {before} cannot give them: {said}"
                self._watch(Progress("prepare", message, news=True))
                return True
        return False

    def _here(self) -> tuple[Device, Assembler] | None:
        """This machine's processor by ONNX Runtime; None where it cannot be used."""
        device = next((each for each in self._devices.values() if is_here(each.target)), None)
        if device is None:
            target = find_target(HOST)
            if not is_here(target):
                return None
            self._watch(Progress("prepare", "opening this machine, to read activations"))
            try:
                device = self._stack.enter_context(open_device(target, work=self._folder / "work" / "reading"))
            except TargetUnavailable as error:
                self._watch(Progress("prepare", f"activations are not read on this machine: {error}", news=True))
                return None
        if self.assembler.dialect.name == _DIALECT:
            return device, self.assembler
        return device, self.assembler.sibling(plugins.load("hw_autotune.dialects", _DIALECT)())


def is_here(target: Target) -> bool:
    """Whether a target is this machine's processor, run by ONNX Runtime."""
    wanted = ("local", "onnxruntime", _DIALECT, "CPUExecutionProvider")
    return (target.transport, target.runtime, target.dialect, target.provider) == wanted
