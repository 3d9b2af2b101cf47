"""Reduced networks under real secure computation: two or three processes, each with its own secret, on SPU."""
