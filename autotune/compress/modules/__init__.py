"""The torch stage: a module is cut by torch-pruning, and its export takes the place of the original's."""
