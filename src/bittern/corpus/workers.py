"""Work shared out to processes, to each one item at a time: one that is killed costs its item alone.

None of them outlives who asked: a process ends when its input does.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, TypeVar

from bittern.errors import CodecError

T = TypeVar("T")
R = TypeVar("R")


class Killed(NamedTuple):
    """In place of a result: the process that was at it has ended."""

    reason: str


def share(
    function: Callable[[T], R], items: Sequence[T], jobs: int, *, apart: bool = False
) -> Iterator[tuple[T, R | Killed]]:
    """Each item with what comes of it, as it is done.

    Whatever ends this, an interrupt included, ends the processes.

    Args:
        function: what modules hold, as processes are sent it.
        items: what it is called with.
        jobs: processes, each on one thread; where one would do, this one is it.
        apart: not even then.

    Raises:
        CodecError, OSError: by the function.
    """
    jobs = min(jobs, len(items))
    if jobs < 2 and not apart:
        yield from ((item, function(item)) for item in items)
        return
    workers = [_Worker() for _ in range(jobs)]
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def do(item: T) -> Any:
        worker = idle.get()
        try:
            return worker.do(function, item)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(max(jobs, 1))
    try:
        waiting = {threads.submit(do, item): item for item in items}
        for future in as_completed(waiting):
            result = future.result()
            if isinstance(result, Exception):
                raise result
            yield waiting[future], result
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.end()
        threads.shutdown()
        for worker in workers:
            worker.close()


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
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from bittern.corpus import workers; workers.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # what interrupts us does not make it talk
            env=os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
        )

    def do(self, function: Callable[[Any], Any], item: Any) -> Any:
        """What comes of an item, which may be an error, or `Killed`."""
        process = self._process
        assert process.stdin
        assert process.stdout
        try:
            for part in (sys.path, (function, item)):
                pickle.dump(part, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            process.communicate()
            code = process.returncode
            why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            if not self._ended:
                self._start()
            return Killed(f"the process at work on it has ended ({why}); is memory short?")

    def end(self) -> None:
        self._ended = True
        self._process.kill()

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    """Answer pickled requests on standard input by results on standard output."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print does not get between answers
    requests: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    while True:
        function, item = requests.get()
        try:
            answer: Any = function(item)
        except (CodecError, OSError) as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


def _listen(requests: "queue.SimpleQueue[tuple[Any, Any]]") -> None:
    try:
        while True:
            sys.path[:] = pickle.load(sys.stdin.buffer)
            requests.put(pickle.load(sys.stdin.buffer))
    except EOFError:
        os._exit(1)  # nobody waits for what is on its way
