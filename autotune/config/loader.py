"""From a name or folder to a checked `StudyConfig`. Every error is one line with file, line and key."""

from __future__ import annotations

import contextlib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autotune.config.amounts import Asked, read_asked
from autotune.config.naming import check_key, check_names, targets_of
from autotune.config.parsing import LIMITS, validated
from autotune.config.source import Location, Source
from autotune.config.tables import StudyConfig
from autotune.errors import ConfigError, UsageError, did_you_mean

FILE = "study.toml"
MAX_BYTES = 1 << 20  # a study file is a page of text; anything larger is something else


@dataclass(frozen=True)
class LoadedStudy:
    """A checked study file and the folder it lies in. `asked` is what the command line limits: key -> who asked."""

    config: StudyConfig
    folder: Path
    source: Source
    asked: Mapping[str, Asked] = field(default_factory=dict)

    def error(self, path: Location, problem: str) -> UsageError:
        """What is wrong with a key: in the file, or on the command line where that said it."""
        asked = self.asked.get(str(path[-1])) if path[0] == "budget" else None
        return self.source.error(path, problem) if asked is None else UsageError(f"{asked}: {problem}")

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Faults of the file that only the model shows get the place in it that they come from."""
        try:
            yield
        except ConfigError as error:
            if not error.key:
                raise
            raise self.source.error(error.key, str(error)) from error


def packaged_studies() -> Path:
    """The folder of ready-made studies, which travels beside the package."""
    return Path(__file__).parents[2] / "studies"


def load_study(name_or_folder: str, *, studies: Path | None = None) -> LoadedStudy:
    """Read the study called `name_or_folder` in `studies`, or the folder of that path; it must hold
    `study.toml`.

    The user's task is not imported. Raises `ConfigError` with file, line and key.
    """
    folder = _find(name_or_folder, studies if studies is not None else packaged_studies())
    file = folder / FILE
    source = Source(file, _read(file))
    try:
        data = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax_error(file, error)) from error
    config = validated(source, data)
    return LoadedStudy(check_names(source, folder, config), folder, source)


def override(
    loaded: LoadedStudy,
    *,
    trials: int | None = None,
    hours: float | None = None,
    targets: Sequence[str] = (),
    budget: Iterable[Asked] = (),
    until_stable: bool = False,
    warm_start: Sequence[str] = (),
    all_targets: bool = False,
) -> LoadedStudy:
    """The study with what the command line says instead. Raises `UsageError` for values that cannot be.

    Where `targets` replace those of the file, objectives and limits that name a removed target are refused. `budget`
    replaces the limits of the file key by key; the rest of its budget stays.
    """
    data = loaded.config.model_dump(mode="json", exclude_unset=True, exclude={"families", "left_out"})
    search = data.setdefault("search", {})
    if trials is not None:
        if trials < 1:
            raise UsageError(f"--trials {trials}: at least one trial is needed")
        search["trials"] = trials
    if hours is not None:
        if not (math.isfinite(hours) and hours > 0):
            raise UsageError(f"--hours {hours}: must be a positive number of hours")
        search["hours"] = hours
    if until_stable:
        search["until_stable"] = True
    if warm_start:
        if "" in warm_start:
            raise UsageError("--warm-start needs a store, a store file with #STUDY, or a recipe file")
        search["warm_start"] = list(warm_start)
    if targets:
        data["targets"] = list(targets)
    if all_targets:
        data["all_targets"] = True
    found = targets_of(loaded.source, loaded.folder, targets or loaded.config.targets)
    given = read_asked(budget, found)
    if given:
        data["budget"] = {**loaded.config.budget, **{key: limit for key, (limit, _) in given.items()}}
    config = check_names(loaded.source, loaded.folder, validated(loaded.source, data))
    return LoadedStudy(config, loaded.folder, loaded.source, {key: asked for key, (_, asked) in given.items()})


def _find(name_or_folder: str, studies: Path) -> Path:
    if not name_or_folder or "\0" in name_or_folder:
        raise ConfigError(f"study {name_or_folder!r}: name one of the ready-made studies or a folder with {FILE}")
    packaged = sorted(file.parent.name for file in studies.glob(f"*/{FILE}"))
    folder = Path(name_or_folder).expanduser()
    if name_or_folder in packaged and not (folder / FILE).is_file():
        return studies / name_or_folder
    if folder.is_file() and folder.name == FILE:
        return folder.parent
    if folder.is_dir():
        if not (folder / FILE).exists():
            raise ConfigError(f"{folder}: there is no {FILE} in this folder; `autotune new {folder}` would write one")
        return folder
    raise ConfigError(
        f"study {name_or_folder!r}: neither a folder nor a ready-made study; " + did_you_mean(name_or_folder, packaged)
    )


def _read(file: Path) -> str:
    if not file.is_file():
        raise ConfigError(f"{file}: not a regular file; a study file is text in TOML")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{file}: larger than {MAX_BYTES >> 20} MiB; a study file is a page of text")
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")  # a byte order mark is harmless
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: not UTF-8 text; save the file in UTF-8") from error


def _syntax_error(file: Path, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    found = re.search(r"\(at line (\d+), column (\d+)\)", message)
    if found is None:  # "(at end of document)"
        return f"{file}: not valid TOML: {message}"
    reason = message[: found.start()].strip()
    return f"{file}:{found[1]}: not valid TOML: {reason} (column {found[2]})"


def check_metric_keys(loaded: LoadedStudy, metric: str) -> None:
    """Now that the workload's metric is known: are all keys of the study about it? Raises `ConfigError`."""
    config = loaded.config
    for index, text in enumerate(config.search.objectives):
        check_key(loaded, ("search", "objectives", index), text, config.targets, metric)
    for table in LIMITS:
        for text in getattr(config, table):
            check_key(loaded, (table, text), text, config.targets, metric)
