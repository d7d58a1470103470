"""A judgement as a page of its own, and as a part of the report: picture, every number, confidence, noise."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go

from autotune.judge.models import ModelJudgement
from autotune.judge.words import evaluation_sentences, record_sentence, sentences
from dashboards.figures.judgement import forest_figure
from dashboards.info import units
from dashboards.info.judgement import (
    Hypothesis,
    JudgedSlice,
    Judgement,
    gap,
    hypotheses,
    judgement,
    stored_noise,
)
from dashboards.info.study import StudyStore, StudyView, evaluation_of
from dashboards.page.document import contents, document
from dashboards.page.html import Html, join, table, tag
from dashboards.page.writing import write_whole
from hwprofiles.measurement import Estimate

Figures = dict[str, go.Figure]

LARGE_GAP = 0.015  # between search and held-out data, from which on it is marked
_VERDICTS = {"pass": "passes", "fail": "fails", "undecided": "undecided"}
_DATA = {"heldout": "Held-out data", "search": "Search data"}
_KINDS = {"declared": "", "automatic": "automatic", "perturbed": "perturbed", "intersection": "crossed"}


def write_judgement(found: ModelJudgement, path: Path, *, title: str | None = None) -> Path:
    """Write the page of `found` to `path` and return it. The file appears whole or not at all.

    Raises `DiskError` where the file cannot be written.
    """
    return write_whole(render_judgement(found, title=title), Path(path), what="page")


def render_judgement(found: ModelJudgement, *, title: str | None = None) -> str:
    """The page as text: one file that loads nothing."""
    name = title or f"{Path(found.candidate).name} against {Path(found.original).name}"
    figures: Figures = {}
    sections = [_result(found)]
    anchors = {"result": "Result"}
    for evaluation in found.evaluations:
        info = judgement(evaluation, found.noise.get(evaluation.dataset))
        part, more = judgement_parts(info, f"forest-{evaluation.dataset}")
        figures.update(more)
        label = _DATA.get(evaluation.dataset, evaluation.dataset)
        anchors[f"slices-{evaluation.dataset}"] = label
        sections.append(tag("section", tag("h2", f"{label}: drop by slice"), part, id=f"slices-{evaluation.dataset}"))
    sections.append(_protocol(found))
    anchors["protocol"] = "Protocol"
    kicker = f"{_VERDICTS[found.verdict]} · run on {found.target} · {found.fingerprint.cpu_model}"
    header = tag("header", tag("div", tag("p", kicker, class_="kicker"), tag("h1", name)))
    return document(name, header, contents(anchors), join(sections), figures)


def judgement_parts(info: Judgement, element: str) -> tuple[Html, Figures]:
    """Forest plot, table of all numbers, confidence and noise, without a heading; `element` names the plot."""
    lead = (
        f"Drop of {info.evaluation.metric} against the original on the same samples, with 95 % intervals; a negative "
        "number is a gain. A slice passes when its whole interval stays left of the bar, which is its limit"
        + (", also the wider one that is due to the choice among several models." if info.evaluation.share < 1 else ".")
    )
    plot = tag("figure", tag("div", tag("div", id=element, class_="plot", style="min-width:560px"), class_="wide"))
    noise = tag("p", info.noise.sentence, class_="muted") if info.noise is not None else None
    parts = join([tag("p", lead, class_="lead"), plot, *([noise] if noise else []), _numbers(info), _confidence(info)])
    return parts, {element: forest_figure(info)}


def judgement_section(view: StudyView, store: StudyStore, chosen: int | None) -> tuple[Html, Figures]:
    """The part of the report: the judgement of the trial of the headline, held-out data and discovered slices."""
    subject = next((trial for trial in view.trials if trial.number == chosen), None)
    evaluation = evaluation_of(subject, view.targets[0]) if subject is not None else None
    title = tag("h2", "The judgement" if evaluation is None else f"The judgement of trial {chosen}")
    if evaluation is None:
        empty = tag("p", "No compressed model was judged yet.", class_="muted")
        return tag("section", title, empty, id="judgement"), {}
    info = judgement(evaluation, stored_noise(store, evaluation.dataset_digest))
    parts, figures = judgement_parts(info, "forest")
    said = [*evaluation_sentences(evaluation), record_sentence(view.trials, store.heldout_uses())]
    points = tag("ul", *(tag("li", line) for line in said if line))
    more = [_gaps(view), _hypotheses(hypotheses(store))]
    return tag("section", title, points, parts, *more, id="judgement"), figures


def _gaps(view: StudyView) -> Html | None:
    """The worst slice as the search saw it, and as the held-out data have it."""
    rows = []
    for trial in view.finalists:
        found, search = gap(trial, view.keys.drop), evaluation_of(trial, view.targets[0], prefer="search")
        heldout = evaluation_of(trial, view.targets[0])
        if found is None or search is None or heldout is None:
            continue
        shown = f"{units.points(found['gap'], sign=True)}"
        rows.append(
            (
                f"#{trial.number}",
                f"{units.points(found['search'])} ({search.worst_slice})",
                f"{units.points(found['heldout'])} ({heldout.worst_slice})",
                tag("span", shown, class_="tag warn") if found["gap"] > LARGE_GAP else shown,
            )
        )
    if not rows:
        return None
    words = (
        "Largest loss of any slice, in points, corrected for having been picked as the largest. The choice was made on "
        "the search data, so only the held-out data count; a gap above 1.5 points is marked."
    )
    head = ("trial", "search data", "held-out data", "gap")
    parts = (tag("h3", "From search to held-out data"), tag("p", words, class_="muted"))
    return join((*parts, table(head, rows, numeric=(1, 2, 3))))


def _hypotheses(found: tuple[Hypothesis, ...]) -> Html | None:
    """Slices that nobody declared."""
    if not found:
        return None
    rows = [
        (
            each.name,
            f"{each.n:,}",
            units.percent(each.share),
            units.percent(each.share_else),
            _p(each.p_value),
            f"confirmed on trial {', '.join(map(str, each.confirmed))}" if each.confirmed else "hypothesis",
        )
        for each in found
    ]
    words = (
        "What the samples of the search data have in common on which the compressed models of the study disagree with "
        "the original. It is a hypothesis until the held-out data show a certain loss there."
    )
    head = ("slice", "n", "answers that differ", "elsewhere", "p", "")
    parts = (tag("h3", "Discovered slices"), tag("p", words, class_="muted"))
    return join((*parts, table(head, rows, numeric=(1, 2, 3, 4))))


def _result(found: ModelJudgement) -> Html:
    first, *rest = sentences(found)
    return tag(
        "section",
        tag("h2", "Result"),
        tag("p", first, class_="lead"),
        tag("ul", *(tag("li", line) for line in rest)),
        id="result",
    )


def _numbers(info: Judgement) -> Html:
    """Every slice with its verdict, and folded below what the verdict rests on."""
    head = ("slice", "verdict", "needs", "n", "original", "candidate", "drop, points", "limit", "worse / better")
    words = (
        "p: exact paired test of any change; q: of a loss, after Benjamini-Hochberg over the slices; can see: the "
        "true drop that a test of this slice alone would show 4 times in 5; noise: the original against itself; "
        "divergence: Kullback-Leibler, of the outputs, mean and 99th percentile. Drops in points."
    )
    evidence = [_evidence(row) for row in info.rows]
    titles = ("slice", "p", "q", "can see", "noise", "divergence")
    kept = [i for i in range(len(titles)) if any(str(cells[i]) for cells in evidence)]
    return join(
        [
            table(head, [_cells(row) for row in info.rows], numeric=range(2, len(head))),
            tag(
                "details",
                tag("summary", "What the verdicts rest on"),
                tag("p", words, class_="muted"),
                table(
                    [titles[i] for i in kept],
                    [[cells[i] for i in kept] for cells in evidence],
                    numeric=range(1, len(kept)),
                ),
                data_print=True,
            ),
        ]
    )


def _cells(row: JudgedSlice) -> list[object]:
    r = row.result
    verdict: list[object] = ["too few" if r.verdict == "insufficient" else r.verdict]
    if r.within_noise and r.drop.value > 0:
        verdict += [" ", tag("span", "within noise", class_="tag")]
    return [
        _name(row),
        tag("b", *verdict) if r.verdict == "fail" else join(verdict),
        f"+{r.needed:,}" if r.needed else "",
        f"{r.n:,}",
        _share(r.original),
        _share(r.candidate),
        f"{units.points(r.drop.value)} ({units.interval(r.drop, 100.0, 1)})",
        units.points(row.limit),
        f"{r.flips_worse} / {r.flips_better}",
    ]


def _evidence(row: JudgedSlice) -> list[object]:
    r = row.result
    apart = "" if r.kl is None else units.number(r.kl.value, 2)
    return [
        _name(row),
        _p(r.p_value),
        _p(r.q_value),
        "" if r.detectable is None else units.points(r.detectable),
        "" if r.noise is None else units.points(r.noise),
        apart + ("" if r.kl_p99 is None else f" / {units.number(r.kl_p99, 2)}"),
    ]


def _name(row: JudgedSlice) -> Html:
    """With a mark for what nobody declared, and for what is not confirmed."""
    r = row.result
    marks = [_KINDS.get(r.kind, r.kind), "hypothesis" if r.hypothesis else ""]
    tags = [tag("span", mark, class_="tag warn" if mark == "hypothesis" else "tag") for mark in marks if mark]
    return join((row.name, *(item for each in tags for item in (" ", each))))


def _share(value: Estimate) -> str:
    return f"{100 * value.value:.1f} % ({units.interval(value, 100.0, 1)})".replace("-", units.MINUS)


def _confidence(info: Judgement) -> Html | None:
    """How sure both models are, and how often they are sure and wrong."""
    rows = [
        (
            row.name,
            f"{row.result.n:,}",
            _both(row.result.ece_original, row.result.ece_candidate),
            _change(row.result.ece_change),
            _both(row.result.overconfident_original, row.result.overconfident_candidate),
        )
        for row in info.confident
    ]
    if not rows:
        return None
    words = (
        "ECE: expected calibration error, 15 bins of equal mass, from 1,000 samples on. Sure and wrong: the share of "
        "all samples that are answered wrong with a confidence of at least 90 %. Before and after, in points."
    )
    head = ("slice", "n", "ECE", "change of ECE", "sure and wrong")
    return tag(
        "details",
        tag("summary", "How sure the models are"),
        tag("p", words, class_="muted"),
        table(head, rows, numeric=(1, 2, 3, 4)),
        data_print=True,
    )


def _protocol(found: ModelJudgement) -> Html:
    place = found.fingerprint
    facts = [
        ("original", found.original),
        ("candidate", found.candidate),
        ("target", f"{found.target}: {place.cpu_model}, {place.threads} of {place.cores} cores"),
        ("runtime", f"{place.runtime} {place.runtime_version}, {place.provider}"),
        *((f"{e.dataset} data", f"{e.n:,} samples, sha256 {e.dataset_digest}") for e in found.evaluations),
        *((f"noise on {name}", floor.sentence) for name, floor in found.noise.items()),
        *(("not varied", reason) for floor in found.noise.values() for reason in floor.impossible),
        *(("note", note) for note in found.notes),
    ]
    return tag("section", tag("h2", "How it was judged"), table(("", ""), facts), id="protocol")


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _change(value: Estimate | None) -> str:
    return "" if value is None else f"{units.points(value.value, sign=True)} ({units.interval(value, 100.0, 1)})"


def _both(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{units.points(before)} → {units.points(after)}"
