"""Lower a network to the program that the parties run."""
