"use strict";

/** A WAV file of channels of floats in -1..1: in 16 bits, or as they are. */
function encodeWav(channels, sampleRate, bits = 16) {
  const bytes = bits / 8, frame = channels.length * bytes, size = channels[0].length * frame;
  const view = new DataView(new ArrayBuffer(44 + size));
  const text = (at, letters) => [...letters].forEach((letter, n) => view.setUint8(at + n, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + size, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, bits === 16 ? 1 : 3, true);
  view.setUint16(22, channels.length, true);
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, sampleRate * frame, true);
  view.setUint16(32, frame, true);
  view.setUint16(34, bits, true);
  text(36, "data");
  view.setUint32(40, size, true);
  for (let n = 0, at = 44; n < channels[0].length; n++) {
    for (const channel of channels) {
      if (bits === 16) view.setInt16(at, Math.min(Math.max(Math.round(channel[n] * 32768), -32768), 32767), true);
      else view.setFloat32(at, channel[n], true);
      at += bytes;
    }
  }
  return view.buffer;
}
