"""One file per version of the tables, named `schema_N.py`; N is Alembic's revision."""
