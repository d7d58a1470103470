"""From a name or folder to a checked `StudyConfig`. Every error is one line with file, line and key."""

from __future__ import annotations

import contextlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from autotune import plugins, slices
from autotune.config.amounts import Asked, impossible, read_asked
from autotune.config.families import check_shared, families_of, worth_telling
from autotune.config.misplaced import belongs
from autotune.config.positions import Positions
from autotune.config.tables import QuantizeTable, StudyConfig, not_on_hardware
from autotune.errors import AutotuneError, ConfigError, UsageError, did_you_mean
from autotune.keys import WORST, names_target, parse_amount, parse_key
from hwprofiles.errors import HardwareError
from hwprofiles.registry import find_target
from hwprofiles.target import Target

FILE = "study.toml"
MAX_BYTES = 1 << 20  # a study file is a page of text; anything larger is something else
_TECHNIQUE_TABLES: dict[str, type[BaseModel]] = {"quantize": QuantizeTable}
_LIMITS = ("constraints", "budget")  # tables of metric key -> limit

Location = Sequence[str | int]
Table = TypeVar("Table", bound=BaseModel)


@dataclass(frozen=True)
class Source:
    """The text of a study file, to say where in it something is wrong."""

    file: Path
    text: str

    def error(self, path: Location, problem: str) -> ConfigError:
        """An error of the form FILE:LINE: KEY: PROBLEM."""
        line = Positions(self.text).line(path)
        place = f"{self.file}:{line}" if line is not None else f"{self.file}"
        return ConfigError(f"{place}: {key_text(path)}: {problem}")


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


def key_text(path: Location) -> str:
    """`("groups", 0, "name")` as a person writes it: groups[0].name."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


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
    config = _validate(source, data)
    return LoadedStudy(_check_names(source, folder, config), folder, source)


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
    found = _targets(loaded.source, loaded.folder, targets or loaded.config.targets)
    given = read_asked(budget, found)
    if given:
        data["budget"] = {**loaded.config.budget, **{key: limit for key, (limit, _) in given.items()}}
    config = _check_names(loaded.source, loaded.folder, _validate(loaded.source, data))
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


def _validate(source: Source, data: dict[str, Any]) -> StudyConfig:
    for path, value in _leaves(data):
        if isinstance(value, float) and not math.isfinite(value):
            raise source.error(path, f"must be a finite number, not {value}")
    for found_out in ("families", "left_out"):
        if found_out in data:
            raise source.error((found_out,), "is found out from the targets; leave it out")
    data = {**data, **{table: _amounts(source, table, data[table]) for table in _LIMITS if table in data}}
    config = _parse(source, StudyConfig, data, ())
    for name, options in config.techniques.items():
        if name in _TECHNIQUE_TABLES:
            _parse(source, _TECHNIQUE_TABLES[name], options, ("techniques", name))
    return config


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _amounts(source: Source, table: str, limits: object) -> object:
    """Limits may be written for people, e.g. size_bytes = "10MB". Those that cannot be are refused."""
    if not isinstance(limits, dict):
        return limits
    result = dict(limits)
    for text, value in limits.items():
        try:
            key = parse_key(text)
            result[text] = parse_amount(value, key) if isinstance(value, str) else value
        except UsageError as error:
            raise source.error((table, text), str(error)) from error
        number = result[text]
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        problem = impossible(key, number) if plain else ""
        if problem:
            raise source.error((table, text), problem)
    return result


def _parse(source: Source, table: type[Table], data: object, prefix: Location) -> Table:
    # JSON mode is the strict mode that still lets an array be a tuple and a whole number be a float.
    try:
        return table.model_validate_json(json.dumps(data, default=_foreign), strict=True)
    except ValidationError as error:
        # An unknown key first: a misspelt one is also the reason why another is missing.
        first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        path = (*prefix, *first["loc"])
        elsewhere = belongs(str(path[-1]), _table_of(path)) if first["type"] == "extra_forbidden" else ""
        raise source.error(path, _problem(table, first) + elsewhere) from error


def _table_of(path: Location) -> str:
    """The table that a key stands in: "techniques.prune", "" for the study itself."""
    return ".".join(str(part) for part in path[:-1] if not isinstance(part, int))


def _foreign(value: object) -> dict[str, str]:
    """Dates and times are TOML but nothing of ours: a table, which no field here accepts."""
    return {"not a plain value": str(value)}


def _problem(table: type[BaseModel], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        known = _fields(table, error["loc"][:-1])
        return f"unknown key; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return "is missing; every study needs it" if len(error["loc"]) == 1 else "is missing"
    message = error["msg"][0].lower() + error["msg"][1:]
    shown = repr(error["input"])
    return f"{message}, not {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _fields(table: type[BaseModel], path: Location) -> Iterable[str]:
    """Names of the keys of the table that `path` leads to."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation = table.model_fields[part].annotation
        inner = [annotation, *getattr(annotation, "__args__", ())]
        table = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
    return table.model_fields


def _check_names(source: Source, folder: Path, config: StudyConfig) -> StudyConfig:
    """Everything that names something: does it exist, and is it named once? The study with what its targets tell."""
    _check_unique(source, ("targets",), config.targets)
    _check_unique(source, ("search", "objectives"), config.search.objectives)
    _check_unique(source, ("groups",), [group.name for group in config.groups])
    if not config.targets:
        raise source.error(("targets",), 'name at least one target, e.g. targets = ["local"]')
    targets = _targets(source, folder, config.targets)
    with _at(source, ("targets",)):
        families = worth_telling(families_of(targets))
    with _at(source, ("search", "sampler")):
        check_sampler(config.search.sampler)
    known = plugins.names("hw_autotune.techniques")
    for name in config.techniques:
        if name not in known:
            raise source.error(("techniques", name), f"unknown technique; {did_you_mean(name, known)}")
        if name == "recover":
            raise source.error(("techniques", name), "is no technique to search over; write the table [recover]")
        _make_technique(source, name, config.techniques[name])
    named: list[tuple[Location, str]] = [
        *((("search", "objectives", index), text) for index, text in enumerate(config.search.objectives)),
        *(((table, text), text) for table in _LIMITS for text in getattr(config, table)),
    ]
    for path, text in named:
        _check_key(source, path, text, config.targets, None)
        with _at(source, path):
            check_shared(text, families)
    config = config.with_families(families)
    _check_slices(source, config.slices)
    for text, why in not_on_hardware(config, targets):
        raise source.error(_place_of(text, config), why)
    if Path(config.workload.task.partition(":")[0]).is_absolute():
        raise source.error(("workload", "task"), "must be FILE.py:FUNCTION inside the study folder")
    return config


def _targets(source: Source, folder: Path, names: Sequence[str]) -> list[Target]:
    targets = []
    for index, name in enumerate(names):
        with _at(source, ("targets", index)):
            targets.append(find_target(name, folders=[folder]))
    return targets


def _place_of(text: str, config: StudyConfig) -> Location:
    """Where in the file a key stands that is an objective or a limit; a default objective comes from a target."""
    if text in config.search.objectives:
        return ("search", "objectives", config.search.objectives.index(text))
    for table in _LIMITS:
        if text in getattr(config, table):
            return (table, text)
    return ("targets", config.targets.index(text.rpartition("@")[2]))


def _make_technique(source: Source, name: str, options: Mapping[str, object]) -> None:
    """Techniques check their own options, those of other packages included. Their errors begin with the technique's
    name, and then mostly with that of the option, both of which the key says already."""
    path: Location = ("techniques", name)
    try:
        with _at(source, path):
            plugins.make("hw_autotune.techniques", name, options)
    except ConfigError as error:
        text = str(error.__cause__).removeprefix(f"technique {name}").removeprefix(":").lstrip()
        words = text.split()[:3]  # "ranks has 1.5", "has no kind 'head'"
        unknown = next((each for each in options if text.startswith(f"has no option {each!r}")), "")
        text += belongs(unknown, f"techniques.{name}") if unknown else ""
        option = next((each for each in options if {each, each.removesuffix("s")} & set(words)), "")
        if option:
            path, text = (*path, option), text.removeprefix(f"{option} ")
        raise source.error(path, text) from error.__cause__


def check_metric_keys(loaded: LoadedStudy, metric: str) -> None:
    """Now that the workload's metric is known: are all keys of the study about it? Raises `ConfigError`."""
    config = loaded.config
    for index, text in enumerate(config.search.objectives):
        _check_key(loaded, ("search", "objectives", index), text, config.targets, metric)
    for table in _LIMITS:
        for text in getattr(config, table):
            _check_key(loaded, (table, text), text, config.targets, metric)


def _check_slices(source: Source, declared: Mapping[str, str]) -> None:
    """Can each be named in a metric key, and is its declaration understood? Which samples it covers is known later."""
    for name, text in declared.items():
        path = ("slices", name)
        if not name or name != name.strip() or not name.isprintable() or "@" in name:
            raise source.error(path, f"{name!r} cannot be named in a metric key; use a word without '@', e.g. night")
        if name in (slices.ALL, WORST):
            raise source.error(path, f"{name!r} means something else in metric keys; give the slice another name")
        with _at(source, path):
            slices.parse(text)


def _check_key(
    source: Source | LoadedStudy, path: Location, text: str, targets: Sequence[str], metric: str | None
) -> None:
    with _at(source, path):
        key = parse_key(text, metric=metric)
    if not names_target(key, targets):
        raise source.error(
            path, f"{text!r} names a target that is not in targets; {did_you_mean(str(key.target), targets)}"
        )


def _check_unique(source: Source, path: Location, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise source.error((*path, index), f"{name!r} is there twice; remove one")


def check_sampler(name: str) -> None:
    """Raises `UsageError` unless `name` is a registered sampler or a class of `optuna.samplers` ("tpe")."""
    registered = plugins.names("hw_autotune.samplers")
    if name in registered:
        return
    import optuna.samplers  # a second of import time that only a study with a stock sampler pays

    stock = [cls for cls in optuna.samplers.__all__ if cls.endswith("Sampler") and not cls.startswith("Base")]
    short = [cls.removesuffix("Sampler").lower() for cls in stock]
    if name in stock or name.lower().removesuffix("sampler") in short:
        return
    raise UsageError(f"unknown sampler {name!r}; {did_you_mean(name, [*registered, *short, *stock])}")


class _at:
    """Says where in the study file an error of another room comes from."""

    def __init__(self, source: Source | LoadedStudy, path: Location) -> None:
        self._source = source
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, AutotuneError | HardwareError) and not isinstance(error, ConfigError):
            raise self._source.error(self._path, str(error)) from error
