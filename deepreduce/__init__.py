"""Fewer ReLUs for private inference: from a network to its ReLU/accuracy frontier."""
