"""Work shared out to processes, to each one item at a time: one that is killed costs its item alone."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch

from bittern.errors import CodecError

T = TypeVar("T")
R = TypeVar("R")


class Killed(NamedTuple):
    """In place of a result: the process that was at it has ended."""

    reason: str


def share(
    function: Callable[[T], R], items: Sequence[T], jobs: int
) -> Iterator[tuple[T, R | Killed]]:
    """Each item with what comes of it, as it is done; with one job by this process.

    Whatever ends this, an interrupt included, ends the processes.
    """
    jobs = min(jobs, len(items))
    if jobs < 2:
        yield from ((item, function(item)) for item in items)
        return
    workers = [_Worker() for _ in range(jobs)]
    idle: SimpleQueue[_Worker] = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def do(item: T) -> R | Killed:
        worker = idle.get()
        try:
            return worker.do(function, item)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(jobs)
    try:
        waiting = {threads.submit(do, item): item for item in items}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()


def in_order(function: Callable[[T], R], items: Iterable[T], jobs: int) -> Iterator[R]:
    """A `map` by processes.

    Raises:
        CodecError: one was killed.
    """
    numbered = list(enumerate(items))
    found: dict[int, R] = {}
    for (number, _), result in share(_Second(function), numbered, jobs):
        if isinstance(result, Killed):
            raise CodecError(f"{numbered[number][1]}: {result.reason}")
        found[number] = result
    yield from (found[number] for number, _ in numbered)


class _Second(NamedTuple):
    """A function of the second of two; processes are sent it."""

    function: Callable[[Any], Any]

    def __call__(self, pair: tuple[int, Any]) -> Any:
        return self.function(pair[1])


class _Worker:
    """A process, started anew after it was killed."""

    def __init__(self) -> None:
        self._ended = False
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def do(self, function: Callable[[Any], R], item: Any) -> R | Killed:
        try:
            self._pipe.send((function, item))
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode or 0
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not self._ended:
                self._start()
            return Killed(f"the process at work on it has ended ({why}); is memory short?")

    def end(self) -> None:
        self._ended = True
        self._process.kill()


def _serve(pipe: Connection) -> None:
    """One thread for each process: the processes are the parallelism."""
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL's; numba is not imported yet
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's; whoever began us answers it
    while True:
        try:
            function, item = pipe.recv()
        except EOFError:
            return
        pipe.send(function(item))
