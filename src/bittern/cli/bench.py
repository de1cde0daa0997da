"""`bittern bench`: speed, delay and memory on this machine."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from bittern.cli.options import (
    Commands,
    add_command,
    add_engine,
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
    add_engine(command)


def _bench(args: argparse.Namespace) -> int:
    from bittern.evaluation import benchmark

    result = benchmark.run(
        args.model,
        args.device,
        args.engine,
        seconds=args.seconds,
        stages=args.stages,
        search_width=args.search_width,
    )
    if args.json:
        print(json.dumps(asdict(result) | {"latency_ms": result.latency_ms}, indent=2))
    else:
        print(_table(result))
    return 0


def _table(result: "Benchmark") -> str:
    engines = list(dict.fromkeys(speed.engine for speed in result.speeds))
    tasks = list(dict.fromkeys((speed.work, speed.way) for speed in result.speeds))
    millions = [f"{part} {count / 1e6:.1f}" for part, count in result.parameters.items()]
    macs = [f"{part} {count:.0f}" for part, count in result.mega_macs.items()]
    lines = [
        f"{result.model} on {result.device}, {result.stages} stages, {result.kbps:g} kbit/s, "
        f"search width {result.search_width}, one thread",
        f"latency {result.latency_ms:g} ms: {result.frame_ms:g} ms frames, "
        f"{result.lookahead_ms:g} ms look-ahead",
        f"millions of parameters: {', '.join(millions)}",
        *([f"millions of MAC a second of audio: {', '.join(macs)}"] if macs else []),
        "",
        f"{'x real time (processor)':24}" + "".join(f"{engine:>18}" for engine in engines),
    ]
    for work, way in tasks:
        found = [result.find(engine, work, way) for engine in engines]
        cells = [f"{s.real_time:.1f} ({s.processor:.1f})" if s else "" for s in found]
        lines.append(f"{work + ', ' + way:24}" + "".join(f"{cell:>18}" for cell in cells))
    lines += [
        "",
        f"peak memory {result.resident_mb:.0f} MB, of which {result.resident_start_mb:.0f} MB "
        "before any work",
    ]
    return "\n".join(lines)
