"""The Store: what a study knows, kept safe. Every write is one transaction, every record is written once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import sqlalchemy as sa

from autotune.errors import DataError
from autotune.evaluation import Evaluation
from autotune.recipe import Recipe
from autotune.store import artifacts, records, rows, tables
from autotune.store.faults import translated
from autotune.store.heldout import HeldoutUse, add_use, read_uses
from autotune.store.location import Location, locate
from autotune.store.locking import locked
from autotune.store.reading import Reader
from autotune.store.schema import open_engine, writing
from autotune.trial import Artifact, LayerOutcome, Trial, Value
from hwprofiles.errors import Failure
from hwprofiles.measurement import Measurement
from hwprofiles.scenario import Scenario


def open_store(store: str | Path | None, study: str, *, must_exist: bool = False) -> Store:
    """Opens the records of `study`, in a file or at a SQLAlchemy URL; None: `autotune-runs/STUDY/store.db`.

    With `must_exist` (for readers) nothing is created, and a study that is not there is a `DataError` that
    lists those that are. Otherwise the store is made when it is not there; the study appears with its first
    record.

    Raises `UsageError` (a name or URL that cannot be meant, a missing driver), `DataError` (a store that is
    not ours, damaged, or from a newer version), `DiskError`, `StoreLocked` (another program keeps the file
    locked).
    """
    location = locate(store, study)
    opened = Store(location, open_engine(location, create=not must_exist))
    if must_exist and not opened.exists():
        there = opened.studies()
        opened.close()
        raise DataError(
            f"no study {study!r} in store {location}; run `autotune run {study}` first"
            + (f" (studies there: {', '.join(there)})" if there else "")
        )
    return opened


class Store:
    """The records of one study; made by `open_store`. Safe for threads; not to be carried over a fork.

    Attributes: `study`, its name; `folder`, where its files are; `file`, where it is one; `journal`, where its Optuna
    view is; `place`, the store as text for people.
    """

    def __init__(self, location: Location, engine: sa.Engine) -> None:
        self.study = location.study
        self.folder = location.folder
        self.file = location.file  # None where it is a server's database
        self.journal = location.journal
        self.place = str(location)
        self._location = location
        self._engine = engine
        self._reader = Reader(self.place)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.place!r}, study={self.study!r})"

    def close(self) -> None:
        self._engine.dispose()

    # ---- the study

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the study for one coordinator. Raises `StoreLocked`, naming the holder, if another has it."""
        with locked(self._location, self._engine):
            artifacts.sweep(self.artifacts)
            yield

    def exists(self) -> bool:
        """Whether the study has any record."""
        with self._read() as connection:
            return rows.find_study(connection, self.study) is not None

    def studies(self) -> list[str]:
        """All studies of this store, sorted."""
        with self._read() as connection:
            return sorted(connection.execute(sa.select(tables.study.c.name)).scalars())

    def expect(self, workload_digest: str) -> None:
        """Raises the `DataError` of `begin` where the study holds another model or other data; writes nothing."""
        known = self.workload_digest
        if known is not None and known != workload_digest:
            raise self._of_another(known, workload_digest)

    def begin(self, config_json: str, workload_digest: str) -> None:
        """Says what is being searched, and keeps the configuration if it is not the last one.

        Raises `DataError` if the study holds another model or other data: their trials cannot be compared.
        """
        with self._write() as connection:
            study_id = rows.make_study(connection, self.study)
            query = sa.select(tables.study.c.workload_digest).where(tables.study.c.id == study_id)
            known = connection.execute(query).scalar_one()
            if known is None:
                change = tables.study.update().where(tables.study.c.id == study_id)
                connection.execute(change.values(workload_digest=workload_digest))
            elif known != workload_digest:
                raise self._of_another(known, workload_digest)
            if rows.last_config(connection, study_id) != config_json:
                rows.add_run(connection, study_id, config_json)

    def _of_another(self, known: str, now: str) -> DataError:
        return DataError(
            f"study {self.study!r} in store {self.place} is about another model or other data "
            f"({known[:12]}, now {now[:12]}); give another --store, or rename the study"
        )

    @property
    def config_json(self) -> str | None:
        """The configuration of the last `begin`."""
        with self._read() as connection:
            study_id = rows.find_study(connection, self.study)
            return None if study_id is None else rows.last_config(connection, study_id)

    @property
    def workload_digest(self) -> str | None:
        with self._read() as connection:
            query = sa.select(tables.study.c.workload_digest).where(tables.study.c.name == self.study)
            return connection.execute(query).scalar()

    def meta(self, key: str) -> Any:
        """What `set_meta` kept under `key`; None if nothing."""
        with self._read() as connection:
            condition = sa.and_(
                tables.meta.c.key == key, tables.meta.c.study_id == rows.find_study(connection, self.study)
            )
            text = connection.execute(sa.select(tables.meta.c.value).where(condition)).scalar()
        return None if text is None else records.decode_json(text, f"meta {key!r} of store {self.place}")

    def set_meta(self, key: str, value: Any) -> None:
        """Keeps a small JSON-serialisable fact, in place of an earlier one."""
        text = json.dumps(value)
        with self._write() as connection:
            rows.put_meta(connection, rows.make_study(connection, self.study), key, text)

    # ---- trials

    def start_trial(self, recipe: Recipe, proposer: str) -> int:
        """The number of the recipe's trial: the existing one, in whatever state, or a new one that is running.

        The empty recipe is always number 0. What a dead run left running is found here, to be continued.
        """
        with self._write() as connection:
            study_id = rows.make_study(connection, self.study)
            table = tables.trial
            same = sa.and_(table.c.study_id == study_id, table.c.recipe_digest == recipe.digest)
            number = connection.execute(sa.select(table.c.number).where(same)).scalar()
            if number is not None:
                return int(number)
            last = sa.select(sa.func.max(table.c.number)).where(table.c.study_id == study_id)
            number = (connection.execute(last).scalar() or 0) + 1 if recipe else 0
            connection.execute(
                table.insert().values(
                    study_id=study_id,
                    number=number,
                    recipe_digest=recipe.digest,
                    recipe=recipe.to_json(),
                    proposer=proposer,
                    state="running",
                    started_at=rows.now(),
                )
            )
            return int(number)

    def find_trial(self, recipe: Recipe) -> Trial | None:
        found = self._trials(tables.trial.c.recipe_digest == recipe.digest)
        return found[0] if found else None

    def trial(self, number: int) -> Trial:
        """Everything about one trial, with the outcomes. Raises `UsageError` if there is no such number."""
        found = self._trials(tables.trial.c.number == number, outcomes=True)
        if not found:
            with self._read() as connection:
                rows.get_trial(connection, self.study, number)  # says which numbers there are
        return found[0]

    def trials(self, *, outcomes: bool = False, details: bool = True) -> list[Trial]:
        """All trials by number. Per-sample outcomes are left out unless asked for.

        Without `details` the trials also come without layers, measurements and evaluations, which is several
        times faster and enough for a front.
        """
        return self._trials(outcomes=outcomes, details=details)

    def finish_trial(
        self,
        number: int,
        state: Literal["complete", "rejected", "failed"],
        *,
        metrics: Mapping[str, Value] | None = None,
        reason: str = "",
        failure: Failure | None = None,
        durations: Mapping[str, float] | None = None,
    ) -> None:
        """The trial's end. A failed trial may be finished again, as causes go away; the others are final.

        Raises `DataError` for a trial that is final already, and for a metric that is not a number.
        """
        with self._write() as connection:
            trial_id, known_state = rows.get_trial(connection, self.study, number)
            if known_state in ("complete", "rejected"):
                raise DataError(f"trial {number} of study {self.study!r} is {known_state} already; it stays as it is")
            change = tables.trial.update().where(tables.trial.c.id == trial_id)
            connection.execute(
                change.values(
                    state=state,
                    reason=reason,
                    failure=failure.model_dump_json() if failure is not None else None,
                    durations=records.encode_durations(durations or {}),
                    finished_at=rows.now(),
                )
            )
            rows.replace_metrics(connection, trial_id, "search", metrics or {})

    def set_final(self, number: int, metrics: Mapping[str, Value]) -> None:
        """The finalist's metrics: measured again, judged on held-out data. Replaces earlier ones."""
        with self._write() as connection:
            trial_id, known_state = rows.get_trial(connection, self.study, number)
            if known_state != "complete":
                raise DataError(f"trial {number} of study {self.study!r} is {known_state}; finalists are complete")
            rows.replace_metrics(connection, trial_id, "final", metrics)

    # ---- artifacts and builds

    @property
    def artifacts(self) -> Path:
        """The folder of the artifacts, `<sha256>.onnx`."""
        return self.folder / "artifacts"

    def save_artifact(self, data: bytes | Callable[[BinaryIO], object], dialect: str) -> Artifact:
        """Writes the bytes, or what `data` writes to a stream, under their digest, to the disk, whole or not at all.
        Raises `DiskError`, and what `data` raises.
        """
        if isinstance(data, bytes):
            digest, size = artifacts.write(self.artifacts, data), len(data)
        else:
            digest, size = artifacts.write_pieces(self.artifacts, data)
        with self._write() as connection:
            rows.add_artifact(connection, digest, size)
        return Artifact(digest=digest, size_bytes=size, dialect=dialect)

    def artifact_path(self, digest: str) -> Path:
        """Raises `DataError` if it is not there. Use `verify_artifact` where the bytes have to be right."""
        path = artifacts.path_of(self.artifacts, digest)
        if not path.is_file():
            raise DataError(f"artifact {path} is missing; run the trial again to build it")
        return path

    def artifact_bytes(self, digest: str) -> bytes:
        """Raises `DataError` if the file is missing or its bytes do not have that digest."""
        return artifacts.read(self.artifacts, digest)

    def verify_artifact(self, digest: str) -> Path:
        """Its path, after the bytes were read and checked. Raises `DataError`."""
        self.artifact_bytes(digest)
        return artifacts.path_of(self.artifacts, digest)

    def record_build(self, number: int, artifact: Artifact, layers: Iterable[LayerOutcome]) -> None:
        """What a trial was built into, and what ran per layer; while it runs, a later build replaces it.

        Raises `DataError` if the trial is final with another artifact: what was measured is what ships.
        """
        with self._write() as connection:
            trial_id, known_state = rows.get_trial(connection, self.study, number)
            table = tables.build
            same = sa.and_(table.c.trial_id == trial_id, table.c.dialect == artifact.dialect)
            known = connection.execute(sa.select(table.c.artifact).where(same)).scalar()
            if known_state in ("complete", "rejected") and known is not None and known != artifact.digest:
                raise DataError(
                    f"trial {number} of study {self.study!r} was measured with artifact {known[:12]}; "
                    f"another build ({artifact.digest[:12]}) cannot take its place"
                )
            connection.execute(table.delete().where(same))
            values = {"trial_id": trial_id, "dialect": artifact.dialect, "artifact": artifact.digest}
            layer_json = records.encode_layers(layers)
            connection.execute(table.insert().values(**values, layers=layer_json, created_at=rows.now()))

    # ---- measurements and evaluations

    def find_measurement(
        self, model: str, baseline: str | None, target: str, fingerprint_key: str, scenario: Scenario
    ) -> Measurement | None:
        """The measurement of these bytes on this hardware by this protocol, whichever study made it.

        A failed one is no answer: the caller may try again.
        """
        digest = records.scenario_digest(scenario)
        identity = records.measurement_identity(model, baseline, target, fingerprint_key, digest)
        with self._read() as connection:
            row = rows.find_measurement(connection, identity)
            return None if row is None else self._reader.measurement(row)

    def add_measurement(self, measurement: Measurement) -> Measurement:
        """Keeps it. When the same was measured before, the first one stays and is returned. Failures all stay."""
        identity = records.identity_of(measurement) if measurement.failure is None else None
        with self._write() as connection:
            known = rows.find_measurement(connection, identity) if identity is not None else None
            if known is not None:
                return self._reader.measurement(known)
            connection.execute(
                tables.measurement.insert().values(
                    identity=identity,
                    model=measurement.model,
                    baseline=measurement.baseline,
                    target=measurement.target,
                    fingerprint_key=measurement.fingerprint.key,
                    scenario_digest=records.scenario_digest(measurement.scenario),
                    record=records.encode(measurement),
                    created_at=rows.now(),
                )
            )
        return measurement

    def find_evaluation(
        self, artifact: str, dataset_digest: str, target: str, *, fingerprint_key: str | None = ""
    ) -> Evaluation | None:
        """The judgement of these bytes on these data in this study, with its outcomes; None as the key: the first."""
        with self._read() as connection:
            row = rows.find_evaluation(connection, self.study, artifact, dataset_digest, target, fingerprint_key)
            return None if row is None else self._reader.evaluation(row, row.data)

    def add_evaluation(self, evaluation: Evaluation, *, fingerprint_key: str = "") -> Evaluation:
        """Keeps it with its outcomes. When the same was judged before, the first one stays, and is returned.

        `fingerprint_key` is for a judge that tells devices of one target apart.
        """
        data = records.encode_outcomes(evaluation.outcomes)
        key = (evaluation.artifact, evaluation.dataset_digest, evaluation.target, fingerprint_key)
        with self._write() as connection:
            known = rows.find_evaluation(connection, self.study, *key)
            if known is not None:
                return self._reader.evaluation(known, known.data)
            table = tables.evaluation
            values = dict(zip(("artifact", "dataset_digest", "target", "fingerprint_key"), key, strict=True))
            inserted = connection.execute(
                table.insert()
                .values(
                    study_id=rows.make_study(connection, self.study),
                    record=records.encode(evaluation, exclude={"outcomes"}),
                    created_at=rows.now(),
                    **values,
                )
                .returning(table.c.id)
            )
            connection.execute(tables.outcomes.insert().values(evaluation_id=inserted.scalar_one(), data=data))
        return evaluation

    # ---- held-out data

    def use_heldout(self, artifact: str, dataset_digest: str, rules: Mapping[str, Any], *, purpose: str) -> None:
        """Writes down that held-out data are about to be looked at; nothing ever takes it back."""
        with self._write() as connection:
            add_use(connection, self.study, artifact, dataset_digest, rules, purpose)

    def heldout_uses(self) -> list[HeldoutUse]:
        """Every use of held-out data by this study, the first one first."""
        with self._read() as connection:
            return read_uses(connection, self.study, self.place)

    # ---- transactions

    def _trials(
        self,
        chosen: sa.ColumnElement[bool] | None = None,
        *,
        outcomes: bool = False,
        details: bool = True,
    ) -> list[Trial]:
        with self._read() as connection:
            study_id = rows.find_study(connection, self.study)
            if study_id is None:
                return []
            return self._reader.trials(connection, study_id, chosen=chosen, outcomes=outcomes, details=details)

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        """All queries of one transaction see the same moment; in SQLite that is so by itself."""
        server = self._engine.dialect.name == "postgresql"
        engine = self._engine.execution_options(isolation_level="REPEATABLE READ") if server else self._engine
        with translated(self._location), engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with translated(self._location), writing(self._engine) as connection:
            yield connection
