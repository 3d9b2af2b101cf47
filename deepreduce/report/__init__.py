"""Results as files and figures: `tables` (CSV and terminal), `plots` (frontier, layers), `published`, `page`.

Everything here returns text, bytes or a figure; `deepreduce.run.outputs` writes them into the run folder.
Import the module that you need: `plots` alone pulls in matplotlib.
"""
