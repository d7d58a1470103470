"""Model + recipe -> artifact: ingest, calibrate, bank of compressed weights, assembly in a dialect, kernel check."""
