"""Alembic's steps from one version of the tables to the next; run by `autotune.store.schema` at opening."""
