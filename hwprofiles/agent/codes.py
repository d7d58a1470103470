"""Exit codes of the agent's supervisor. Runs on both sides."""

OUT_OF_MEMORY = 120  # the memory guard ended the program
BAD_REQUEST = 76  # its requests could not be read
