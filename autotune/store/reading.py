"""Trials out of their rows: a handful of queries for a whole study, however many trials it has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import ValidationError

from autotune.evaluation import Evaluation
from autotune.store import records, tables
from autotune.trial import Artifact, Elsewhere, LayerOutcome, Trial, Value
from hwprofiles.errors import Failure
from hwprofiles.measurement import Measurement

Row = sa.Row[Any]


class _Build(NamedTuple):
    artifact: Artifact
    layers: tuple[LayerOutcome, ...]


class _Family(NamedTuple):
    """A runtime family, as the study kept it under "families": its dialect and its targets."""

    dialect: str
    targets: tuple[str, ...]


class Reader:
    """Reads one study. Records never change, so each is decoded once and kept, without outcomes."""

    def __init__(self, place: str) -> None:
        self._place = place  # of the store, for messages
        self._measurements: dict[int, Measurement] = {}
        self._evaluations: dict[int, Evaluation] = {}
        self._layers: dict[tuple[int, str], tuple[str, tuple[LayerOutcome, ...]]] = {}  # with their JSON

    def trials(
        self,
        connection: sa.Connection,
        study_id: int,
        *,
        chosen: sa.ColumnElement[bool] | None = None,
        outcomes: bool,
        details: bool,
    ) -> list[Trial]:
        """Trials by number; `chosen` is a condition on the trial table."""
        condition = tables.trial.c.study_id == study_id
        if chosen is not None:
            condition = sa.and_(condition, chosen)
        query = sa.select(tables.trial).where(condition).order_by(tables.trial.c.number)
        rows = connection.execute(query).all()
        try:
            metrics = self._metrics(connection, condition)
            builds = self._builds(connection, condition, details=details)
            families = self._families(connection, study_id)
        except ValidationError as error:
            raise records.damaged(f"store {self._place}", error) from error
        models = sa.select(tables.build.c.artifact).join(tables.trial).where(condition)
        measurements: dict[str, list[Measurement]] = {}
        evaluations: dict[str, list[Evaluation]] = {}
        if details:
            measurements = self._all_measurements(connection, models)
            evaluations = self._all_evaluations(connection, study_id, models, outcomes=outcomes)
        return [self._trial(row, builds[row.id], families, metrics, measurements, evaluations) for row in rows]

    def measurement(self, row: Row) -> Measurement:
        if row.id not in self._measurements:
            where = f"measurement {row.id} of store {self._place}"
            self._measurements[row.id] = records.decode_measurement(row.record, where)
        return self._measurements[row.id]

    def evaluation(self, row: Row, data: bytes | None = None) -> Evaluation:
        """`data` are its compressed outcomes, which are not kept."""
        where = f"evaluation {row.id} of store {self._place}"
        if row.id not in self._evaluations:
            self._evaluations[row.id] = records.decode(Evaluation, row.record, where)
        evaluation = self._evaluations[row.id]
        if data is None:
            return evaluation
        return evaluation.model_copy(update={"outcomes": records.decode_outcomes(data, where)})

    def _metrics(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool]
    ) -> dict[tuple[int, str], dict[str, Value]]:
        table = tables.metric
        query = sa.select(table).join(tables.trial).where(condition)
        found: dict[tuple[int, str], dict[str, Value]] = defaultdict(dict)
        for trial_id, phase, key, value, low, high in connection.execute(query):
            found[trial_id, phase][key] = Value(value=value, low=low, high=high)
        return found

    def _builds(
        self, connection: sa.Connection, condition: sa.ColumnElement[bool], *, details: bool
    ) -> dict[int, list[_Build]]:
        table = tables.build
        query = (
            sa.select(
                table.c.trial_id,
                table.c.dialect,
                table.c.artifact,
                tables.artifact.c.size_bytes,
                table.c.layers,
            )
            .join(tables.trial, table.c.trial_id == tables.trial.c.id)
            .join(tables.artifact, table.c.artifact == tables.artifact.c.digest)
            .where(condition)
            .order_by(table.c.created_at, table.c.dialect)
        )
        found: dict[int, list[_Build]] = defaultdict(list)
        for trial_id, dialect, digest, size, layers in connection.execute(query):
            artifact = Artifact(digest=digest, size_bytes=size, dialect=dialect)
            outcomes = self._decoded_layers(trial_id, dialect, layers) if details else ()
            found[trial_id].append(_Build(artifact, outcomes))
        return found

    def _families(self, connection: sa.Connection, study_id: int) -> list[_Family]:
        """In the order of the study's targets; none where all are of one family."""
        table = tables.meta
        query = sa.select(table.c.value).where(sa.and_(table.c.study_id == study_id, table.c.key == "families"))
        text = connection.execute(query).scalar()
        if text is None:
            return []
        where = f"families of store {self._place}"
        kept = records.decode_json(text, where)
        try:
            return [_Family(str(each["dialect"]), tuple(map(str, each["targets"]))) for each in kept]
        except (TypeError, KeyError) as error:
            raise records.damaged(where, error) from error

    def _decoded_layers(self, trial_id: int, dialect: str, text: str) -> tuple[LayerOutcome, ...]:
        """A running trial may be built again, so what is kept counts only for the same text."""
        known = self._layers.get((trial_id, dialect))
        if known is None or known[0] != text:
            where = f"layers ({dialect}) of trial row {trial_id} of store {self._place}"
            known = self._layers[trial_id, dialect] = (text, records.decode_layers(text, where))
        return known[1]

    def _all_measurements(self, connection: sa.Connection, models: sa.Select[Any]) -> dict[str, list[Measurement]]:
        table = tables.measurement
        found: dict[str, list[Measurement]] = defaultdict(list)
        query = sa.select(table).where(table.c.model.in_(models)).order_by(table.c.id)
        for row in connection.execute(query):
            found[row.model].append(self.measurement(row))
        return found

    def _all_evaluations(
        self, connection: sa.Connection, study_id: int, models: sa.Select[Any], *, outcomes: bool
    ) -> dict[str, list[Evaluation]]:
        table = tables.evaluation
        condition = sa.and_(table.c.study_id == study_id, table.c.artifact.in_(models))
        data: dict[int, bytes] = {}
        if outcomes:
            blobs = sa.select(tables.outcomes).join(table).where(condition)
            data = {row.evaluation_id: row.data for row in connection.execute(blobs)}
        found: dict[str, list[Evaluation]] = defaultdict(list)
        for row in connection.execute(sa.select(table).where(condition).order_by(table.c.id)):
            found[row.artifact].append(self.evaluation(row, data.get(row.id)))
        return found

    def _trial(
        self,
        row: Row,
        builds: Sequence[_Build],
        families: Sequence[_Family],
        metrics: Mapping[tuple[int, str], Mapping[str, Value]],
        measurements: Mapping[str, Sequence[Measurement]],
        evaluations: Mapping[str, Sequence[Evaluation]],
    ) -> Trial:
        where = f"trial {row.number} of store {self._place}"
        models = dict.fromkeys(build.artifact.digest for build in builds)
        judged = [e for model in models for e in evaluations.get(model, ())]
        further = [(f, b) for f in families[1:] for b in builds if b.artifact.dialect == f.dialect]
        others = {target for family, _ in further for target in family.targets}
        # The build of the first target's dialect: others may have been written down before it.
        first = [b for b in builds if families and b.artifact.dialect == families[0].dialect] or list(builds)
        try:
            return Trial(
                number=row.number,
                recipe=records.decode_json(row.recipe, where),
                state=row.state,
                proposer=row.proposer,
                artifact=first[0].artifact if first else None,
                metrics=metrics.get((row.id, "search"), {}),
                final=metrics.get((row.id, "final"), {}),
                layers=first[0].layers if first else (),
                measurements=tuple(m for model in models for m in measurements.get(model, ())),
                evaluations=tuple(e for e in judged if e.target not in others),
                elsewhere=tuple(
                    Elsewhere(
                        targets=family.targets,
                        artifact=build.artifact,
                        layers=build.layers,
                        evaluations=tuple(e for e in judged if e.target in family.targets),
                    )
                    for family, build in further
                ),
                failure=records.decode(Failure, row.failure, where) if row.failure is not None else None,
                reason=row.reason,
                durations=records.decode_json(row.durations, where),
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
        except ValidationError as error:
            raise records.damaged(where, error) from error
