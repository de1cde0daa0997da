"""How lost frames are bridged: the sound of the last latent fades away, then there is silence. No torch."""

import numpy as np
from numpy.typing import NDArray

_FADE = 0.85  # of concealed frames, one to the next
_FADED_FRAMES = 40  # from here on they are silence


class Fade:
    """Where a decoder stands: nothing heard yet, hearing, fading, or silent and to begin anew."""

    def __init__(self) -> None:
        """Before the first frame, of which nothing can fade."""
        self.lost = _FADED_FRAMES

    def end(self) -> None:
        """Frames are there."""
        self.lost = 0

    @property
    def over(self) -> bool:
        """Whether the decoder has to begin anew."""
        return self.lost >= _FADED_FRAMES

    def gains(self, frames: int, *, silent: bool = False) -> NDArray[np.float64]:
        """What the next lost frames are of the last one; silence follows if these are fewer.

        Args:
            frames: how many are lost.
            silent: there is silence at once.
        """
        begin = _FADED_FRAMES if silent else self.lost
        self.lost = min(begin + frames, _FADED_FRAMES)
        return _FADE ** np.arange(begin + 1.0, self.lost + 1)
