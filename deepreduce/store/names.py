"""The name of every file of a run, once.

```
RUN/
  config.yaml  environment.json  log.txt  criticality.json  costs.json
  teacher/  {probes,candidates}/<hash>/            plan.json  model.safetensors  metrics.json  history.csv
                                               masks.safetensors, where the plan has masks
                                               private-PROTOCOL.json, private-PROTOCOL-xBATCH.json,
                                               by 'deepreduce private run'
  candidates.json  candidates.csv  frontier.csv  frontier.png  frontier.svg  layers.png  costs-PRESET.png  report.html
```

Every .json is a record with a checksum (`deepreduce.utils.records`); environment.json also holds config.yaml's, and
metrics.json those of history.csv and model.safetensors. The other .csv and the plots are written, and never read.

`metrics.json` is written last and says that a network is done; until then `training.safetensors` holds its state.
`teacher-answers.bin` exists until the run is finished.
"""

from pathlib import Path

from deepreduce.cost.batch import split_batch, with_batch
from deepreduce.utils.file_names import checked_name

CONFIG, ENVIRONMENT, LOG, LOCK = "config.yaml", "environment.json", "log.txt", ".lock"
CRITICALITY, COSTS = "criticality.json", "costs.json"
LOGITS_CACHE = "teacher-answers.bin"
"""The teacher's logits of augmented images, until the run is finished."""

TEACHER, PROBES, DRAFTS, CANDIDATES = "teacher", "probes", "drafts", "candidates"
"""Folders of networks: the teacher's own, and those that hold a folder for each plan; earlier versions had drafts."""

PLAN, WEIGHTS, METRICS, HISTORY = "plan.json", "model.safetensors", "metrics.json", "history.csv"
MASKS = "masks.safetensors"
"""The masks that plan.json names by their digests, by site."""
STATE = "training.safetensors"
"""Snapshot of a training that is not done yet."""

CANDIDATES_RECORD = "candidates.json"
"""All candidates with their measurements: what plots, tables and the page are made of."""
CANDIDATES_CSV, FRONTIER_CSV = "candidates.csv", "frontier.csv"
FRONTIER_PLOTS, LAYERS_PLOT = ("frontier.png", "frontier.svg"), "layers.png"
REPORT_PAGE = "report.html"


def costs_plot(preset: str) -> str:
    """Return the file name of the plot of what networks cost under a preset."""
    return f"costs-{checked_name(preset)}.png"


def private_run(protocol: str, batch: int = 1) -> str:
    """Return the name of the file, in a network's folder, that holds what 'deepreduce private run' measured."""
    return f"private-{checked_name(with_batch(protocol, batch))}.json"


def private_runs(network: Path, protocol: str) -> dict[int, Path]:
    """Return the files of `private_run` in a network's folder for a protocol, by the batch of their queries."""
    found = {}
    for path in sorted(network.glob(f"private-{checked_name(protocol)}*.json")):
        name, batch = split_batch(path.stem)
        if name == f"private-{protocol}":
            found[batch] = path
    return found


def run_of(network: Path) -> Path | None:
    """Return the folder of the run that a network's folder lies in, by the names of folders; None for any other."""
    if network.name == TEACHER:
        return network.parent
    return network.parent.parent if network.parent.name in (PROBES, DRAFTS, CANDIDATES) else None
