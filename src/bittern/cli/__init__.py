"""The `bittern` command: parse, call, print. Data goes to standard output, talk to standard error.

`--help`, `--version`, `info`, `verify`, `trim`, `cut` and `cat` work without torch, which is imported late.
"""

import os
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NoReturn

import bittern
from bittern.cli.bench import add_bench
from bittern.cli.coding import add_compress, add_decompress
from bittern.cli.container import add_cat, add_cut, add_info, add_trim, add_verify
from bittern.cli.models import (
    add_card,
    add_fit_entropy,
    add_pack,
    add_publish,
    add_train,
    extra,
    train,
)
from bittern.cli.options import Commands, Parser, report
from bittern.errors import CodecError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:
        return train(argv[1:])
    signal.signal(signal.SIGTERM, _terminated)
    try:
        parser = _parser(argv)
    except CodecError as error:  # an extra is not installed
        print(f"bittern: {error}", file=sys.stderr)
        return error.exit_code
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except CodecError as error:
        return report(error, args)
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(143)  # so that temporary files are removed on the way out


def _parser(argv: list[str]) -> ArgumentParser:
    parser = Parser(
        prog="bittern",
        description="A neural audio codec for files and pipes.",
        epilog="Exit codes: 0 done, 1 usage or output, 2 bad input audio, 3 model missing or not "
        "the file's, 4 .btn file missing or damaged.",
    )
    parser.add_argument("--version", action="version", version=f"bittern {bittern.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_compress(commands)
    add_decompress(commands)
    add_info(commands)
    add_verify(commands)
    add_trim(commands)
    add_cut(commands)
    add_cat(commands)
    add_bench(commands)
    _add_evaluate(commands, argv)
    add_train(commands)
    add_fit_entropy(commands)
    add_publish(commands)
    add_card(commands)
    add_pack(commands)
    return parser


def _add_evaluate(commands: Commands, argv: list[str]) -> None:
    command = commands.add_parser("evaluate", help="score codecs on a folder of audio")
    command.set_defaults(verbose=0)
    if argv[:1] != ["evaluate"]:  # what its options need is heavy, and an extra
        return
    with extra("eval"):
        from bittern.evaluation.arguments import add_arguments
        from bittern.evaluation.run import run
    add_arguments(command)
    command.set_defaults(run=run)
