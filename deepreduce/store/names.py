"""The name of every file of a run, once.

```
RUN/
  config.yaml  environment.json  log.txt  criticality.json  costs.json
  teacher/  {probes,drafts,candidates}/<hash>/     plan.json  model.safetensors  metrics.json  history.csv
                                               masks.safetensors, where the plan has masks
                                               private-PROTOCOL.json, by 'deepreduce private run'
  candidates.csv  frontier.csv  frontier.png  frontier.svg  layers.png  costs-PRESET.png  report.html
```

`metrics.json` is written last and says that a network is done; until then `training.safetensors` holds its state.
`teacher-answers.bin` exists until the run is finished.
"""

CONFIG, ENVIRONMENT, LOG, LOCK = "config.yaml", "environment.json", "log.txt", ".lock"
CRITICALITY, COSTS = "criticality.json", "costs.json"
LOGITS_CACHE = "teacher-answers.bin"
"""The teacher's logits of augmented images, until the run is finished."""

TEACHER, PROBES, DRAFTS, CANDIDATES = "teacher", "probes", "drafts", "candidates"
"""Folders of networks: the teacher's own, and those that hold a folder for each plan."""

PLAN, WEIGHTS, METRICS, HISTORY = "plan.json", "model.safetensors", "metrics.json", "history.csv"
MASKS = "masks.safetensors"
"""The masks that plan.json names by their digests, by site."""
STATE = "training.safetensors"
"""Snapshot of a training that is not done yet."""

CANDIDATES_CSV, FRONTIER_CSV = "candidates.csv", "frontier.csv"
FRONTIER_PLOTS, LAYERS_PLOT = ("frontier.png", "frontier.svg"), "layers.png"
REPORT_PAGE = "report.html"


def costs_plot(preset: str) -> str:
    """Return the file name of the plot of what networks cost under a preset."""
    return f"costs-{preset}.png"


def private_run(protocol: str) -> str:
    """Return the name of the file, in a network's folder, that holds what 'deepreduce private run' measured."""
    return f"private-{protocol}.json"
