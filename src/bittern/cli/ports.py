"""Inputs and outputs of the commands, files or pipes: opened, worked on, or refused."""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from bittern.audio.atomic import (
    atomic_file,
    is_special,
    make_folder,
    own_descriptor,
    refuse_same_file,
    remove_unfinished,
)
from bittern.audio.names import is_audio_name, may_hold_audio
from bittern.cli.batches import PIPE as PIPE
from bittern.cli.options import report
from bittern.errors import CodecError, ConfigError, one_line
from bittern.format import container as bitstream


def run_jobs(
    jobs: list[tuple[str, str]],
    args: argparse.Namespace,
    run: Callable[[str, str], tuple[str, float]],
) -> int:
    """Run all, `args.jobs` at a time, and report each in order, errors at the end.

    Args:
        jobs: input and output of each.
        args: of the command.
        run: does one; returns what to say of it, and the seconds of audio.

    Returns:
        The exit code of the last that failed, or 0.
    """
    failures: list[CodecError] = []
    _stopping.clear()
    many, skipped, audio, began = len(jobs) > 1, 0, 0.0, time.perf_counter()
    with (
        show_progress(len(jobs), unit=" files", quiet=args.quiet or not many) as bar,
        _workers(args.jobs if many else 1) as results,
    ):
        for job, outcome in results(jobs, lambda job: _run_one(job, args, run)):
            if outcome is None:
                skipped += 1
            elif isinstance(outcome, CodecError):
                failures.append(outcome)
            else:
                line, seconds = outcome
                audio += seconds
                if not args.quiet and bar.disable:
                    source, target = label(job[0]), label(job[1], out=True)
                    print(f"{source} -> {target}: {line}", file=sys.stderr)
            bar.update()
    codes = [report(error, args) for error in failures]
    if skipped and not args.quiet:
        print(f"{skipped} of {len(jobs)} files were there already", file=sys.stderr)
    if failures and many:
        print(f"bittern: {len(failures)} of {len(jobs)} files failed", file=sys.stderr)
    elif many and not bar.disable:
        speed = audio / (time.perf_counter() - began)
        print(f"{len(jobs)} files, {audio:.0f} s of audio, {speed:.0f}x real time", file=sys.stderr)
    return codes[-1] if codes else 0


def show_progress(total: float | None, *, unit: str, quiet: bool) -> tqdm:
    """A line on standard error while the work is on, if that is a terminal; wiped out at the end.

    A job that tells of its progress ends there when the command is being stopped.
    """
    hidden = quiet or not sys.stderr.isatty()
    return _Progress(total=total, unit=unit, unit_scale=True, leave=False, disable=hidden)


_stopping = threading.Event()  # set when jobs on other threads are to end


_PATIENCE = 1.0  # seconds that jobs have to end by themselves


class _Stopped(BaseException):
    """Ends a job on its way, so that what it has begun is removed."""


class _Progress(tqdm):
    def update(self, n: float | None = 1) -> bool | None:
        if _stopping.is_set():
            raise _Stopped
        return super().update(n)


Job = tuple[str, str]
Outcome = tuple[str, float] | CodecError | None  # None: the output was there already


def _run_one(
    job: Job, args: argparse.Namespace, run: Callable[[str, str], tuple[str, float]]
) -> Outcome:
    target = Path(job[1])
    try:
        if args.skip_existing and job[1] != PIPE and target.is_file():
            return None
        refuse_unsafe(*job, force=args.force)
        if args.output_dir is not None:
            make_folder(target.parent)
        return run(*job)
    except CodecError as error:
        return error
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:  # of this job alone
        why = error.strerror if isinstance(error, OSError) else "memory ran out"
        return CodecError(f"{label(job[0])}: {why or error}")


@contextmanager
def _workers(
    count: int,
) -> Generator[Callable[[list[Job], Callable[[Job], Outcome]], Iterator[tuple[Job, Outcome]]]]:
    """A `map` over jobs, in order, on so many threads.

    On errors and signals what has begun is ended within a second of audio, or of time, the rest dropped.
    """
    if count == 1:
        yield lambda jobs, run: ((job, run(job)) for job in jobs)
        return
    pool = ThreadPoolExecutor(count)
    try:
        yield lambda jobs, run: zip(jobs, pool.map(run, jobs), strict=True)
    except BaseException as ending:
        _stopping.set()
        if isinstance(ending, KeyboardInterrupt | SystemExit):
            code = ending.code if isinstance(ending, SystemExit) else 130
            timer = threading.Timer(_PATIENCE, _abandon, (code,))
            timer.daemon = True
            timer.start()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _abandon(code: int) -> None:
    """End at once, with nothing left half-written."""
    remove_unfinished()
    os._exit(code)


def refuse_unsafe(source: str, target: str, *, force: bool) -> None:
    """Refuse outputs that would hurt somebody, before any work."""
    if target == PIPE:
        if sys.stdout.isatty():
            raise CodecError("standard output is a terminal; name a file with -o")
        return
    if source != PIPE:
        refuse_same_file(Path(source), Path(target))
    path = Path(target)
    if path.exists() and not force and not is_special(path):
        what = "is a directory" if path.is_dir() else "exists; -f overwrites it"
        raise CodecError(f"{target}: {what}")


def refuse_recording(target: str) -> None:
    """Refuse to write `.btn` data over what is a recording, by its name or by what it holds."""
    if target != PIPE and may_hold_audio(Path(target)):
        what = "an audio file's name" if is_audio_name(Path(target)) else "audio"
        raise ConfigError(
            f"{target}: is {what}, and would get .btn data; for many inputs give --output-dir DIR"
        )


def label(file: str, *, out: bool = False) -> str:
    return one_line(file) if file != PIPE else "standard output" if out else "standard input"


def own_output() -> BinaryIO:
    """Standard output for data, into which no library prints."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream of Python's own
        number = -1
    if number != 1:
        return sys.stdout.buffer
    sys.stdout.flush()
    return os.fdopen(own_descriptor(number), "wb")


def open_input(source: str) -> AbstractContextManager[BinaryIO]:
    if source == PIPE:
        return nullcontext(sys.stdin.buffer)
    return bitstream.open_file(Path(source))


@contextmanager
def open_output(target: str, *, force: bool) -> Generator[BinaryIO, None, None]:
    """For `.btn` data: a file that appears whole or not at all, or standard output.

    What has come to be there meanwhile is replaced with `force` alone.
    """
    if target != PIPE:
        refuse_recording(target)
        with atomic_file(Path(target), replace=force) as file:
            yield file
        return
    file = own_output()
    try:
        yield file
        file.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CodecError(f"standard output: cannot be written ({error.strerror})") from None
