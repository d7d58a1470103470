"""Does a model answer the same on every target? And where does it begin to differ?

`check.check_parity` runs the same inputs on each target and on a float64 reference; `report` holds what it finds.
"""
