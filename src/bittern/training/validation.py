"""How the codec sounds so far, in numbers: fixed clips at several numbers of stages."""

from typing import NamedTuple

import torch
from torch import Tensor

from bittern.audio.stress import AUDIBLE, nasty
from bittern.metrics import log_mel_distance, si_sdr, stoi
from bittern.model.codec_model import CodecModel
from bittern.model.quantizer import code_statistics

STAGES = (4, 8, 16, 32)
_NASTY_SECONDS, _NASTY_SHARE = 2, 8  # of each sound; one in so many is tried
_EXPLODED = 4.0  # times the peak that went in, where that is heard


class Scores(NamedTuple):
    """Means over the validation clips, and the codebooks' use over all their frames."""

    values: dict[str, float]  # such as "si_sdr/8"; the number is the stages, 0 is unquantized
    usage: Tensor | None  # [K], share of entries that occur
    entropy: Tensor | None  # [K], bits
    audio: dict[str, Tensor]  # the first clip's versions, [T]
    exploded: dict[
        str, float
    ]  # clips and nasty sounds that come back far too loud: times their peak


def nasty_clips(clips: dict[str, Tensor], sample_rate: int) -> dict[str, Tensor]:
    """Some of the sounds that break codecs, made of the first clip that is long enough, [1, 1, T]."""
    for clip in clips.values():
        if clip.shape[-1] >= sample_rate:
            speech = clip[0, 0, : _NASTY_SECONDS * sample_rate].cpu().numpy()
            sounds = list(nasty(speech, sample_rate).items())[::_NASTY_SHARE]
            return {name: torch.from_numpy(wav)[None, None] for name, wav in sounds}
    return {}


@torch.no_grad()
def validate(
    model: CodecModel,
    clips: dict[str, Tensor],
    *,
    quantized: bool,
    beside: dict[str, Tensor] | None = None,
) -> Scores:
    """Score a model on clips of [1, 1, T]; without `quantized` only the unquantized latent.

    Sounds `beside` the clips are not scored: what is asked of them is that they do not explode.
    """
    config = model.config
    counts = [k for k in STAGES if k < config.quantizer.stages] + [config.quantizer.stages]
    rows: dict[str, list[float]] = {}
    codes, audio, exploded = [], {}, {}
    for name, wav in (beside or {}).items():
        latent = model.latent(model.pad(wav))
        coded = model.quantizer.encode(latent) if quantized else None
        for k in counts if quantized else [0]:
            z = latent if coded is None else model.quantizer.decode(coded[:, :k])
            _note_explosion(exploded, name, model.synthesise(z), wav)
    for index, (path, wav) in enumerate(clips.items()):
        heard = model.heard(model.pad(wav))
        latent, clip = model.analyse(heard), heard[..., : wav.shape[-1]]
        latents = {0: latent}
        if quantized:
            codes.append(model.quantizer.encode(latent))
            latents |= {k: model.quantizer.decode(codes[-1][:, :k]) for k in counts}
        for k, z in latents.items():
            stages = z.new_full((1, z.shape[2]), float(k or config.quantizer.stages))
            out = model.synthesise(z, stages=stages)[
                ..., config.delay : config.delay + clip.shape[-1]
            ]
            _note_explosion(exploded, path, out, wav)
            scores = {
                "si_sdr": float(si_sdr(out, clip).mean()),
                "log_mel": float(log_mel_distance(out, clip, config.sample_rate).mean()),
                "estoi": _estoi(clip, out, config.sample_rate),
            }
            for name, value in scores.items():
                if value == value:  # a clip without speech has no ESTOI
                    rows.setdefault(f"{name}/{k}", []).append(value)
            if index == 0:
                audio[f"{k}"] = out[0, 0].cpu()
        if index == 0:
            audio["original"] = clip[0, 0].cpu()
    usage = entropy = None
    if codes:
        usage, entropy = code_statistics(torch.cat(codes, dim=-1), config.quantizer.codebook_size)
    values = {name: sum(column) / len(column) for name, column in rows.items()}
    return Scores(values, usage, entropy, audio, exploded)


def _note_explosion(exploded: dict[str, float], name: str, out: Tensor, wav: Tensor) -> None:
    peak, given = float(out.abs().max()), float(wav.abs().max())
    if not peak <= max(_EXPLODED * given, AUDIBLE):  # nor is NaN
        exploded[name] = max(exploded.get(name, 0.0), peak / max(given, 1e-9))


def _estoi(reference: Tensor, output: Tensor, sample_rate: int) -> float:
    """Extended STOI of one clip; NaN where there are too few frames with speech to tell."""
    try:
        return stoi(
            output[0, 0].cpu().numpy(), reference[0, 0].cpu().numpy(), sample_rate, extended=True
        )
    except ValueError:
        return float("nan")
