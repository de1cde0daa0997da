"""`bittern tokenize`: a corpus to codes."""

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from bittern.cli.options import (
    Commands,
    add_coding_options,
    add_command,
    add_model,
    coding_options,
    positive_float,
    positive_int,
)
from bittern.cli.ports import show_progress

if TYPE_CHECKING:
    from bittern.corpus import Progress, Summary

_BAD_INPUT = 2  # the exit code where a recording has no codes
_SHOWN_ERRORS = 20
_TOLD_SECONDS = 60.0  # between lines about progress where there is no terminal


def add_tokenize(commands: Commands) -> None:
    command = add_command(
        commands,
        "tokenize",
        _tokenize,
        "code a corpus into shards; the same command goes on after an interruption",
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of audio or tars; a manifest (.jsonl, wav.scp); tars or Parquet files, also "
        "as a pattern in quotes",
    )
    command.add_argument("out", metavar="OUT", help="folder for the shards")
    command.add_argument(
        "--to",
        choices=["parquet", "webdataset", "npy", "btn"],
        default="parquet",
        help="codes as Parquet, as tars or as single files, with --stages or a nominal --bitrate; or "
        "btn files (default: %(default)s)",
    )
    hands = command.add_mutually_exclusive_group()
    hands.add_argument(
        "--workers",
        type=positive_int,
        default=_processors(),
        metavar="N",
        help="processes, of one thread each (default: %(default)s, as many as there are processors)",
    )
    hands.add_argument(
        "--cluster", metavar="ADDRESS", help="let a Ray cluster do the work: auto, or its address"
    )
    command.add_argument(
        "--part",
        type=_part,
        default=(0, 1),
        metavar="I/N",
        help="every Nth shard from the Ith on, counted from 0: for arrays of jobs",
    )
    command.add_argument(
        "--shard-mb",
        type=positive_float,
        metavar="MB",
        help="of recordings to a shard (default: a 64th of all, but 8 to 1000)",
    )
    add_coding_options(command)
    add_model(command)
    command.set_defaults(device="cpu")


def _tokenize(args: argparse.Namespace) -> int:
    from bittern.corpus import tokenize

    began = told = time.monotonic()
    with show_progress(1.0, unit="", quiet=args.quiet) as bar:
        bar.bar_format = "{percentage:3.0f}%|{bar}| {postfix}"

        def watch(progress: "Progress") -> None:
            nonlocal told
            bar.set_postfix_str(progress.line, refresh=False)
            bar.update(progress.share - bar.n)
            if bar.disable and not args.quiet and time.monotonic() - told > _TOLD_SECONDS:
                told = time.monotonic()
                print(f"{progress.share:.1%}: {progress.line}", file=sys.stderr)

        summary = tokenize(
            args.source,
            args.out,
            args.model,
            to=args.to,
            workers=args.workers,
            part=args.part,
            cluster=args.cluster,
            shard_mb=args.shard_mb,
            device=args.device,
            watch=watch,
            **coding_options(args),
        )
    return _report(summary, args, time.monotonic() - began)


def _report(summary: "Summary", args: argparse.Namespace, elapsed: float) -> int:
    for key, reason in list(summary.errors.items())[:_SHOWN_ERRORS]:
        print(f"bittern: {key}: {reason}", file=sys.stderr)
    if more := len(summary.errors) - _SHOWN_ERRORS:
        print(f"bittern: and {more} more, see summary.json", file=sys.stderr) if more > 0 else None
    for number, reason in summary.failed.items():
        print(f"bittern: shard {number}: {reason}", file=sys.stderr)
    if not args.quiet:
        print(
            f"{args.out}: {summary.shards} of {summary.of} shards, {summary.recordings} recordings, "
            f"{summary.seconds / 3600:.3f} h, {summary.kbps:.2f} kbit/s on disk, "
            f"{summary.speed:.1f}x real time a core, {len(summary.errors)} without codes; "
            f"{elapsed:.1f} s"
        )
    return _BAD_INPUT if summary.errors or summary.failed else 0


def _processors() -> int:
    count = getattr(os, "sched_getaffinity", None)
    return len(count(0)) if count else os.cpu_count() or 1


def _part(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 0/64, up to 63/64")
    return int(index), int(count)
