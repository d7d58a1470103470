"""Our search of a model for a number of seconds, as a process of its own. Run by `against_tools.py`.

python own_search.py MODEL OUT SECONDS

The study is that of `real_models.py`, without finalists; it is told the time it has, and whoever runs this may end it
at any moment: what the store holds by then counts.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from real_models import configured, subject

from autotune.search.study import Study

STORE, STUDY = "store.db", "own"
MOST_TRIALS = 10_000  # more than there is time for
MEASURING = 2.0  # seconds, the most for one latency


def main() -> None:
    name, out, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    found = subject(name)
    config = configured(found.config, "surrogate", 0, MOST_TRIALS, MEASURING)
    search = config.search.model_copy(update={"hours": seconds / 3600})
    config = config.model_copy(update={"name": STUDY, "search": search})
    with Study.open(config, found.workload, store=out / STORE, folder=found.folder) as study:
        summary = study.run(lambda _: None, threading.Event())
    if summary.gone:
        raise SystemExit(f"{name}: a target went away: {summary.gone}")


if __name__ == "__main__":
    main()
