/** Tensors of a safetensors file by name, each with its shape and values; float16 becomes float32. */
export function readTensors(data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const begin = 8 + Number(view.getBigUint64(0, true));
  const places = JSON.parse(new TextDecoder().decode(data.subarray(8, begin)));
  const read = (name) => {
    const { dtype, shape, data_offsets: [first, end] } = places[name];
    const bytes = data.slice(begin + first, begin + end).buffer;
    if (dtype === "F16") return { shape, values: widen(new Uint16Array(bytes)) };
    const Kind = { I8: Int8Array, U8: Uint8Array, I16: Int16Array, I32: Int32Array, F32: Float32Array }[dtype];
    return { shape, values: new Kind(bytes) };
  };
  return { metadata: places.__metadata__ ?? {}, names: Object.keys(places).filter((name) => name !== "__metadata__"), read };
}

/** Half precision to single, without loss. */
function widen(halves) {
  const table = Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24);
  });
  const out = new Float32Array(halves.length);
  for (let n = 0; n < out.length; n++) out[n] = table[halves[n]];
  return out;
}
