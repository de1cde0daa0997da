"""The `bittern` command: parse, call, print. Data goes to standard output, talk to standard error.

`--help`, `--version`, `info`, `verify`, `trim`, `cut` and `cat` work without torch, which is imported late.
"""

import os

os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # numpy's, read when it loads: engines have their own

import signal
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import bittern
from bittern.cli.bench import add_bench
from bittern.cli.coding import add_compress, add_decompress
from bittern.cli.container import add_cat, add_cut, add_info, add_trim, add_verify
from bittern.cli.corpora import add_tokenize
from bittern.cli.models import (
    add_card,
    add_export,
    add_fit_entropy,
    add_import,
    add_pack,
    add_publish,
    add_push,
    add_train,
    train,
)
from bittern.cli.options import Commands, Parser, add_command, report
from bittern.cli.standard import mend_standard_streams
from bittern.errors import AudioWarning, CodecError, extra, one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    mend_standard_streams()
    try:
        with warnings.catch_warnings():
            code = _run(argv)
        try:
            sys.stdout.flush()
        except OSError:
            if not code:
                raise
            _drop_output()  # an error was told; this would be a second line for it
        return code
    except BrokenPipeError:  # whoever read our output has enough
        _drop_output()
        return 1
    except OSError as error:  # what commands turn into their own lines does not come here
        _drop_output()
        where = error.filename or "standard input or output"
        print(f"bittern: {where}: {error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("bittern: memory ran out", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str]) -> int:
    if argv[:1] == ["train"]:
        return train(argv[1:])
    _end_by_signals()
    try:
        parser = _parser(argv)
    except CodecError as error:  # an extra is not installed
        print(f"bittern: {error}", file=sys.stderr)
        return error.exit_code
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore" if vars(args).get("quiet") else "always", AudioWarning)
    warnings.showwarning = _show_warning
    try:
        return args.run(args)
    except CodecError as error:
        return report(error, args)


def _end_by_signals() -> None:
    """Let signals that ask to end be exceptions, so that temporary files are removed on the way out."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _ended)


def _ended(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def _drop_output() -> None:
    """Let what is still to be written to standard output go nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *where: Any) -> None:
    print(f"bittern: warning: {one_line(message)}", file=sys.stderr)


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
    add_tokenize(commands)
    add_bench(commands)
    _add_evaluate(commands, argv)
    add_train(commands)
    add_fit_entropy(commands)
    add_export(commands)
    add_publish(commands)
    add_push(commands)
    add_import(commands)
    add_card(commands)
    add_pack(commands)
    completion = add_command(
        commands, "completion", _complete, "print what completes it in a shell"
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"])
    completion.set_defaults(parser=parser)
    return parser


def _complete(args: Namespace) -> int:
    with extra("completion"):
        import shtab
    print(shtab.complete(args.parser, args.shell))
    return 0


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
