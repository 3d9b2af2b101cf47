"""Reports of results: `tables` (CSV and terminal), `figures`, `page` (report.html), `published` (points of papers).

Every module returns text, bytes or a figure; `deepreduce.run.outputs` writes them into the run folder. Import the
module that you need: only `figures` imports matplotlib.
"""
