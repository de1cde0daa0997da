"""Fit the entropy model of a codec to the codes of a corpus: `bittern fit-entropy`.

Each stage's network is trained on its own in floats, then rounded to the whole numbers that
`entropy.py` works with. The context is not learned: codewords in the few directions in which those
of the first stages vary most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bittern.audio.names import find_audio
from bittern.audio.streams import Resampler, check_samples, gather, mix, open_audio
from bittern.codec import Codec
from bittern.errors import ConfigError
from bittern.format.entropy import (
    HIDDEN_MOST,
    NARROW_MOST,
    STEPS_PER_BIT,
    EntropyWeights,
    power_table,
)
from bittern.training.stages import draw_quality, spread_stages

_GAP = 2  # frames of nothing between chunks, as many as any context reaches
_INT8, _INT16 = 127, 32767


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How long and how large; the defaults make 32 stages of 1024 codes just under 4 MB."""

    steps: int | None = None  # for each stage; by default ten times through all frames, 800 to 6000
    batch_size: int = 1024  # frames
    learning_rate: float = 0.01
    weight_decay: float = 0.1  # .3 and more are worse on speech that the fit has not seen
    width: int = 32  # E, dimensions of context
    hidden: int = 192  # H
    narrow: int = 32  # D, before the output
    chunk_frames: int = 304  # as files have them; no context reaches beyond
    seed: int = 0

    def steps_for(self, frames: int) -> int:
        """How many steps a stage takes."""
        return self.steps or min(max(10 * frames // self.batch_size, 800), 6000)


@dataclass(frozen=True)
class _Corpus:
    """All codes side by side, with gaps, and the indices of the frames that count."""

    codes: Tensor  # [K, columns], N in a gap and where a frame has no code
    frames: Tensor


def encode_folder(
    codec: Codec, root: Path, seconds: float = float("inf"), stages: int | None = None
) -> list[NDArray[np.int64]]:
    """Code the audio below a folder, in an order that mixes its parts.

    Args:
        codec: each clip is resampled and mixed for it.
        root: searched at any depth.
        seconds: stop once so much audio is coded.
        stages: how many; all by default.

    Returns:
        Codes [K, F] of each clip: at a mean number of stages drawn for each, spread over its frames as in
        files of variable bitrate, -1 where a frame has no code; one clip in five has all its stages.

    Raises:
        ConfigError: there is no audio.
        AudioError: a file cannot be read.
    """
    paths = find_audio(root)
    if not paths:
        raise ConfigError(f"{root}: has no audio")
    clips: list[NDArray[np.int64]] = []
    coded, generator = 0.0, torch.Generator().manual_seed(0)
    for place in np.random.default_rng(0).permutation(len(paths)):
        if coded >= seconds:
            break
        with open_audio(paths[place]) as stream:
            resampler = Resampler(stream.sample_rate, codec.sample_rate, codec.channels)
            checked = check_samples(stream).blocks
            blocks = [resampler.push(mix(block, codec.channels)) for block in checked]
        samples = gather([*blocks, resampler.flush()], codec.channels)
        wav = torch.from_numpy(np.ascontiguousarray(samples))
        codes = codec.encode(wav[None], stages=stages)
        clips.append(_spread(codec, wav[None], codes, generator)[0].numpy())
        coded += wav.shape[-1] / codec.sample_rate
    return clips


@torch.no_grad()
def _spread(codec: Codec, wav: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
    """Leave out codes [1, K, F] of audio [1, C, T] as a drawn quality does."""
    model = codec.model
    latent = model.latent(model.pad(wav.to(model.device)))
    left = model.quantizer.errors(latent, codes, range(1, codes.shape[1] + 1))
    errors = torch.cat([latent.square().sum(dim=1, keepdim=True), left], dim=1)
    quality = draw_quality(
        1, codes.shape[1], lowest=2.0, highest=24.0, full_share=0.2, generator=generator
    )
    counts = spread_stages(errors, model.levels(latent), quality)
    stage = torch.arange(codes.shape[1], device=codes.device)[None, :, None]
    return torch.where(stage < counts[:, None], codes, -1).cpu()


def fit(
    clips: Sequence[NDArray[np.integer]],
    codewords: NDArray[np.floating],
    settings: FitSettings,
    report: Callable[[int, float], None] = lambda stage, bits: None,
) -> EntropyWeights:
    """Fit all stages.

    Args:
        clips: codes [K, F] of each clip, -1 where a frame has no code.
        codewords: [K, N, D].
        settings: see there.
        report: called with each stage and the bits per code that it came to on what it saw last.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    embed, shifts = _embedding(codewords, settings.width)
    values = np.ldexp(embed.astype(np.float32), shifts.astype(int)[:, None, None])
    table = torch.from_numpy(np.pad(values, ((0, 0), (0, 1), (0, 0))))  # a gap adds nothing
    corpus = _side_by_side(clips, codewords.shape[1], settings.chunk_frames)
    context = torch.zeros(corpus.codes.shape[1], embed.shape[2])
    stages: list[dict[str, Any]] = []
    for stage, codes in enumerate(corpus.codes):
        own = table[stage][codes]
        inputs = (own, (-1, -2)) if stage == 0 else (context, (-1, 0, 1))
        frames = corpus.frames[codes[corpus.frames] < codewords.shape[1]]
        network, bits = _fit_stage(*inputs, codes, frames, settings, generator)
        stages.append(_rounded(network, *inputs, frames, generator))
        report(stage, bits)
        context += own
    joined: dict[str, Any] = {
        name: np.stack([stage[name] for stage in stages]) for name in stages[0]
    }
    return EntropyWeights(embed=embed, embed_shift=shifts, table=power_table(), **joined)


def _embedding(
    codewords: NDArray[np.floating], width: int
) -> tuple[NDArray[np.int8], NDArray[np.uint8]]:
    """Codewords in `width` directions as whole numbers: int8 times a power of two to each stage."""
    first = codewords[:2].reshape(-1, codewords.shape[2]).astype(np.float64)
    directions = np.linalg.svd(first - first.mean(axis=0), full_matrices=False)[2][:width]
    projected = codewords.astype(np.float64) @ directions.T
    most = np.maximum(np.abs(projected).max(axis=(1, 2)), 1e-9)
    unit = max(most.min(), most.max() / 2**10) / _INT8  # the finest stage sets the scale
    shifts = np.ceil(np.log2(most / unit / _INT8) - 1e-9).clip(0, 24)
    scaled = np.round(projected / unit / 2 ** shifts[:, None, None])
    return scaled.clip(-_INT8, _INT8).astype(np.int8), shifts.astype(np.uint8)


def _side_by_side(
    clips: Sequence[NDArray[np.integer]], codebook_size: int, chunk_frames: int
) -> _Corpus:
    gap = np.full((len(clips[0]), _GAP), codebook_size)
    columns, counted = [gap], [np.zeros(_GAP, bool)]
    for clip in clips:
        for start in range(0, clip.shape[1], chunk_frames):
            chunk = clip[:, start : start + chunk_frames]
            chunk = np.where(chunk < 0, codebook_size, chunk)
            columns += [chunk, gap]
            counted += [np.ones(chunk.shape[1], bool), np.zeros(_GAP, bool)]
    codes = torch.from_numpy(np.concatenate(columns, axis=1).astype(np.int64))
    return _Corpus(codes, torch.from_numpy(np.flatnonzero(np.concatenate(counted))))


@dataclass
class _Network:
    """One stage in floats; its inputs are divided by `spread`."""

    first: Tensor  # [E * offsets, H]
    first_bias: Tensor
    second: Tensor  # [H, D]
    output: Tensor  # [N, D]
    output_bias: Tensor
    spread: float

    def parameters(self) -> list[Tensor]:
        return [self.first, self.first_bias, self.second, self.output, self.output_bias]

    def hidden(self, window: Tensor) -> Tensor:
        return F.relu(window / self.spread @ self.first + self.first_bias)

    def logits(self, window: Tensor) -> Tensor:
        return self.hidden(window) @ self.second @ self.output.T + self.output_bias


def _window(values: Tensor, offsets: tuple[int, ...], frames: Tensor) -> Tensor:
    return torch.cat([values[frames + offset] for offset in offsets], dim=1)


def _fit_stage(
    values: Tensor,
    offsets: tuple[int, ...],
    codes: Tensor,
    frames: Tensor,
    settings: FitSettings,
    generator: torch.Generator,
) -> tuple[_Network, float]:
    size = int(codes.max())  # what stands in a gap
    counts = torch.bincount(codes[frames], minlength=size).float() + 0.5
    some = _window(values, offsets, frames[:: max(len(frames) // 10_000, 1)])
    spread, inputs = float(some.std().clamp(min=1e-6)), some.shape[1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    first = normal(inputs, settings.hidden) / inputs**0.5
    network = _Network(
        first=first,
        first_bias=0.5 * normal(settings.hidden) - some.mean(dim=0) / spread @ first,
        second=normal(settings.hidden, settings.narrow) / settings.hidden**0.5,
        output=0.1 * normal(size, settings.narrow),
        output_bias=(counts / counts.sum()).log(),
        spread=spread,
    )
    for parameter in network.parameters():
        parameter.requires_grad_()
    steps = settings.steps_for(len(frames))
    adam = torch.optim.AdamW(
        network.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        adam, settings.learning_rate, total_steps=steps, pct_start=0.1
    )
    order = frames[torch.randperm(len(frames), generator=generator)]
    losses = []
    for step in range(steps):
        place = torch.arange(step * settings.batch_size, (step + 1) * settings.batch_size)
        picked = order[place % len(order)]
        logits = network.logits(_window(values, offsets, picked))
        loss = F.cross_entropy(logits, codes[picked])
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        losses.append(loss.item())
    return network, float(np.mean(losses[-50:]) / np.log(2))


@torch.no_grad()
def _rounded(
    network: _Network,
    values: Tensor,
    offsets: tuple[int, ...],
    frames: Tensor,
    generator: torch.Generator,
) -> dict[str, Any]:
    """The network in whole numbers, scaled to the activations that some frames show."""
    picked = frames[torch.randint(len(frames), (8192,), generator=generator)]
    window = _window(values, offsets, picked)
    # units of like range: a relu's input may be scaled if its output is scaled back
    # (one that is all but silent must not set the scale of the others)
    ranges = network.hidden(window).quantile(0.999, dim=0)
    ranges = ranges.clamp(min=max(0.05 * float(ranges.max()), 1e-6))
    weight = network.first / network.spread / ranges  # what comes out is mostly in 0..1
    bias = network.first_bias / ranges
    top = 0.9 * HIDDEN_MOST
    first_shift = _shift_for(float(weight.abs().max()) * top, _INT16)
    first_scale = top * 2.0**first_shift
    first = (weight * first_scale).round()
    first_bias = (bias * first_scale).round().clamp(-(2**31) + 1, 2**31 - 1)
    hidden = ((window.double() @ first.double() + first_bias.double()) / 2.0**first_shift).floor()
    hidden = hidden.clamp(0, HIDDEN_MOST)

    # output in int8, each dimension to its full range; `second` takes what that leaves over
    most = network.output.abs().amax(dim=0).clamp(min=1e-9)
    output = (network.output / most * _INT8).round()
    bits = network.second * ranges[:, None] / top * (most / _INT8) / np.log(2)  # per unit hidden
    narrow_range = float((hidden @ bits.double()).abs().quantile(0.9999)) * STEPS_PER_BIT
    output_shift = int(np.clip(np.floor(np.log2(NARROW_MOST / max(narrow_range, 1e-9))), 0, 12))
    second = bits * STEPS_PER_BIT * 2.0**output_shift
    second_shift = _shift_for(float(second.abs().max()), _INT16)
    # biases relative to the most probable code's are all that counts; half a step for rounding down
    output_bias = network.output_bias - network.output_bias.max()
    output_bias = output_bias / np.log(2) * STEPS_PER_BIT * 2.0**output_shift
    padded = np.zeros((3 * values.shape[1], first.shape[1]), np.int16)
    padded[: len(first)] = first.clamp(-_INT16, _INT16).numpy()
    return {
        "first": padded,
        "first_bias": first_bias.numpy().astype(np.int32),
        "first_shift": np.uint8(first_shift),
        "second": (second * 2.0**second_shift).round().clamp(-_INT16, _INT16).short().numpy(),
        "second_shift": np.uint8(second_shift),
        "output": output.to(torch.int8).numpy(),
        "output_bias": output_bias.round().clamp(min=-(2.0**22)).numpy().astype(np.int32),
        "output_shift": np.uint8(output_shift),
    }


def _shift_for(largest: float, limit: int) -> int:
    """The greatest shift that keeps `largest` * 2^shift within `limit`, 0 to 24."""
    return int(np.clip(np.floor(np.log2(limit / max(largest, 1e-12))), 0, 24))
