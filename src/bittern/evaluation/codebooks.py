"""What a model's codes say: how much of each codebook is used, and bits that could be saved."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class StageReport(NamedTuple):
    stage: int  # from 1
    usage: float  # share of the entries that occur
    perplexity: float  # 2 ** entropy: as many entries, used equally, would say as much
    entropy: float  # bits a code, corrected for the number of frames seen


class CodebookReport(NamedTuple):
    """Codebooks over all evaluated clips."""

    frames: int
    codebook_size: int
    bits_per_code: int
    stages: list[StageReport]

    @property
    def entropy_bits(self) -> float:
        """Bits that a coder knowing each stage's frequencies, and nothing else, would need."""
        return self.frames * sum(stage.entropy for stage in self.stages)

    @property
    def sent_bits(self) -> int:
        return self.frames * self.bits_per_code * len(self.stages)


def report(codes: Sequence[NDArray[np.integer]], codebook_size: int) -> CodebookReport:
    """Count the codes [k, F] of all clips.

    A finite sample looks less random than its source: the plain estimate is too low by about
    (entries seen - 1) / (2 F ln 2) bits, which is added here, up to log2(N).

    Raises:
        ValueError: no codes, or clips with different numbers of stages.

    Source: Miller, "Note on the bias of information estimates", 1955.
    """
    if not codes:
        raise ValueError("no codes to report on")
    everything = np.concatenate(codes, axis=1)
    frames = everything.shape[1]
    bits_per_code = (codebook_size - 1).bit_length()
    stages = []
    for number, row in enumerate(everything, start=1):
        counts = np.bincount(row, minlength=codebook_size)
        share = counts[counts > 0] / max(frames, 1)
        plain = float(-(share * np.log2(share)).sum())
        corrected = plain + (len(share) - 1) / (2 * max(frames, 1) * np.log(2))
        entropy = min(corrected, float(np.log2(codebook_size)))
        stages.append(StageReport(number, len(share) / codebook_size, 2**entropy, entropy))
    return CodebookReport(frames, codebook_size, bits_per_code, stages)
