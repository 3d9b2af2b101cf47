"""Decide which networks a run trains, in which order, and for how long."""
