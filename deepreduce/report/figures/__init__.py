"""Figures of matplotlib: the frontier, the ReLUs by layer, the costs."""
