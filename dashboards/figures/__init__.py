"""Plotly figures, each a pure function of one info record."""
