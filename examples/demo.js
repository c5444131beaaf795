/**
 * `npm start`: two long convolutions on real input, each checked against float64 and timed beside the fastest
 * JavaScript alternative; results and pictures go to output/.
 *
 * 1. Speech, synthesised here, through the response of a concert hall, computed here: stereo, mode `full`.
 * 2. The genome of the phage λ, one-hot, through a bank of 64 filters as long as the genome: mode `same`.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { FlashFFTConv } from "flashfftconv";
// The float64 reference and the file formats are inside the package, not part of its public names.
import { npyHeader } from "../dist/cli/npy.js";
import { writeWav } from "../dist/cli/wav-output.js";
import { oracleForward, relativeError } from "../dist/reference/convolution.js";
import { filterBank, filtersPerBase, oneHot, readGenome } from "./demo/genome.js";
import { drawGenome } from "./demo/genome-picture.js";
import { hallResponse } from "./demo/hall.js";
import { openPeer } from "./demo/pffft.js";
import { dialogue, toPeak } from "./demo/speech.js";
import { drawSpeech } from "./demo/speech-picture.js";

const output = new URL("../output/", import.meta.url);
const rate = 48_000;

mkdirSync(output, { recursive: true });
const started = performance.now();
const cores = cpus();
console.log(
  `flashfftconv · Node ${process.version} · ${cores.length} × ${cores[0]?.model.trim()}\n`,
);
await speechInHall();
await genomeThroughFilters();
console.log(`Everything above took ${((performance.now() - started) / 1000).toFixed(1)} s.`);

async function speechInHall() {
  const { left, right, text } = dialogue(rate);
  const hall = hallResponse(6, rate);
  const [length, taps] = [left.length, hall.left.length];
  console.log("1  Speech in a hall");
  console.log(`   ${text}`);
  print(
    "input",
    `${seconds(length)} of synthesised speech, stereo, ${rate / 1000} kHz: ${count(length)} samples`,
  );
  print("kernel", `a hall's response of ${seconds(taps)}, computed: ${count(taps)} taps a channel`);
  const u = Float32Array.from([...left, ...right]);
  const k = Float32Array.from([...hall.left, ...hall.right]);
  const y = await convolveAndCompare(u, k, {
    mode: "full",
    length,
    kernelLength: taps,
    channels: 2,
  });
  // The sum of so many echoes has no natural loudness: bring it to the level of the dry recording.
  toPeak(y, 0.5);
  await saveWav("speech-dry.wav", u);
  await saveWav("hall-response.wav", k);
  await saveWav("speech-in-hall.wav", y);
  const wet = y.subarray(0, y.length / 2);
  const both = left.map((x, i) => x + right[i]);
  save("speech-in-hall.svg", drawSpeech(both, hall.left, wet, rate, text));
  console.log();
}

async function genomeThroughFilters() {
  const genome = readGenome(new URL("data/lambda_virus.fa.gz", import.meta.url));
  const length = genome.length;
  const channels = 4 * filtersPerBase;
  console.log("2  A genome through a bank of long filters");
  print(
    "input",
    `the phage λ, ${count(length)} bases, one-hot: ${channels} rows, each base's repeated for its filters`,
  );
  print(
    "kernel",
    `${filtersPerBase} filters for each base, ${count(length)} taps each, tuned to the period of the codons`,
  );
  const u = new Float32Array(channels * length);
  oneHot(genome, u);
  const k = filterBank(length);
  const y = await convolveAndCompare(u, k, {
    mode: "same",
    length,
    kernelLength: length,
    channels,
  });
  save(
    "genome-responses.npy",
    Buffer.concat([npyHeader("float32", [channels, length]), bytesOf(y)]),
  );
  save("genome.svg", drawGenome(y, length));
  console.log();
}

/**
 * One convolution of (channels, length) with (channels, kernelLength): plan, check, time, and the same with PFFFT.
 *
 * @param {Float32Array} u
 * @param {Float32Array} k
 * @param {{ mode: "full" | "same", length: number, kernelLength: number, channels: number }} shape
 * @returns {Promise<Float32Array>} (channels, outputLength)
 */
async function convolveAndCompare(u, k, shape) {
  const { mode, length, kernelLength, channels } = shape;
  const conv = await FlashFFTConv.create(shape);
  const single = await FlashFFTConv.create({ ...shape, threads: 1 });
  console.log(indent(conv.explain().toString()));

  // The whole use of the library: the kernel's spectrum is kept, input and output lie in the library's own memory.
  const kernel = await conv.prepareKernel(k);
  const input = conv.allocateInput(1, channels);
  input.set(u);
  const out = conv.allocateOutput(1, channels);
  await conv.forward(input, kernel, { out });

  const outputs = conv.problem.outputLength;
  const exact = oracleForward(conv.problem, {
    batch: 1,
    channels,
    u: Float64Array.from(u),
    k: Float64Array.from(k),
  });
  const y = Float32Array.from(/** @type {Float32Array} */ (out));
  const error = check("flashfftconv", relativeError(y, exact));

  const kernelOfOne = await single.prepareKernel(k);
  const inputOfOne = single.allocateInput(1, channels);
  inputOfOne.set(u);
  const outOfOne = single.allocateOutput(1, channels);
  const offset = mode === "same" ? Math.floor((kernelLength - 1) / 2) : 0;
  const peer = await openPeer(u, k, {
    rows: channels,
    length,
    taps: kernelLength,
    offset,
    outputs,
  });
  const [ours, oursOfOne, theirs] = await medianMs([
    () => conv.forward(input, kernel, { out }),
    () => single.forward(inputOfOne, kernelOfOne, { out: outOfOne }),
    peer.run,
  ]);
  const answers = Float32Array.from({ length: channels * outputs }, () => 0);
  for (let row = 0; row < channels; row++) answers.set(peer.answer(row), row * outputs);
  const theirError = check("pffft-wasm", relativeError(answers, exact));
  peer.dispose();
  await conv.dispose();
  await single.dispose();

  const threads = `${conv.threads} thread${conv.threads === 1 ? "" : "s"}`;
  print(
    "time",
    `${milliseconds(ours)} with ${threads}, ${milliseconds(oursOfOne)} with one (${conv.instructions})`,
  );
  print("error", `${error.toExponential(1)} relative to float64`);
  print(
    "beside it",
    `pffft-wasm SIMD, the same rows one by one, one thread: ${milliseconds(theirs)}, error ${theirError.toExponential(1)}`,
  );
  print(
    "speed",
    `${(theirs / ours).toFixed(1)} × pffft-wasm with ${threads}, ${(theirs / oursOfOne).toFixed(1)} × with one`,
  );
  return y;
}

/**
 * Median times of several contenders, run in turn so that drift meets all of them.
 *
 * @param {readonly (() => unknown)[]} contenders
 */
async function medianMs(contenders) {
  /** @type {number[][]} */
  const times = contenders.map(() => []);
  for (let round = -2; round < 9; round++) {
    for (const [i, run] of contenders.entries()) {
      const start = performance.now();
      await run();
      // The first rounds compile and warm the caches.
      if (round >= 0) times[i].push(performance.now() - start);
      // Threads of one contender fall asleep before the next one starts.
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  return times.map((list) => list.sort((a, b) => a - b)[Math.floor(list.length / 2)]);
}

/** A wrong answer is no demonstration. @param {string} name @param {number} error */
function check(name, error) {
  if (!(error < 1e-6))
    throw new Error(`${name}: relative error ${error} against float64, expected below 1e-6`);
  return error;
}

/** Two channels, one after the other, as 24-bit .wav. @param {string} name @param {Float32Array} samples */
async function saveWav(name, samples) {
  /** @type {Uint8Array[]} */
  const parts = [];
  const frames = samples.length / 2;
  await writeWav(
    async (bytes) => void parts.push(bytes.slice()),
    { channels: 2, sampleRate: rate, encoding: 24, frames, channelMask: 0 },
    samples,
    0.99, // the response of the hall peaks at exactly 1, one step more than integers reach
    () => {},
  );
  save(name, Buffer.concat(parts));
}

/** @param {string} name @param {string | Buffer} content */
function save(name, content) {
  writeFileSync(new URL(name, output), content);
  print("written", `output/${name}`);
}

/** @param {Float32Array} values */
function bytesOf(values) {
  return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
}

/** @param {string} label @param {string} value */
function print(label, value) {
  console.log(`   ${label.padEnd(10)}${value}`);
}

/** @param {string} text */
function indent(text) {
  return text.replace(/^(?=.)/gm, "   ");
}

/** @param {number} samples */
function seconds(samples) {
  return `${(samples / rate).toFixed(1)} s`;
}

/** @param {number} value */
function milliseconds(value) {
  return `${value.toFixed(value < 10 ? 2 : 1)} ms`;
}

/** @param {number} value */
function count(value) {
  return value.toLocaleString("en-US");
}
