"""Where a report goes that nobody named a file for: none overwrites another study's."""

from __future__ import annotations

from pathlib import Path

from autotune.report import default_path
from autotune.store import open_store


def made(store: Path, study: str) -> Path:
    with open_store(store, study) as opened:
        opened.begin("{}", "d")
        return default_path(opened)


def test_the_name_tells_whose_report_it_is_where_several_lie(tmp_path: Path) -> None:
    first, second = tmp_path / "first.db", tmp_path / "second.db"
    assert made(first, "ocr") == tmp_path / "report.html"
    assert made(second, "ocr") == tmp_path / "report-second.html"
    assert made(first, "ocr") == tmp_path / "report-first.html"
    assert made(first, "spam") == tmp_path / "report-first-spam.html"
    alone = tmp_path / "alone" / "store.db"
    alone.parent.mkdir()
    assert [made(alone, study).name for study in ("a", "b")] == ["report.html", "report-b.html"]
