"""A run: from its config to the frontier, its files and its result."""
