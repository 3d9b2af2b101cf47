"""The run folder and its files: what is written, and how it is read back."""
