"""The records of studies: SQLAlchemy tables with migrations, and a folder of artifacts named by their
digests.
"""

from autotune.store.heldout import HeldoutUse
from autotune.store.location import redact
from autotune.store.store import Store, open_store

__all__ = ["HeldoutUse", "Store", "open_store", "redact"]
