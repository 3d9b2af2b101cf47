"""Rewrite each linear region of a network into one layer."""
