"""`bittern train`, `fit-entropy`, `export`, `publish`, `push`, `card` and `pack`: what makes codecs."""

import argparse
import sys
import tempfile
from pathlib import Path

from bittern.cli.options import Commands, add_command, add_device, positive_float, positive_int
from bittern.errors import CodecError, extra


def add_train(commands: Commands) -> None:
    """For the list of commands alone: Hydra reads the arguments, see `train`."""
    command = commands.add_parser("train", help="train a codec: bittern train data.root=FOLDER")
    command.add_argument("settings", nargs="*", metavar="SETTING=VALUE")


def train(arguments: list[str]) -> int:
    """Train a codec; arguments are Hydra's."""
    try:
        with extra("train"):
            from bittern.training.run import main
    except CodecError as error:
        print(f"bittern: {error}", file=sys.stderr)
        return error.exit_code
    main(arguments)
    return 0


def add_fit_entropy(commands: Commands) -> None:
    command = add_command(
        commands, "fit-entropy", _fit_entropy, "fit the entropy model that makes files smaller"
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="folder, which gets the model")
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="audio of any depth and format"
    )
    command.add_argument(
        "--minutes", type=positive_float, metavar="N", help="of audio at most (default: all)"
    )
    command.add_argument(
        "--steps",
        type=positive_int,
        metavar="N",
        help="for each stage (default: ten times through all frames, 800 to 6000)",
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the fit")
    add_device(command)


def _fit_entropy(args: argparse.Namespace) -> int:
    from bittern import checkpoint
    from bittern.audio.atomic import write_atomically
    from bittern.codec import load
    from bittern.format.entropy import ENTROPY_FILE

    with extra("torch"):
        import torch

        from bittern.training.entropy_fit import FitSettings, encode_folder, fit
    codec = load(args.checkpoint, args.device, "torch")
    seconds = float("inf") if args.minutes is None else 60 * args.minutes
    clips = encode_folder(codec, args.folder, seconds)
    minutes = sum(clip.shape[1] for clip in clips) / codec.frame_rate / 60
    _say(args, f"{len(clips)} clips, {minutes:.1f} minutes")
    torch.set_num_threads(1)  # what is fitted is small
    data = fit(
        clips,
        codec.model.quantizer.codewords.cpu().numpy(),
        FitSettings(steps=args.steps, seed=args.seed),
        lambda stage, bits: _say(args, f"stage {stage + 1}: {bits:.2f} bits per code"),
    ).to_bytes()
    path = codec.folder / ENTROPY_FILE
    checkpoint.retire_entropy(codec.folder)
    write_atomically(path, data)
    print(f"{path}: {len(data)} bytes")
    return 0


def add_export(commands: Commands) -> None:
    command = add_command(
        commands, "export", _export, "write a codec's networks as ONNX graphs, for other runtimes"
    )
    command.add_argument("checkpoint", metavar="MODEL", help="name or folder")
    command.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="folder to write to; the model's own gets graphs alone",
    )


def _export(args: argparse.Namespace) -> int:
    from bittern import checkpoint

    found = checkpoint.load(args.checkpoint)
    with extra("torch"):
        from bittern.onnx.networks import write
    write(found, args.out)
    _say(args, f"{args.out}: encoder.onnx and decoder.onnx of {found.fingerprint.hex()}")
    return 0


def add_publish(commands: Commands) -> None:
    command = add_command(
        commands, "publish", _publish, "copy a checkpoint fit to be passed on, half as large"
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="name or folder")
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write to")


def _publish(args: argparse.Namespace) -> int:
    from bittern import checkpoint
    from bittern.codec import load

    with extra("torch"):
        import torch

        from bittern import weights
        from bittern.onnx.networks import write
    codec = load(args.checkpoint, "cpu", "torch")
    fingerprint = weights.save(codec.model, args.out, dtype=torch.float16, decodes=codec.decodes)
    checkpoint.keep_entropy(codec.config, args.checkpoint, args.out)
    if codec.config.streamable:
        write(checkpoint.load(args.out), args.out)
    size = sum(path.stat().st_size for path in args.out.glob("*.safetensors"))
    print(f"{args.out}: {size / 1e6:.1f} MB, fingerprint {fingerprint.hex()}")
    return 0


def add_push(commands: Commands) -> None:
    command = add_command(commands, "push", _push, "put a checkpoint on the Hugging Face Hub")
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="name or folder")
    command.add_argument("repository", metavar="ORG/NAME", help="made if it does not exist")
    command.add_argument("--private", action="store_true", help="where it is made")


def _push(args: argparse.Namespace) -> int:
    from bittern import checkpoint

    folder = checkpoint.find(args.checkpoint)
    if not (folder / "README.md").exists():
        _say(args, f"{folder}: has no README.md; write one with `bittern card`")
    print(checkpoint.push(folder, args.repository, private=args.private))
    return 0


def add_import(commands: Commands) -> None:
    command = add_command(
        commands, "import", _import, "make a checkpoint of weights that EnCodec released"
    )
    command.add_argument("kind", choices=["encodec"], help="whose weights")
    command.add_argument(
        "source",
        metavar="FILE_OR_FOLDER_OR_ID",
        help="encodec_24khz-d7cc33bc.th, a folder of `transformers`, or facebook/encodec_24khz",
    )
    command.add_argument("out", type=Path, metavar="OUT", help="folder to write to")


def _import(args: argparse.Namespace) -> int:
    from bittern import checkpoint, weights

    config = weights.import_encodec(args.source, args.out).config
    if config.sample_rate == 32_000:
        _say(args, "facebook/encodec_32khz is under CC-BY-NC 4.0: for use that is not commercial")
    fingerprint = checkpoint.load(args.out).fingerprint.hex()
    print(f"{args.out}: {config.name}, {config.quantizer.stages} stages, fingerprint {fingerprint}")
    return 0


def add_card(commands: Commands) -> None:
    command = add_command(commands, "card", _card, "write a checkpoint's model card")
    command.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder")
    command.add_argument("report", type=Path, metavar="REPORT", help="report.json of `evaluate`")


def _card(args: argparse.Namespace) -> int:
    with extra("eval"):
        from bittern.evaluation.card import write_card
    print(write_card(args.checkpoint, args.report))
    return 0


def add_pack(commands: Commands) -> None:
    command = add_command(
        commands, "pack", _pack, "pack a folder of audio into few large tars to train on"
    )
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="audio of any depth and format"
    )
    command.add_argument("pack", type=Path, metavar="PACK", help="folder to be made")
    command.add_argument(
        "--coding",
        choices=["flac", "opus"],
        default="flac",
        help="flac: exact; opus: smaller, lossy (default: %(default)s)",
    )
    command.add_argument(
        "--sample-rate",
        type=positive_int,
        default=16_000,
        metavar="HZ",
        help="to mix to, in mono (default: %(default)s)",
    )
    command.add_argument(
        "--shard-mb",
        type=positive_float,
        default=256.0,
        metavar="MB",
        help="of a file (default: %(default)s)",
    )


def _pack(args: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    with extra("train"):
        from bittern.training.corpus import open_corpus
        from bittern.training.pack import Coding, check, write_pack

    coding = Coding(args.coding)
    check(args.pack, args.sample_rate, coding)
    with tempfile.TemporaryDirectory(prefix="bittern-pack-") as cache:
        corpus = open_corpus(args.folder, args.sample_rate, cache=cache, what="FOLDER")
        with tqdm(corpus.clips, desc="pack", unit="file", leave=False, disable=args.quiet) as clips:
            write_pack(
                args.pack,
                ((c.path, np.array(corpus.read_pcm(c))) for c in clips),
                args.sample_rate,
                coding,
                shard_bytes=round(args.shard_mb * 1e6),
            )
    for skipped in corpus.skipped:
        _say(args, f"skipped {skipped.path}: {skipped.reason}")
    seconds = sum(clip.samples for clip in corpus.clips) / args.sample_rate
    sizes = [tar.stat().st_size for tar in args.pack.iterdir()]
    print(
        f"{args.pack}: {len(corpus.clips)} files, {seconds / 3600:.2f} h, {sum(sizes) / 1e6:.1f} MB "
        f"of {coding} in {len(sizes)} tars"
    )
    return 0


def _say(args: argparse.Namespace, line: str) -> None:
    if not args.quiet:
        print(line, file=sys.stderr, flush=True)
