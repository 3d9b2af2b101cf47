"""Run a program on SPU, the secure-computation engine."""
