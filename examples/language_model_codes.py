"""Codes for a language model, and sound from what it says: python examples/language_model_codes.py.

Two usual ways to make one sequence of k codes a frame, and back: one after the other with an offset to
each stage (a vocabulary of k x 1024), or k in parallel, each stage a step later (MusicGen's delay).
"""

from pathlib import Path

import numpy as np
import soundfile
import torch

import bittern

EXAMPLE = Path(__file__).with_name("speech.flac")
STAGES = 4


def flatten(codes: np.ndarray, size: int) -> np.ndarray:
    """Codes [k, F] as tokens [F * k]: stage by stage of a frame, each with numbers of its own."""
    return (codes + size * np.arange(len(codes))[:, None]).T.ravel()


def unflatten(tokens: np.ndarray, stages: int, size: int) -> np.ndarray:
    return tokens.reshape(-1, stages).T - size * np.arange(stages)[:, None]


def delay(codes: np.ndarray, padding: int) -> np.ndarray:
    """Codes [k, F] as [k, F + k - 1], stage s beginning at step s; `padding` is a code more."""
    stages, frames = codes.shape
    out = np.full((stages, frames + stages - 1), padding)
    for stage, row in enumerate(codes):
        out[stage, stage : stage + frames] = row
    return out


def undelay(delayed: np.ndarray) -> np.ndarray:
    stages, steps = delayed.shape
    frames = steps - stages + 1
    return np.stack([row[stage : stage + frames] for stage, row in enumerate(delayed)])


def main() -> None:
    codec = bittern.load("speech-16khz")
    size = codec.config.quantizer.codebook_size
    wav, _ = soundfile.read(EXAMPLE, dtype="float32")
    codes = codec.encode(torch.from_numpy(wav)[None, None], stages=STAGES)[0].cpu().numpy()
    tokens, delayed = flatten(codes, size), delay(codes, padding=size)
    seconds = len(wav) / codec.sample_rate
    print(f"{len(tokens)} tokens below {STAGES * size}, {len(tokens) / seconds:.0f} a second")
    print(f"or {delayed.shape[1]} steps of {STAGES} codes below {size + 1}")
    assert (unflatten(tokens, STAGES, size) == codes).all()
    assert (undelay(delayed) == codes).all()
    back = codec.decode(torch.from_numpy(undelay(delayed))[None], length=len(wav))
    Path("build").mkdir(exist_ok=True)
    soundfile.write("build/said.wav", back[0, 0].cpu().numpy(), codec.sample_rate)
    print("build/said.wav")


if __name__ == "__main__":
    main()
