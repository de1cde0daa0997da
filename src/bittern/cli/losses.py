"""`bittern simulate-loss`: what a file sounds like if some of it does not arrive."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bittern.cli.options import Commands, add_command, add_model, positive_float, positive_int
from bittern.cli.ports import PIPE, label, open_input, refuse_unsafe
from bittern.errors import ConfigError

if TYPE_CHECKING:
    from bittern.codec import Codec
    from bittern.format.erasures import BurstLoss


def add_simulate_loss(commands: Commands) -> None:
    command = add_command(
        commands, "simulate-loss", _simulate_loss, "decompress a .btn file with losses, concealed"
    )
    command.add_argument("input", metavar="IN")
    command.add_argument("output", metavar="OUT")
    command.add_argument(
        "--rate", type=_share, default=0.1, metavar="R", help="share lost (default: %(default)s)"
    )
    command.add_argument(
        "--mean-burst",
        type=positive_float,
        default=1.5,
        metavar="N",
        help="lost in a row on average (default: %(default)s)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws")
    command.add_argument("--chunks", action="store_true", help="lose chunks instead of frames")
    command.add_argument("--silence", action="store_true", help="do not conceal, be silent")
    command.add_argument(
        "--stages", type=positive_int, metavar="N", help="decode only the first so many stages"
    )
    command.add_argument(
        "--score",
        metavar="ORIGINAL",
        help="print PESQ and ESTOI against the original: without loss, concealed, and silent",
    )
    command.add_argument("-f", "--force", action="store_true", help="overwrite an existing file")
    add_model(command)


def _simulate_loss(args: argparse.Namespace) -> int:
    from bittern.audio import streams as audio
    from bittern.codec import load

    if PIPE in (args.input, args.output):
        raise ConfigError("simulate-loss takes files, not pipes")
    refuse_unsafe(args.input, args.output, force=args.force)
    loss = _loss(args, args.rate)
    codec = load(args.model, args.device)
    with open_input(args.input) as file:
        stream = codec.simulate_loss(
            file, label(args.input), loss, stages=args.stages, silent=args.silence
        )
        rate, channels, samples = stream.sample_rate, stream.channels, stream.samples
        with audio.create_audio(Path(args.output), rate, channels, samples=samples) as out:
            for block in stream.blocks:
                out.write(block)
    if not args.quiet:
        print(
            f"{args.input} -> {args.output}: lost {loss.lost} of {loss.total} frames",
            file=sys.stderr,
        )
    if args.score:
        _print_scores(codec, args)
    return 0


def _loss(args: argparse.Namespace, rate: float) -> "BurstLoss":
    from bittern.format.erasures import BurstLoss

    try:
        return BurstLoss(rate, args.mean_burst, seed=args.seed, by_chunk=args.chunks)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _print_scores(codec: "Codec", args: argparse.Namespace) -> None:
    from bittern.audio import streams as audio

    try:
        from bittern.evaluation.loss import quality
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'bittern[eval]'") from None
    original, sample_rate = audio.read(Path(args.score))
    print(f"{'':12}{'PESQ-WB':>9}{'ESTOI':>8}")
    for name, rate, silent in (
        ("no loss", 0.0, False),
        ("concealed", args.rate, False),
        ("silent", args.rate, True),
    ):
        with open_input(args.input) as file:
            stream = codec.simulate_loss(
                file, label(args.input), _loss(args, rate), stages=args.stages, silent=silent
            )
            decoded = audio.gather(stream.blocks, stream.channels)
        if decoded.shape != original.shape or stream.sample_rate != sample_rate:
            raise ConfigError(f"{args.score}: is not what {args.input} was made from")
        scores = quality(np.mean(decoded, axis=0), np.mean(original, axis=0), sample_rate)
        print(f"{name:12}{scores.pesq:9.2f}{scores.estoi:8.3f}")


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, 0 to below 1")
    return value
