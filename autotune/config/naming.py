"""Everything in a study that names something: does it exist, is it named once, and does it say something?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autotune import plugins, slices
from autotune.config.families import check_shared, families_of, worth_telling
from autotune.config.misplaced import belongs
from autotune.config.parsing import LIMITS
from autotune.config.source import Location, Placing, Source, at
from autotune.config.tables import StudyConfig, not_on_hardware
from autotune.errors import ConfigError, UsageError, did_you_mean
from autotune.keys import WORST, names_target, parse_key
from hwprofiles.registry import find_target
from hwprofiles.target import Target


def check_names(source: Source, folder: Path, config: StudyConfig) -> StudyConfig:
    """The study with what its targets tell. Raises `ConfigError`."""
    _check_unique(source, ("targets",), config.targets)
    _check_unique(source, ("search", "objectives"), config.search.objectives)
    _check_unique(source, ("groups",), [group.name for group in config.groups])
    if not config.targets:
        raise source.error(("targets",), 'name at least one target, e.g. targets = ["local"]')
    targets = targets_of(source, folder, config.targets)
    with at(source, ("targets",)):
        families = worth_telling(families_of(targets))
    with at(source, ("search", "sampler")):
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
        *(((table, text), text) for table in LIMITS for text in getattr(config, table)),
    ]
    for path, text in named:
        check_key(source, path, text, config.targets, None)
        with at(source, path):
            check_shared(text, families)
    config = config.with_families(families)
    _check_slices(source, config.slices)
    for text, why in not_on_hardware(config, targets):
        raise source.error(_place_of(text, config), why)
    if Path(config.workload.task.partition(":")[0]).is_absolute():
        raise source.error(("workload", "task"), "must be FILE.py:FUNCTION inside the study folder")
    return config


def targets_of(source: Source, folder: Path, names: Sequence[str]) -> list[Target]:
    targets = []
    for index, name in enumerate(names):
        with at(source, ("targets", index)):
            targets.append(find_target(name, folders=[folder]))
    return targets


def _place_of(text: str, config: StudyConfig) -> Location:
    """Where in the file a key stands that is an objective or a limit; a default objective comes from a target."""
    if text in config.search.objectives:
        return ("search", "objectives", config.search.objectives.index(text))
    for table in LIMITS:
        if text in getattr(config, table):
            return (table, text)
    return ("targets", config.targets.index(text.rpartition("@")[2]))


def _make_technique(source: Source, name: str, options: Mapping[str, object]) -> None:
    """Techniques check their own options, those of other packages included. Their errors begin with the technique's
    name, and then mostly with that of the option, both of which the key says already."""
    path: Location = ("techniques", name)
    try:
        with at(source, path):
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


def _check_slices(source: Source, declared: Mapping[str, str]) -> None:
    """Can each be named in a metric key, and is its declaration understood? Which samples it covers is known later."""
    for name, text in declared.items():
        path = ("slices", name)
        if not name or name != name.strip() or not name.isprintable() or "@" in name:
            raise source.error(path, f"{name!r} cannot be named in a metric key; use a word without '@', e.g. night")
        if name in (slices.ALL, WORST):
            raise source.error(path, f"{name!r} means something else in metric keys; give the slice another name")
        with at(source, path):
            slices.parse(text)


def check_key(source: Placing, path: Location, text: str, targets: Sequence[str], metric: str | None) -> None:
    with at(source, path):
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
