"""The page: complete, self-contained, and deaf to what names and predictions contain."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import DiskError
from autotune.report import write_report as write_any
from autotune.trial import Trial
from dashboards.page import render, write_report
from dashboards.page.html import Html, tag, text
from dashboards.page.pictures import data_uri

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00"


class Outline(HTMLParser):
    """Collects the elements, and the text of each script and of the page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._script: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs)
            self.scripts.append((self._script, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        else:
            self.words.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    return parsed


@pytest.fixture(scope="module")
def page(study: Any) -> str:
    return render(study.store())


@pytest.fixture(scope="module")
def parsed(page: str) -> Outline:
    return outline(page)


def test_every_figure_has_its_place_and_every_link_its_section(parsed: Outline) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    figures = json.loads(next(body for attributes, body in parsed.scripts if attributes.get("id") == "figures"))
    assert len(figures) == 7 and set(figures) <= set(ids)
    anchors = [a["href"] for name, a in parsed.elements if name == "a"]
    assert anchors and {str(anchor)[1:] for anchor in anchors} <= set(ids)


def test_only_the_two_own_scripts_may_run(parsed: Outline) -> None:
    policy = next(str(a["content"]) for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    running = [body for attributes, body in parsed.scripts if attributes.get("type") != "application/json"]
    assert [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in running] == allowed
    assert len(running) == 2


def test_nothing_is_loaded_from_elsewhere(parsed: Outline) -> None:
    for name, attributes in parsed.elements:
        assert name not in ("link", "iframe", "object", "embed", "form", "base")
        assert not any(key.startswith("on") for key in attributes)
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/png;base64,")
        assert str(attributes.get("href", "#")).startswith("#")


def test_pictures_and_labels_of_flips_are_shown(parsed: Outline) -> None:
    assert any(name == "img" for name, _ in parsed.elements)
    assert "label" in parsed.words and "Got worse" in parsed.words


def test_hostile_names_stay_text(study: Any) -> None:
    store = study.store()
    chosen = next(t for t in study.made if t.final and t.number)
    for trial in list(store._trials.values()):
        store._trials[trial.number] = _poisoned(trial)
    inspection = store._meta["inspection"]
    rows = [{**row, "name": row["name"] + EVIL, "op": EVIL} for row in inspection["layers"]]
    store._meta["inspection"] = {"layers": rows, "skipped": [{"name": EVIL, "reason": EVIL}], "notes": [EVIL]}
    for index in range(80):
        store._meta[f"sample/sample-{index:03d}"] = {"label": EVIL, "text": EVIL}
    assert chosen.number in store._trials
    parsed = outline(render(store, title=EVIL))
    assert len(parsed.scripts) == 4 and "alert(1)" not in "".join(b for a, b in parsed.scripts if not a.get("type"))
    assert not [a for name, a in parsed.elements if name == "img" and a.get("src") == "x"]
    figures = next(body for attributes, body in parsed.scripts if attributes.get("id") == "figures")
    assert "<" not in figures
    drawn = json.dumps(json.loads(figures), ensure_ascii=False)
    assert "<script" not in drawn and "<img" not in drawn
    assert "\u202e" not in drawn and "\u202e" not in "".join(parsed.words)


def _poisoned(trial: Trial) -> Trial:
    recipe = {t: {layer + EVIL: choice for layer, choice in table.items()} for t, table in trial.recipe.items()}
    evaluations = []
    for evaluation in trial.evaluations:
        slices = [s if s.name == "all" else s.model_copy(update={"name": s.name + EVIL}) for s in evaluation.slices]
        outcomes = [o.model_copy(update={"original": EVIL, "candidate": EVIL + "x"}) for o in evaluation.outcomes]
        named = {"slices": tuple(slices), "outcomes": tuple(outcomes), "metric": EVIL, "worst_slice": EVIL}
        evaluations.append(evaluation.model_copy(update=named))
    layers = [o.model_copy(update={"layer": o.layer + EVIL, "ran": EVIL, "note": EVIL}) for o in trial.layers]
    failure = trial.failure.model_copy(update={"message": EVIL}) if trial.failure else None
    changes = {
        "recipe": recipe, "evaluations": tuple(evaluations), "layers": tuple(layers), "failure": failure,
        "reason": EVIL if trial.reason else "", "proposer": trial.proposer + EVIL,
        "durations": {stage + EVIL: seconds for stage, seconds in trial.durations.items()},
    }  # fmt: skip
    return trial.model_copy(update=changes)


@pytest.mark.parametrize("kind", [{"hard": True}, {"finalists": False}, {"trials": 0, "finalists": False}])
def test_every_kind_of_study_has_a_page(make_study: Callable[..., Any], kind: dict[str, Any]) -> None:
    parsed = outline(render(make_study(**kind).store()))
    assert any("Result" in word for word in parsed.words)


def test_baseline_alone_has_a_page(make_store: Callable[..., Any], study: Any) -> None:
    parsed = outline(render(make_store(study.made[:1])))
    assert any("Nothing can be recommended" in word for word in parsed.words)


def test_file_is_written_whole_through_the_entry_point(study: Any, tmp_path: Path, page: str) -> None:
    path = tmp_path / "sub" / "report.html"
    assert write_any(study.store(), path) == path
    assert path.read_text(encoding="utf-8") == page
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_unwritable_place_is_one_clear_error(study: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match=r"cannot write the report .*report\.html"):
        write_report(study.store(), tmp_path / "file" / "report.html")


def test_a_directory_in_the_way_leaves_no_half_file(study: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(DiskError):
        write_report(study.store(), tmp_path / "report.html")
    assert [found.name for found in tmp_path.iterdir()] == ["report.html"]


def test_markup_is_only_what_was_made_as_markup() -> None:
    assert tag("p", "<b>", Html("<i></i>"), None, class_='"x"') == '<p class="&quot;x&quot;">&lt;b&gt;<i></i></p>'
    assert text("'\"<>&") == "&#x27;&quot;&lt;&gt;&amp;"
    assert tag("img", src="a", alt=None, hidden=True) == '<img src="a" hidden>'


def test_only_raster_pictures_become_data() -> None:
    assert data_uri(b"<svg onload=alert(1)>") is None
    assert data_uri(b"\x89PNG\r\n\x1a\n" + b"0" * 2_000_000) is None
    assert str(data_uri(b"\x89PNG\r\n\x1a\nrest")).startswith("data:image/png;base64,")
