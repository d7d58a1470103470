"""Looking at a study: information, then figures, then one page. Reads the store and nothing else."""
