/**
 * Integers and their frequencies in, bytes out, as the library `constriction` has it: 32-bit words, the most
 * significant byte first, ranges of 64 bits, frequencies that add up to 2^24. See docs/format.md.
 */

export const TOTAL = 2 ** 24;

const SLACK_BITS = 64; // that symbols may cost beyond their bytes: zeros are added without end
const TOP = 2n ** 64n - 1n, LEAST = 2n ** 32n;

/** Symbols to bytes. */
export class RangeEncoder {
  #low = 0n; // of all words so far
  #width = TOP;
  #words = 2;
  #bits = 0; // that symbols have cost

  /** Append a symbol by its frequencies, of which those below `symbol` come first in the range. */
  push(frequencies, symbol) {
    let below = 0;
    for (let n = 0; n < symbol; n++) below += frequencies[n];
    const unit = this.#width >> 24n;
    this.#low += unit * BigInt(below);
    this.#width = unit * BigInt(frequencies[symbol]);
    this.#bits += cost(frequencies[symbol]);
    if (this.#width < LEAST) {
      this.#low <<= 32n;
      this.#width <<= 32n;
      this.#words++;
    }
  }

  /** All of it, at least one byte; zeros at the end are left out, but for those without which no decoder believes it. */
  finish() {
    const point = (this.#low + LEAST - 1n) >> 32n; // all its further digits may be zeros
    const least = Math.max(Math.ceil((this.#bits - SLACK_BITS + 16) / 8), 1);
    const digits = point.toString(16).padStart(8 * (this.#words - 1), "0").replace(/(00)+$/, "").padEnd(2 * least, "0");
    return Uint8Array.from({ length: digits.length / 2 }, (_, n) => parseInt(digits.slice(2 * n, 2 * n + 2), 16));
  }
}

/** Bytes to symbols, by the same frequencies. */
export class RangeDecoder {
  #data;
  #at = 0;
  #place = 0n; // of the bytes, from where the range begins
  #width = TOP;
  #bits; // that symbols may still cost

  constructor(data) {
    this.#data = data;
    this.#bits = 8 * data.length + SLACK_BITS;
    this.#read();
    this.#read();
  }

  /** The next symbol; throws where an encoder cannot have written these bytes, or so few of them. */
  pull(frequencies) {
    const unit = this.#width >> 24n;
    const place = this.#place / unit;
    if (place >= TOTAL) throw new Error("these are not the bytes of a range coder");
    let below = 0, symbol = 0;
    for (const wanted = Number(place); below + frequencies[symbol] <= wanted; symbol++) below += frequencies[symbol];
    this.#place -= unit * BigInt(below);
    this.#width = unit * BigInt(frequencies[symbol]);
    this.#bits -= cost(frequencies[symbol]);
    if (this.#bits < 0) throw new Error("its codes go on after its bytes have ended");
    if (this.#width < LEAST) {
      this.#width <<= 32n;
      this.#read();
    }
    return symbol;
  }

  #read() {
    let word = 0;
    for (let n = 0; n < 4; n++) word = word * 256 + (this.#data[this.#at++] ?? 0);
    this.#place = (this.#place << 32n) + BigInt(word);
  }
}

/** Bits that a symbol of this frequency takes. */
function cost(frequency) {
  return 24 - Math.log2(frequency);
}
