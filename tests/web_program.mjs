/**
 * Decode `.btn` files and encode them again with the page's JavaScript; JSON out. Started by `test_web.py`.
 *
 *     node web_program.mjs ENTROPY FILE...
 */

import { readFileSync } from "node:fs";
import { packChunk, readChunks, readHeader, write } from "../tools/web/container.js";
import { EntropyModel } from "../tools/web/entropy.js";

const [entropy, ...paths] = process.argv.slice(2);
const coder = new EntropyModel(new Uint8Array(readFileSync(entropy)));
const found = paths.map((path) => {
  const data = new Uint8Array(readFileSync(path));
  try {
    const header = readHeader(data), chunks = readChunks(data, header, coder);
    const again = write(header, chunks.map((codes) => packChunk(codes, header, coder)));
    return {
      codes: chunks.map((codes) => codes.map((stages) => stages.map((stage) => Array.from(stage)))),
      again: Buffer.from(again).toString("hex"),
    };
  } catch (error) {
    return { error: error.message };
  }
});
console.log(JSON.stringify(found));
