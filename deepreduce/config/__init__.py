"""The config of a run: its schema, how a file is loaded, and what is built from it."""
