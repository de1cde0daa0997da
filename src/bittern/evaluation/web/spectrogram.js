"use strict";

const WINDOW = 512;
const FLOOR_DB = -90;

/** Draw a spectrogram: time to the right, 0 Hz to half the sample rate upwards, 70 dB of range. */
function drawSpectrogram(canvas, samples) {
  const columns = 420, rows = 96, bins = WINDOW / 2;
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const shape = Float32Array.from({ length: WINDOW }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / WINDOW));
  const real = new Float32Array(WINDOW), imaginary = new Float32Array(WINDOW);
  for (let column = 0; column < columns; column++) {
    const start = Math.round((column / columns) * samples.length - WINDOW / 2);
    for (let n = 0; n < WINDOW; n++) {
      real[n] = (samples[start + n] || 0) * shape[n];
      imaginary[n] = 0;
    }
    transform(real, imaginary);
    for (let row = 0; row < rows; row++) {
      // the loudest of the bins that share a row
      const first = Math.floor((row * bins) / rows), last = Math.floor(((row + 1) * bins) / rows);
      let power = 1e-12;
      for (let bin = first; bin < last; bin++) power = Math.max(power, real[bin] ** 2 + imaginary[bin] ** 2);
      const level = 10 * Math.log10(power) - 20 * Math.log10(WINDOW / 4);
      const at = 4 * ((rows - 1 - row) * columns + column);
      image.data.set(heat((level - FLOOR_DB) / 70), at);
    }
  }
  context.putImageData(image, 0, 0);
}

/** A colour from dark blue through violet and orange to pale yellow, for 0 to 1. */
function heat(value) {
  const stops = [[8, 12, 40], [60, 22, 100], [165, 45, 96], [240, 120, 60], [253, 245, 180]];
  const place = Math.min(Math.max(value, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  const share = place - index;
  return [0, 1, 2].map((c) => stops[index][c] * (1 - share) + stops[index + 1][c] * share).concat(255);
}

/** Fast Fourier transform in place; the length is a power of two. */
function transform(real, imaginary) {
  const size = real.length;
  for (let i = 1, j = 0; i < size; i++) {
    let bit = size >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [real[i], real[j]] = [real[j], real[i]];
      [imaginary[i], imaginary[j]] = [imaginary[j], imaginary[i]];
    }
  }
  for (let length = 2; length <= size; length <<= 1) {
    const half = length / 2, angle = (-2 * Math.PI) / length;
    for (let k = 0; k < half; k++) {
      const cosine = Math.cos(angle * k), sine = Math.sin(angle * k);
      for (let i = k; i < size; i += length) {
        const j = i + half;
        const r = real[j] * cosine - imaginary[j] * sine, m = real[j] * sine + imaginary[j] * cosine;
        real[j] = real[i] - r; imaginary[j] = imaginary[i] - m;
        real[i] += r; imaginary[i] += m;
      }
    }
  }
}
