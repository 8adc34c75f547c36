"""Where jobs run. ``LocalExecutor``: worker processes on this machine.

Each job runs in a worker process that is kept for the next job, so that torch is imported once and a job that takes
its process down (out of memory, a crash in native code) is reported and the rest go on in a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

from balora.store import Run
from balora.study.grid import Job
from balora.study.job import failed, run_job

Begin = Callable[[Job], None]
Done = Callable[[Job, Run], None]


class Executor(Protocol):
    """Runs jobs in any order and any place; calls ``begin`` and ``done`` for each, in this process."""

    def run(self, jobs: Sequence[Job], begin: Begin, done: Done) -> None: ...


class LocalExecutor:
    """``workers`` processes side by side, sharing the machine's cores evenly."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, jobs: Sequence[Job], begin: Begin, done: Done) -> None:
        """See ``Executor``. When this is interrupted the workers are stopped before it returns."""
        waiting = deque(jobs)
        threads = max(1, len(os.sched_getaffinity(0)) // self.workers)
        pool = [_Worker(threads) for _ in range(min(self.workers, len(jobs)))]
        try:
            while waiting or any(worker.job for worker in pool):
                for worker in pool:
                    if worker.job is None and waiting:
                        begin(waiting[0])
                        worker.start(waiting.popleft())
                for worker in pool:
                    if worker.job is not None and (run := worker.poll([w for w in pool if w.job])):
                        job = worker.job
                        worker.job = None
                        done(job, run)
        finally:
            for worker in pool:
                worker.stop()


class _Worker:
    """One worker process, started anew after it died."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._started = datetime.now(UTC)
        self.job: Job | None = None

    def start(self, job: Job) -> None:
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._threads), daemon=True)
            self._process.start()
            theirs.close()
        assert self._connection is not None
        self._started = datetime.now(UTC)
        self.job = job
        self._connection.send(job)

    def poll(self, busy: Sequence[_Worker]) -> Run | None:
        """The finished run, or None after waiting a moment for any of ``busy``."""
        assert self.job is not None
        assert self._process is not None
        assert self._connection is not None
        wait([w._connection for w in busy if w._connection], timeout=0.2)
        if not self._connection.poll():
            return None
        try:
            run: Run = self._connection.recv()
            return run
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._process = None
            how = f"was killed by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
            return failed(
                self.job,
                self._started,
                f"the job's process {how} (out of memory?); other jobs are not affected",
            )

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.join()
            self._process = None


def _serve(connection: Connection, threads: int) -> None:
    """A worker process: one job after another, until the parent closes the pipe or is gone."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(run_job(job))


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # an orphan would hold its output folder's lock and burn the machine for nobody
