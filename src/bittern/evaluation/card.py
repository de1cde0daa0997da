"""The model card of a checkpoint: what its files and an evaluation report say, then what a person wrote.

The first half cannot drift from the facts, as it is made from `config.json`, the weights and the report;
data, licences, recipe and limits are in the folder's `training.md`, which is taken over as it is. Lines
of YAML between `---` at its top (license, datasets, language) go to the card's, for the Hub.
"""

import json
from pathlib import Path

from bittern import checkpoint
from bittern.audio.atomic import write_atomically
from bittern.codec import load
from bittern.errors import CodecError
from bittern.evaluation import nasty, tables

CARD, NOTES = "README.md", "training.md"
_HUB = (
    *("library_name: bittern", "pipeline_tag: audio-to-audio"),
    "tags: [audio-codec, audio-tokenizer, speech, residual-vector-quantization]",
)


def write_card(folder: Path, report_file: Path) -> Path:
    """Write `README.md` into a checkpoint folder.

    Args:
        folder: the checkpoint, with its `training.md`.
        report_file: `report.json` of an evaluation that includes this checkpoint; a `nasty.json`
            beside it is shown too.

    Raises:
        CodecError: a file is missing, or the report is of other weights.
    """
    loaded = load(folder, "cpu")
    try:
        document = json.loads(report_file.read_text())
        notes = (folder / NOTES).read_text()
    except (OSError, json.JSONDecodeError) as error:
        raise CodecError(f"{error}; a card needs {NOTES} and an evaluation's report.json") from None
    ours = [s for s in document["systems"] if loaded.fingerprint.hex() in s["identity"]]
    if not ours:
        raise CodecError(
            f"{report_file} has no system with the weights {loaded.fingerprint.hex()}; evaluate {folder}"
        )
    config = loaded.config
    parameters = sum(p.numel() for p in loaded.model.parameters())
    codebooks = loaded.model.quantizer.codewords.numel()
    size = (folder / checkpoint.WEIGHTS_FILE).stat().st_size
    told, notes = _front_matter(notes)
    lines = [
        *("---", *_HUB, *told, "---", ""),
        f"# {config.name}",
        "",
        f"Made by `bittern card`; edit `{NOTES}`, not this file.",
        "",
        "| | |",
        "|---|---|",
        f"| audio | {config.sample_rate} Hz, {config.channels} channel(s) |",
        f"| frames | {config.frame_rate:g} a second, hop {config.hop_length} samples |",
        f"| codes | {config.quantizer.stages} stages of {config.quantizer.codebook_size} entries, "
        f"{config.kbps_per_stage:g} kbit/s each |",
        f"| algorithmic latency | {1000 * config.latency / config.sample_rate:g} ms |",
        f"| networks | {parameters / 1e6:.1f} M parameters |",
        f"| codebooks | {codebooks / 1e6:.1f} M numbers |",
        f"| weights | {size / 1e6:.1f} MB, fingerprint `{loaded.fingerprint.hex()}` |",
        *_decodes(loaded),
        "",
        "## Scores",
        "",
        *tables.markdown_rows(document, ours, by="setting"),
        "",
        f"{tables.about(document)} By `{document['command']}`.",
        "",
        *_nasty(report_file.with_name(nasty.FILE), loaded.fingerprint.hex()),
        notes.strip(),
    ]
    path = folder / CARD
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    return path


def _front_matter(notes: str) -> tuple[list[str], str]:
    """The lines of YAML at the top of notes, and the notes without them."""
    if not notes.startswith("---\n"):
        return [], notes
    head, _, rest = notes.removeprefix("---\n").partition("\n---\n")
    return head.splitlines(), rest


def _nasty(file: Path, fingerprint: str) -> list[str]:
    """What `evaluate --nasty` found, if it was run with these weights."""
    if not file.is_file():
        return []
    found = json.loads(file.read_text())
    models = [model for model in found["models"] if fingerprint in model["identity"]]
    if not models:
        raise CodecError(f"{file} has no model with the weights {fingerprint}; make it anew")
    lines = nasty.broken(found | {"models": models[:1]})
    sounds, settings = models[0]["sounds"], ", ".join(models[0]["settings"])
    return [
        "## Nasty sounds",
        "",
        f"{len(sounds)} sounds that recordings may contain, at {settings} each, by `{found['command']}`; "
        f"what counts as broken is in docs/evaluation.md. Broken: {len(lines) or 'none'}.",
        "",
        *(f"- {line}" for line in lines),
        *[""][: len(lines)],
    ]


def _decodes(loaded: checkpoint.Checkpoint) -> list[str]:
    if not loaded.decodes:
        return []
    earlier = ", ".join(f"`{fingerprint.hex()}`" for fingerprint in loaded.decodes)
    return [f"| decodes files of | {earlier}: earlier weights, with another decoder |"]
