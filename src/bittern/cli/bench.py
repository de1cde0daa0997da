"""`bittern bench`: speed, delay and memory on this machine."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from bittern.cli.options import (
    Commands,
    add_command,
    add_model,
    add_search_width,
    positive_float,
    positive_int,
)

if TYPE_CHECKING:
    from bittern.evaluation.benchmark import Benchmark


def add_bench(commands: Commands) -> None:
    command = add_command(commands, "bench", _bench, "measure speed, delay and memory")
    command.add_argument("--stages", type=positive_int, metavar="N", help="to code (default: all)")
    command.add_argument(
        "--seconds",
        type=positive_float,
        default=10.0,
        metavar="S",
        help="of audio to a round (default: %(default)s)",
    )
    add_search_width(command)
    command.add_argument("--json", action="store_true", help="for programs")
    add_model(command)


def _bench(args: argparse.Namespace) -> int:
    from bittern.codec import load
    from bittern.evaluation import benchmark

    codec = load(args.model, args.device)
    codec.bitrate_kbps(args.stages)  # refuses stages that it does not have
    result = benchmark.run(
        codec, seconds=args.seconds, stages=args.stages, search_width=args.search_width
    )
    if args.json:
        print(json.dumps(asdict(result) | {"latency_ms": result.latency_ms}, indent=2))
    else:
        print(_table(result))
    return 0


def _table(result: "Benchmark") -> str:
    lines = [
        f"{result.model} on {result.device}, {result.stages} stages, {result.kbps:g} kbit/s, "
        f"search width {result.search_width}",
        f"latency {result.latency_ms:g} ms: {result.frame_ms:g} ms frames, "
        f"{result.lookahead_ms:g} ms look-ahead",
        "",
        f"{'x real time':24}{'threads':>8}{'clock':>8}{'processor':>11}",
    ]
    lines += [
        f"{speed.work + ', ' + speed.way:24}{speed.threads:8}{speed.real_time:8.1f}"
        f"{speed.processor:11.1f}"
        for speed in result.speeds
    ]
    lines += [
        "",
        f"peak memory {result.resident_mb:.0f} MB, of which {result.resident_start_mb:.0f} MB "
        "before any work",
    ]
    return "\n".join(lines)
