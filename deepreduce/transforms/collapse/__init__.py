"""Rewrite linear regions into one layer each."""
