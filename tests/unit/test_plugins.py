"""Extensions are found by name, and a broken one says whose it is."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from autotune import plugins
from autotune.errors import UsageError

GROUP = "hw_autotune_test.things"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two installed distributions with real entry points."""
    (tmp_path / "acme_things.py").write_text("lamp = 'a lamp'\n")
    (tmp_path / "acme_broken.py").write_text("import no_such_module_of_acme\n")
    (tmp_path / "acme_raises.py").write_text("raise RuntimeError('needs\\na licence')\n")
    entries = """
        [hw_autotune_test.things]
        lamp = acme_things:lamp
        lam = acme_things:lamp
        gone = acme_things:gone
        broken = acme_broken:thing
        raises = acme_raises:thing
        twice = acme_things:lamp
    """
    distribution(tmp_path, "acme-things", entries)
    distribution(tmp_path, "rival-things", "[hw_autotune_test.things]\ntwice = rival:lamp\nlamp = acme_things:lamp\n")
    monkeypatch.syspath_prepend(tmp_path)
    return GROUP


def distribution(folder: Path, name: str, entries: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(textwrap.dedent(entries))


def test_names_are_sorted_and_unique(package: str) -> None:
    assert plugins.names(package) == ["broken", "gone", "lam", "lamp", "raises", "twice"]
    assert plugins.names("hw_autotune_test.nothing") == []


def test_load(package: str) -> None:
    assert plugins.load(package, "lamp") == "a lamp", "the same object under the same name twice is no conflict"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lampp", r"unknown thing 'lampp'; did you mean 'lamp' or 'lam'\?"),
        ("zzz", "unknown thing 'zzz'; known: broken, gone"),
        ("broken", "'broken' .*acme-things cannot be imported: ModuleNotFoundError: .*no_such_module_of_acme"),
        ("gone", "acme-things cannot be imported: AttributeError"),
        ("raises", "RuntimeError: needs a licence; repair or uninstall acme-things"),
        ("twice", r"registered by acme-things \(acme_things:lamp\) and rival-things \(rival:lamp\); uninstall one"),
    ],
)
def test_errors_are_one_line_for_people(package: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plugins.load(package, name)
    assert "\n" not in str(caught.value)


def test_an_empty_group(package: str) -> None:
    with pytest.raises(UsageError, match="unknown nothing 'x'; none is known"):
        plugins.load("hw_autotune_test.nothing", "x")
