"""Coding audio as it comes: push samples, get codes; push codes, get samples.

The arithmetic is that of `CodecModel.encode` and `decode`, of which these are the form with memory:
the same forwards are run on whole frames, with a state that layers read and write.
"""

import torch

from bittern.config import SEARCH_WIDTH, whole_number
from bittern.model import Codes, Latent, Waveform
from bittern.model.arguments import ArrayLike, as_codes, as_wav, check_wav
from bittern.model.codec_model import CodecModel
from bittern.model.concealment import Fade
from bittern.model.quantizer import stage_counts
from bittern.model.state import StreamState

_SAMPLES_KEY, _BUFFER_KEY = "stream.samples", "stream.buffer"
_LATENT_KEY, _STAGES_KEY, _LOST_KEY = "stream.latent", "stream.stages", "stream.lost"


class StreamingEncoder:
    """Samples in, codes out, one or more streams in step.

    All codes together equal `model.encode` of all samples together.
    """

    def __init__(
        self,
        model: CodecModel,
        *,
        stages: int | None = None,
        batch: int = 1,
        search_width: int = SEARCH_WIDTH,
    ) -> None:
        """Start from silence.

        Args:
            model: in eval mode; it keeps no state and may serve many streams.
            stages: how many to code, 1 to K; all by default.
            batch: streams side by side.
            search_width: candidates kept from stage to stage; see `search.py`.

        Raises:
            ValueError: the model looks ahead, or has fewer stages.
        """
        _require_streamable(model)
        self.model = model
        most = model.quantizer.stages
        self.stages = most if stages is None else whole_number(stages, "stages")
        if not 1 <= self.stages <= most:
            raise ValueError(f"got {self.stages} stages; this model has 1 to {most}")
        self.batch = whole_number(batch, "batch")
        self.search_width = whole_number(search_width, "search_width")
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._layers: StreamState = {}
        shape = self.batch, self.model.config.channels, 0
        self._buffer = torch.zeros(shape, dtype=torch.float32, device=self.model.device)
        self._samples = 0

    @torch.no_grad()
    def push(self, samples: ArrayLike) -> Codes:
        """Code as many frames as are complete: [B, C, n] with any n >= 0 -> [B, k, f], f >= 0.

        Samples may be of any kind that `Codec.encode` takes. What is refused leaves the stream as it was.

        Raises:
            ValueError: wrong type, batch or channels.
            AudioError: a sample is NaN, infinite or out of all range.
        """
        return self._code(self.push_latent(samples))

    @torch.no_grad()
    def push_latent(self, samples: ArrayLike) -> Latent:
        """The same without the search: latents [B, D, f]."""
        channels = self.model.config.channels
        expected = f"[{self.batch}, {channels}, any number]"
        wav = check_wav(as_wav(samples, expected, batch=self.batch, channels=channels, many=False))
        self._samples += wav.shape[-1]
        pending = torch.cat([self._buffer, wav.to(self._buffer)], dim=-1)
        whole = pending.shape[-1] // self.model.config.hop_length * self.model.config.hop_length
        self._buffer = pending[..., whole:].clone()
        return self._analyse(pending[..., :whole])

    @torch.no_grad()
    def flush(self) -> Codes:
        """The last codes, [B, k, f]: silence fills the last frame and what the transform laps over.

        The stream then starts anew.
        """
        return self._code(self.flush_latent())

    @torch.no_grad()
    def flush_latent(self) -> Latent:
        """The same without the search: latents [B, D, f]."""
        config = self.model.config
        frames = config.frame_count(self._samples) - self._samples // config.hop_length
        silence = frames * config.hop_length - self._buffer.shape[-1]
        latent = self._analyse(torch.nn.functional.pad(self._buffer, (0, silence)))
        self.reset()
        return latent

    def _analyse(self, wav: Waveform) -> Latent:
        if wav.shape[-1] == 0:
            return wav.new_zeros(self.batch, self.model.config.latent_dim, 0)
        return self.model.latent(wav, self._layers)

    def _code(self, latent: Latent) -> Codes:
        return self.model.quantizer.encode(latent, self.stages, width=self.search_width)

    @property
    def state(self) -> StreamState:
        """A copy of all that the stream remembers, as plain tensors that can be saved.

        To set it takes the stream back to that point, also in another encoder of the same model.
        """
        own = {_BUFFER_KEY: self._buffer, _SAMPLES_KEY: torch.tensor(self._samples)}
        return _copied(self._layers | own)

    @state.setter
    def state(self, state: StreamState) -> None:
        layers = _copied(state)
        self._samples = int(layers.pop(_SAMPLES_KEY))
        self._buffer = layers.pop(_BUFFER_KEY)
        self.batch = self._buffer.shape[0]
        self._layers = layers


class StreamingDecoder:
    """Codes in, samples out, without the delay of the synthesis.

    All samples together equal `model.decode` of all codes together. There is nothing to flush: the
    encoder's last frame carries the last samples. Those beyond the end of the audio are the
    caller's to drop, or give `length`.
    """

    def __init__(self, model: CodecModel, *, batch: int = 1, length: int | None = None) -> None:
        """Start from silence.

        Args:
            model: in eval mode; it keeps no state and may serve many streams.
            batch: streams side by side.
            length: samples to give in all; by default every sample that the codes hold.

        Raises:
            ValueError: the model looks ahead.
        """
        _require_streamable(model)
        self.model = model
        self.batch = whole_number(batch, "batch")
        self.length = None if length is None else whole_number(length, "length")
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._layers: StreamState = {}
        self._samples = -self.model.config.delay  # given so far; below 0 the delay is due yet

    @torch.no_grad()
    def push(self, codes: ArrayLike) -> Waveform:
        """Decode frames: [B, k, f] with any f >= 0 and 1 <= k <= K -> [B, C, n].

        A code of -1 is none. k may change from push to push. n is f * hop, less the delay at the start.

        Raises:
            ValueError: wrong batch, k, or codes out of range.
        """
        codes = as_codes(codes, f"[{self.batch}, k, f]").to(self.model.device)
        if codes.dim() != 3 or codes.shape[0] != self.batch:
            raise ValueError(f"codes are {list(codes.shape)}; expected [{self.batch}, k, f]")
        if codes.shape[-1] == 0:
            return self._silence(0)
        latent = self.model.quantizer.decode(codes)
        stages = stage_counts(codes)
        self._layers[_LATENT_KEY], self._layers[_STAGES_KEY] = latent[..., -1:], stages[:, -1:]
        self._layers[_LOST_KEY] = torch.tensor(0)
        return self._give(self.model.synthesise(latent, self._layers, stages=stages))

    @torch.no_grad()
    def conceal(self, frames: int, *, silent: bool = False) -> Waveform:
        """Bridge frames that are lost: [B, C, n] as from `push`.

        The decoder runs on, the sound of the last latent fading away; after the fade there is silence.

        Args:
            frames: how many.
            silent: give silence at once, for comparison; the decoder then begins anew.
        """
        frames, hop = whole_number(frames, "frames"), self.model.config.hop_length
        fade, wav = Fade(), self._silence(frames)
        fade.lost = int(self._layers.get(_LOST_KEY, fade.lost))
        gains = torch.from_numpy(fade.gains(frames, silent=silent)).to(wav)
        if count := len(gains):
            wav[..., : count * hop] = self.model.synthesise(
                self.model.faded(self._layers[_LATENT_KEY], gains),
                self._layers,
                stages=self._layers[_STAGES_KEY].expand(-1, count),
            )
        self._layers[_LOST_KEY] = torch.tensor(fade.lost)
        if fade.over:
            self._layers = {}
        return self._give(wav)

    def _silence(self, frames: int) -> Waveform:
        shape = self.batch, self.model.config.channels, frames * self.model.config.hop_length
        return torch.zeros(shape, dtype=torch.float32, device=self.model.device)

    def _give(self, wav: Waveform) -> Waveform:
        """Less the delay at the start, and what lies beyond the length."""
        start = max(-self._samples, 0)
        end = wav.shape[-1]
        if self.length is not None:
            end = max(min(end, self.length - self._samples), 0)
        self._samples += wav.shape[-1]
        return wav[..., start:end]

    @property
    def state(self) -> StreamState:
        """A copy of all that the stream remembers, as plain tensors that can be saved.

        To set it takes the stream back to that point, also in another decoder of the same model.
        """
        return _copied(self._layers | {_SAMPLES_KEY: torch.tensor(self._samples)})

    @state.setter
    def state(self, state: StreamState) -> None:
        layers = _copied(state)
        self._samples = int(layers.pop(_SAMPLES_KEY))
        self._layers = layers


def _copied(state: StreamState) -> StreamState:
    return {key: value.clone() for key, value in state.items()}


def _require_streamable(model: CodecModel) -> None:
    if not model.config.streamable:
        raise ValueError(
            f"{model.config.name} looks ahead (it is not causal, or pads by reflection) and cannot "
            "stream; use encode and decode on whole clips"
        )
