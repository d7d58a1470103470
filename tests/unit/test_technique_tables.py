"""Every option of every technique can be set from a study file, and wrong ones are told in one line."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from autotune import plugins
from autotune.config import load_study
from autotune.errors import AutotuneError
from autotune.search.opening import make_techniques

TECHNIQUES = [name for name in plugins.names("hw_autotune.techniques") if name != "recover"]
VALUES: dict[tuple[str, str], str] = {  # an option whose default cannot be written down as it is
    ("quantize", "choices"): '["float16", "nf4-b64-load"]',
    ("quantize", "rounding"): '"gptq"',
    ("quantize", "bias_correction"): "true",
}


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return repr(value).replace("'", '"')


def study(folder: Path, tables: str) -> Path:
    (folder / "study.toml").write_text(f'name = "s"\n{tables}\n')
    (folder / "task.py").write_text("def workload(): ...\n")
    return folder


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_option_can_be_written_in_a_study(name: str, tmp_path: Path) -> None:
    parameters = inspect.signature(plugins.load("hw_autotune.techniques", name)).parameters
    lines = [f"{key} = {VALUES.get((name, key)) or written(each.default)}" for key, each in parameters.items()]
    loaded = load_study(str(study(tmp_path, "\n".join([f"[techniques.{name}]", *lines]))))
    assert set(make_techniques(loaded.config)) >= {name}
    assert set(loaded.config.techniques[name]) == set(parameters)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[techniques.prune]\nshare = [0.5]", "techniques.prune: has no option 'share'; did you mean 'shares'"),
        ("[techniques.prune]\nshares = 0.5", "prune.shares: is 0.5; give a list, such as [0.5]"),
        (
            '[techniques.prune]\nexclude = ["a"]',
            "has no option 'exclude'; known: kinds, round_to, route, shares; 'exclude' is a key of the study itself: "
            "write it above the first [table]",
        ),
        ("[techniques.sparsify]\nranks = [0.5]", "'ranks' is a key of [techniques.factorize]"),
        ("[search]\nminutes = 3", "unknown key; known: blocks, hours, "),
        ("[search]\nminutes = 3", "; 'minutes' is a key of [recover]"),
        ('[workload]\nexclude = ["a"]', "workload.exclude: unknown key; known: task; 'exclude' is a key of the study"),
        ("[techniques.simplify]\nhard = true", "techniques.simplify: has no option 'hard'; it has none"),
        ("[techniques.factorize]\nranks = [1.5]", ":3: techniques.factorize.ranks: has 1.5;"),
        ('[techniques.quantize]\nrounding = "best"', "rounding"),
    ],
)
def test_wrong_options_are_told_in_one_line(table: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AutotuneError) as caught:
        load_study(str(study(tmp_path, table)))
    message = str(caught.value)
    assert said in message and "\n" not in message and "__init__" not in message and ": technique " not in message


def test_sparsify_alone_is_searched_for_what_it_gains(tmp_path: Path) -> None:
    def objectives(tables: str) -> list[str]:
        return [str(key) for key in load_study(str(study(tmp_path, tables))).config.objective_keys]

    plain = ["size_bytes", "latency_ratio@local", "drop/worst"]
    assert objectives("[techniques.sparsify]") == [plain[0], "download_bytes", *plain[1:]]
    assert objectives("[techniques.prune]") == plain
    assert objectives('[techniques.sparsify]\n[search]\nobjectives = ["size_bytes"]') == ["size_bytes"]
