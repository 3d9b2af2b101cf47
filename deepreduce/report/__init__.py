"""Results as files and figures: `tables` (CSV and terminal), `plots` (frontier, layers), `published`, `page`.

Everything here returns text, bytes or a figure; writing them into the run folder is `deepreduce.runs`' task.
Import the module that you need: `plots` alone pulls in matplotlib.
"""
