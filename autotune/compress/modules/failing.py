"""Where a module's forward fails: its part and the operation. The framework's own sentence names neither."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compress.inspect_names import clean

if TYPE_CHECKING:
    import torch


def failing_at(module: torch.nn.Module, inputs: Sequence[Any], faults: tuple[type[Exception], ...]) -> str:
    """`bmm in 'b.0.attn'`; "" where the forward goes through. Runs it once more, without gradients.

    Where no operation fails but code of the module's own, that is named by its function, file and line.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Watched(TorchFunctionMode):
        """Remembers the operation that was begun last and has not come back."""

        running = ""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            before, self.running = self.running, str(getattr(func, "__name__", func)).strip("_")
            result = func(*args, **(kwargs or {}))
            self.running = before
            return result

    entered: list[str] = []
    with _entering(module, entered), torch.no_grad(), warnings.catch_warnings(), Watched() as watched:
        warnings.simplefilter("ignore")
        try:
            module(*inputs)
        except faults as error:
            operation = watched.running or place_of(error)
            part = f"{entered[-1]!r}" if entered and entered[-1] else "the module itself"
            return f"{operation} in {part}"
    return ""


def place_of(error: BaseException) -> str:
    """`KeyError in reshape (model.py:12)`: the kind of an error and where it came from, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{where}"


@contextlib.contextmanager
def _entering(module: torch.nn.Module, entered: list[str]) -> Iterator[None]:
    """While it is open `entered` holds the parts whose forward has begun and not ended, outermost first."""
    handles = []
    for name, part in module.named_modules():
        shown = clean(name) if name else ""
        handles.append(part.register_forward_pre_hook(lambda *_, shown=shown: entered.append(shown)))
        handles.append(part.register_forward_hook(lambda *_: _left(entered)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(entered: list[str]) -> None:
    entered.pop()
