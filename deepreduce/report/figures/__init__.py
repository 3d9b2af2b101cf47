"""Matplotlib figures: the frontier, the ReLUs kept at each site, the costs of private inference."""
