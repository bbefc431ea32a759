"""
Worker processes: judge answers with a hard time limit for each, from any thread.

A worker is a fresh Python that has imported the rule's library alone. `multiprocessing` would not do: a forked child
of a process with CUDA and threads may hang, and a spawned one imports the user's script, with torch, anew. Workers
are kept for the next call, and end with this process.
"""

import atexit
import contextlib
import importlib.util
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, Any, cast

from .scorer import Scorer
from .texts import end_of, entry_texts
from .verdicts import Verdict


logger = logging.getLogger(__name__)

EXTRAS = {"math_verify": "math", "reasoning_gym": "gym"}

MOST_WORKERS = 8
# Rows that a worker gets at once: few enough that all workers end at about the same time
CHUNK = 16
# The worker's own timer ends it; this is for where it cannot
GRACE = 1.0
# Imports on a busy network file system
START_SECONDS = 120.0

PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from trl_dapo.evaluation.scorers.worker_process import main; main(sys.argv[2])"
)

Row = tuple[str, str, Any]


@dataclass
class Worker:
    """One process, what it has been asked, and what it has said so far."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    replies: IO[bytes]
    asked: deque[int] = field(default_factory=deque)
    unread: bytes = b""
    ready: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + START_SECONDS)
    late: bool = False

    def end(self) -> None:
        """Kills the process and waits for it. A worker holds nothing that it would have to save."""
        self.process.kill()
        self.process.wait()
        self.forget()

    def forget(self) -> None:
        """Closes the pipes."""
        self.requests.close()
        self.replies.close()


class Pool:
    """The workers of one rule."""

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.lock = threading.Lock()
        self.workers: list[Worker] = []

    def judge(self, rows: list[Row], time_limit: float, most_workers: int) -> list[Verdict]:
        """Returns one verdict per row. If anything interrupts it, all workers end."""
        with self.lock:
            try:
                return Round(self, rows, time_limit, most_workers).run()
            except BaseException:
                self.end()
                raise

    def start_worker(self) -> Worker:
        """Starts one more process."""
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps([os.path.abspath(path) for path in sys.path]), self.rule],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            # Ctrl-C is for this process, which then ends its workers
            start_new_session=True,
        )
        # Both are pipes by the arguments above
        worker = Worker(process, cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout))
        self.workers.append(worker)
        return worker

    def forget_ended(self) -> None:
        """Leaves out workers that something else has ended. No answer is to blame for them."""
        for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
            self.workers.remove(worker)
            worker.forget()

    def end(self) -> None:
        """Ends all workers."""
        while self.workers:
            self.workers.pop().end()


class Round:
    """One call: deals rows to workers and collects verdicts, until every row has one."""

    def __init__(self, pool: Pool, rows: list[Row], time_limit: float, most_workers: int) -> None:
        self.pool = pool
        self.rows = rows
        self.time_limit = time_limit
        self.waiting = deque(range(len(rows)))
        self.verdicts: dict[int, Verdict] = {}
        self.size = min(most_workers, -(-len(rows) // CHUNK))

    def run(self) -> list[Verdict]:
        with selectors.DefaultSelector() as self.selector:
            self.pool.forget_ended()
            for worker in self.pool.workers[: self.size]:
                self._watch(worker)
            while len(self.verdicts) < len(self.rows):
                self._fill_up()
                nearest = min(worker.deadline for worker in self._busy())
                for key, _ in self.selector.select(max(nearest - time.monotonic(), 0.0)):
                    self._read(key.data)
                self._end_late_ones()
        return [self.verdicts[row] for row in range(len(self.rows))]

    def _busy(self) -> list[Worker]:
        return [worker for worker in self._watched() if worker.asked or not worker.ready]

    def _watched(self) -> list[Worker]:
        return [key.data for key in self.selector.get_map().values()]

    def _fill_up(self) -> None:
        """Asks workers that have nothing to do, and starts others for the rows that are left."""
        for worker in self._watched():
            if worker.ready and not worker.asked:
                self._ask(worker)
        starting = sum(not worker.ready for worker in self._busy())
        while len(self.selector.get_map()) < self.size and starting * CHUNK < len(self.waiting):
            self._watch(self.pool.start_worker())
            starting += 1

    def _watch(self, worker: Worker) -> None:
        self.selector.register(worker.replies, selectors.EVENT_READ, worker)

    def _ask(self, worker: Worker) -> None:
        if not self.waiting:
            return
        worker.asked.extend(self.waiting.popleft() for _ in range(min(CHUNK, len(self.waiting))))
        request = {"time_limit": self.time_limit, "rows": [self.rows[row] for row in worker.asked]}
        self._set_deadline(worker)
        # A worker that has ended is found when its replies are read
        with contextlib.suppress(OSError):
            _write_all(worker.requests, f"{json.dumps(request)}\n".encode())

    def _set_deadline(self, worker: Worker) -> None:
        worker.deadline = time.monotonic() + self.time_limit + GRACE

    def _read(self, worker: Worker) -> None:
        read = os.read(worker.replies.fileno(), 1 << 16)
        if not read:
            self._bury(worker)
            return
        *lines, worker.unread = (worker.unread + read).split(b"\n")
        for line in lines:
            self._take(worker, json.loads(line))

    def _take(self, worker: Worker, reply: dict[str, Any]) -> None:
        if not worker.ready:
            worker.ready = True
            return
        if error := reply.pop("error", None):
            logger.debug("%s: an answer could not be read: %s", self.pool.rule, error)
        self.verdicts[worker.asked.popleft()] = Verdict(**reply)
        self._set_deadline(worker)

    def _end_late_ones(self) -> None:
        now = time.monotonic()
        for worker in self._busy():
            if worker.deadline < now:
                worker.late = True
                self._bury(worker)

    def _bury(self, worker: Worker) -> None:
        """The row on which a worker ended has its verdict; the others that it was asked go to the next worker."""
        self.selector.unregister(worker.replies)
        self.pool.workers.remove(worker)
        worker.end()
        if not worker.ready:
            raise RuntimeError(
                f"{self.pool.rule}: its worker process ended before it was ready (exit code "
                f"{worker.process.returncode}). What it said is above."
            )
        if worker.asked:
            timed_out = worker.late or worker.process.returncode == -signal.SIGALRM
            self.verdicts[worker.asked.popleft()] = Verdict(timed_out=timed_out)
            self.waiting.extendleft(reversed(worker.asked))


def judge_in_workers(scorer: Scorer, texts: list[str], solutions: list[str], columns: dict[str, Any]) -> list[Verdict]:
    """
    Returns the verdicts of a rule that belongs to a library.

    Raises:
        `ImportError`: If the library is not installed; names the extra that has it.
    """
    if importlib.util.find_spec(scorer.name) is None:
        raise ImportError(
            f"{scorer.name}: the library {scorer.name} is not installed. Run pip install "
            f"'trl-dapo[{EXTRAS[scorer.name]}]'."
        )
    entries = entry_texts(columns["entry"]) if "entry" in scorer.columns else [None] * len(texts)
    rows = [(end_of(text), solution, entry) for text, solution, entry in zip(texts, solutions, entries, strict=True)]
    if not rows:
        return []
    return _pool(scorer.name).judge(rows, scorer.time_limit, scorer.workers or default_workers())


def default_workers() -> int:
    """Returns the cores that this process may use, shared with the other processes of the run on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def end_workers() -> None:
    """Ends all worker processes now. The next call starts new ones."""
    for pool in POOLS.values():
        with pool.lock:
            pool.end()


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[pipe.write(view) :]


# Of this process: scorers are copied, pickled and made anew, and all find the same workers
POOLS: dict[str, Pool] = {}
_POOLS_LOCK = threading.Lock()


def _pool(rule: str) -> Pool:
    with _POOLS_LOCK:
        return POOLS.setdefault(rule, Pool(rule))


def _after_fork() -> None:
    """In a forked child: the workers are the parent's. Without its pipes to them, they end when the parent does."""
    global _POOLS_LOCK
    _POOLS_LOCK = threading.Lock()
    for pool in POOLS.values():
        for worker in pool.workers:
            worker.forget()
            # Not a child of this process: it must not be waited for
            worker.process.returncode = 0
    POOLS.clear()


atexit.register(end_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
