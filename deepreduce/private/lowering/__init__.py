"""Turn a network into the program that the parties run."""
