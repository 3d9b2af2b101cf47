"""The main job: from everything that a run needs to its frontier, in a folder that survives a kill at any moment."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from deepreduce.errors import CheckpointError, RunFolderError, RunInterrupted
from deepreduce.execution.executor import open_executor
from deepreduce.execution.trainer import TrainingContext
from deepreduce.network import Network
from deepreduce.observers.base import Observers
from deepreduce.run.outputs import write_plots, write_tables
from deepreduce.run.read import read_sites
from deepreduce.run.result import ReducedNetwork, Result
from deepreduce.run.runner import Runner
from deepreduce.run.session import Session
from deepreduce.run.spec import RunSpec
from deepreduce.run.stages import run_stages
from deepreduce.store.names import LOG, LOGITS_CACHE, PLAN, TEACHER
from deepreduce.store.run_folder import RunFolder
from deepreduce.training import Stopped
from deepreduce.training.autotune import using_threads
from deepreduce.utils.files import writing
from deepreduce.utils.printable import PrintableFormatter
from deepreduce.utils.stop import StopRequest

log = logging.getLogger(__name__)


def run(spec: RunSpec, *, out: Path) -> Result:
    """Run the stages in the folder `out`, or resume them there; return the finished run.

    Raises `RunFolderError` where the folder is not this run's, `RunError` where the run fails, and `RunInterrupted`
    when a signal asked it to stop; everything is saved then.
    """
    with (
        using_threads(spec.execution.threads),
        RunFolder.open(out, spec.identity) as folder,
        StopRequest() as stop,
        _log_file(folder.path / LOG),
        Observers(spec.observers) as observers,
        open_executor(workers=spec.execution.workers) as executor,
    ):
        _check_stages(folder.path, spec.search.network)
        observers.run_started(folder.path)
        log.info("run in %s, with %s", folder.path, spec.execution.describe())
        context = TrainingContext(
            original=spec.search.network,
            data=spec.data,
            precision=spec.execution.precision,
            device=spec.device,
            threads=spec.execution.threads,
            distillation=spec.distillation,
            checkpoint_seconds=spec.checkpoint_seconds,
            root=folder.path,
            callbacks=spec.callbacks,
        )
        session = Session(
            spec=spec,
            folder=folder.path,
            runner=Runner(executor, observers, stop=stop),
            context=context,
        )
        try:
            return _finish(session, observers)
        except Stopped:
            raise RunInterrupted(f"stopped; all is saved in {folder.path}", folder=folder.path) from None


def _check_stages(folder: Path, network: Network) -> None:
    """Raise `RunFolderError` where the run in the folder was begun with other stages, which its labels name."""
    if not (folder / TEACHER / PLAN).is_file():
        return
    try:
        before = {site.name: site.stage for site in read_sites(folder / TEACHER)}
    except CheckpointError:  # the teacher's description follows from the run, which writes it again
        return
    for site in network.sites:
        was = before.get(site.name, site.stage)
        if was != site.stage:
            raise RunFolderError(
                f"{folder} was begun with other stages: {site.name} was in {was} and is in {site.stage} now; give"
                " another folder with --out (its networks can still be loaded, evaluated and exported)"
            )


def _finish(session: Session, observers: Observers) -> Result:
    """Run the stages, write tables and plots, and return the result."""
    spec, folder = session.spec, session.folder
    objective = spec.search.context.objective
    candidates, proposals = run_stages(session)
    write_tables(folder, candidates, stages=spec.search.network.stages, complete=True, objective=objective)
    write_plots(folder, title=spec.title, overlay=spec.overlay, objective=objective)
    observers.run_finished(candidates, objective)
    remove_logits_cache(folder)
    networks = [  # the run has run the caller's file already
        ReducedNetwork(candidate=c, folder=folder / c.folder, original=spec.model, trust_code=True)
        for c in candidates
    ]
    return Result(
        folder=folder,
        teacher=networks[0],
        candidates=tuple(networks[1:]),
        criticality=proposals.criticality.criticality if proposals.criticality is not None else {},
        objective=objective,
        title=spec.title,
    )


def remove_logits_cache(folder: Path) -> None:
    """Remove the teacher's logits, which a finished run needs no more; where that fails, log a warning."""
    try:
        (folder / LOGITS_CACHE).unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s can't be removed (%s); remove it yourself", folder / LOGITS_CACHE, error.strerror or error)


class _RunLog(logging.FileHandler):
    """A log file that keeps silent when its disk is full: the run itself says so, in one line."""

    def _open(self) -> TextIOWrapper:
        # a link in its place is not followed
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        return open(self.baseFilename, "a", encoding="utf-8", opener=lambda path, _: os.open(path, flags, 0o666))

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with suppress(OSError):  # what could not be written, when it was logged, can't be written now either
            super().close()


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Write everything that deepreduce logs to a file as well."""
    with writing(path):
        handler = _RunLog(path, encoding="utf-8")
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("deepreduce")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
