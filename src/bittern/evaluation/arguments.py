"""What `bittern evaluate` can be asked for."""

import argparse
import os
from pathlib import Path

from bittern.config import SEARCH_WIDTH
from bittern.evaluation import cache, page
from bittern.evaluation.baselines import BASELINES, TOOLS
from bittern.evaluation.nasty import EXAMPLE
from bittern.evaluation.systems import Loss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run.run` takes."""
    parser.description = "Score codecs on audio files, with Opus, MP3, AAC and Codec 2 beside them."
    parser.add_argument(
        "inputs", nargs="*", type=Path, metavar="FOLDER_OR_FILE", help="audio to evaluate on"
    )
    parser.add_argument(
        "--nasty",
        nargs="?",
        type=Path,
        const=EXAMPLE,
        metavar="SPEECH",
        help="instead, try models on hum, clipping, tones, noise and more, made of a file of clean "
        "speech (default: examples/speech.flac of a checkout)",
    )
    _add_models(parser)
    _add_baselines(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder to write to (default: report)"
    )
    parser.add_argument(
        "--save-audio",
        type=Path,
        metavar="DIR",
        help="write all decoded clips and the originals as DIR/SYSTEM/CLIP.wav, for other scorers",
    )
    page.add_arguments(parser)
    parser.add_argument(
        "--jobs",
        type=int,
        default=_cores(),
        metavar="N",
        help="processes (default: %(default)s, the cores)",
    )
    parser.add_argument("--cache", type=Path, help=f"default: {cache.default_folder()}")
    parser.add_argument("--no-cache", action="store_true", help="keep and use no earlier results")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME_OR_FOLDER",
        help="a model to evaluate; may be given several times (default: speech-16khz)",
    )
    parser.add_argument(
        "--stages",
        type=_integers,
        metavar="K,K,...",
        help="codebook stages to evaluate (default: 1,2,3,4,6,8,12,16,24,32)",
    )
    parser.add_argument(
        "--bitrates",
        type=_rates,
        default=[],
        metavar="R,R,...",
        help="kbit/s to ask of the encoder, instead of stages (with --stages: both)",
    )
    parser.add_argument(
        "--search-width",
        type=_integers,
        default=[SEARCH_WIDTH],
        metavar="N,N,...",
        help=f"evaluate models with these widths of the encoder's search (default: {SEARCH_WIDTH})",
    )
    parser.add_argument(
        "--loss",
        type=_loss,
        action="append",
        default=[],
        metavar="RATE,BURST",
        help="evaluate models with frames lost and concealed, too: the share lost and the mean "
        "frames in a row, such as 0.1,1.5; may be given several times",
    )


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME[=KBPS,...]",
        help=f"{', '.join(BASELINES)}, such as opus=6,12; a checkpoint's folder; a file of Python "
        "with a class Codec; or any command: 'name: enc {in} {code} && dec {code} {out}'; may be "
        "given several times "
        f"(default: {', '.join(TOOLS)} at low rates)",
    )
    parser.add_argument(
        "--lyra",
        type=Path,
        metavar="DIR",
        help="evaluate Lyra v2 as well, from a folder of its .tflite files (needs ai-edge-litert)",
    )
    parser.add_argument("--no-baselines", action="store_true", help="evaluate the model only")


def _integers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 4,8,16")
    return [int(part) for part in parts]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(0 < rate < 1000 for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of kbit/s such as 3,6")
    return rates


def _loss(text: str) -> Loss:
    rate, _, burst = text.partition(",")
    try:
        return Loss(float(rate), float(burst))
    except ValueError:
        message = f"{text!r} is not a share and a mean burst such as 0.1,1.5"
        raise argparse.ArgumentTypeError(message) from None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
