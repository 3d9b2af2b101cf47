"""The parts of scripts/fuzz.py: makers of hostile inputs, and the judge of what deepreduce does with them."""
