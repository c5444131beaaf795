/** Short depthwise convolutions: ours, and the loops that a program without it would run. */
import { type Dtype, decode, encode, type SampleArray } from "../src/dtype.ts";
import { FlashDepthwiseConv1d, FlashHyenaProjections, type Layout } from "../src/index.ts";
import { createDepthwiseProblem, type DepthwiseProblem, type Form } from "../src/plan/depthwise.ts";
import {
  depthwiseOracleBackward,
  depthwiseOracleForward,
} from "../test/support/depthwise-oracle.ts";
import { type Effort, measure } from "./harness.ts";
import { type BenchRecord, createRecord, type Machine, type Measured } from "./records.ts";
import { type Answers, type Contender, random } from "./workload.ts";

/** One short convolution, causal, with bias. */
export interface ShortShape {
  readonly form: Form;
  readonly layout: Layout;
  readonly dtype: Dtype;
  readonly batch: number;
  readonly channels: number;
  readonly length: number;
  readonly kernelLength: number;
}

/** A shape with its data. */
interface ShortWorkload extends ShortShape {
  readonly mode: "causal";
  readonly problem: DepthwiseProblem;
  /** Channels of x: H, or 3H. */
  readonly packed: number;
  /** B·H */
  readonly rows: number;
  readonly x: Float32Array | Uint16Array;
  /** dy of `backward`, and of the projections both gradients. */
  readonly dy: Float32Array | Uint16Array;
  readonly weight: Float32Array;
  readonly bias: Float32Array;
}

function createShort(shape: ShortShape): ShortWorkload {
  const { form, dtype, batch, channels, length, kernelLength } = shape;
  const packed = channels * (form === "projections" ? 3 : 1);
  return {
    ...shape,
    mode: "causal",
    problem: createDepthwiseProblem(shape, form, "bench"),
    packed,
    rows: batch * channels,
    x: encode(random(batch * packed * length, 1), dtype),
    dy: encode(random(batch * channels * length, 4), dtype),
    weight: random(packed * kernelLength, 2),
    bias: random(packed, 3),
  };
}

/** Channel c of batch item b of a tensor, as stored. */
function channelOf(
  data: SampleArray,
  { layout, length }: ShortShape,
  channels: number,
  [b, c]: readonly [number, number],
): SampleArray {
  const array = data as Float32Array;
  const from = (b * channels + c) * length;
  if (layout === "BHL") return array.subarray(from, from + length);
  const Kind = array.constructor as typeof Float32Array;
  return Kind.from({ length }, (_, n) => array[(b * length + n) * channels + c]!);
}

/** The exact answers of rows b·H + h: y (the gated output of projections), or dx. */
class ShortAnswers implements Answers {
  readonly #w: ShortWorkload;

  constructor(workload: ShortWorkload) {
    this.#w = workload;
  }

  /** The channels of x that output channel h is made of, as a problem of one output channel. */
  #alone(b: number, h: number) {
    const { channels, packed, kernelLength, length, weight, bias, dtype, problem } = this.#w;
    const thirds = packed / channels;
    const x = new Float64Array(thirds * length);
    const taps = new Float64Array(thirds * kernelLength);
    const biases = new Float64Array(thirds);
    for (let t = 0; t < thirds; t++) {
      const c = t * channels + h;
      x.set(decode(channelOf(this.#w.x, this.#w, packed, [b, c]), dtype), t * length);
      taps.set(weight.subarray(c * kernelLength, (c + 1) * kernelLength), t * kernelLength);
      biases[t] = bias[c]!;
    }
    const shape = { ...problem, channels: 1, layout: "BHL" as const };
    return { shape, inputs: { batch: 1, length, x, weight: taps, bias: biases } };
  }

  #backward(b: number, h: number) {
    const { shape, inputs } = this.#alone(b, h);
    const { channels, dtype, dy } = this.#w;
    const d = decode(channelOf(dy, this.#w, channels, [b, h]), dtype);
    return depthwiseOracleBackward(shape, inputs, [d, d]);
  }

  row(pass: Contender["pass"], row: number): Float64Array {
    const [b, h] = [Math.floor(row / this.#w.channels), row % this.#w.channels];
    if (pass === "backward") return this.#backward(b, h).dx;
    const { shape, inputs } = this.#alone(b, h);
    return depthwiseOracleForward(shape, inputs)[0]!;
  }

  kernelGradient(channel: number): Float64Array {
    const { batch, kernelLength, packed, channels } = this.#w;
    const sum = new Float64Array((kernelLength * packed) / channels);
    for (let b = 0; b < batch; b++) {
      this.#backward(b, channel).dweight.forEach((v, j) => {
        sum[j] = sum[j]! + v;
      });
    }
    return sum;
  }
}

interface OursOptions {
  readonly threads: number;
  readonly data?: Contender["data"];
  readonly pass?: "forward" | "backward";
}

/** Largest error that half precision may have: twice what rounding once errs. */
const roundings: Readonly<Record<Dtype, number>> = {
  float32: 1e-6,
  float16: 2 ** -11,
  bfloat16: 2 ** -8,
};

async function openShort(w: ShortWorkload, options: OursOptions): Promise<Contender> {
  const { form, layout, dtype, batch, channels, length, kernelLength, weight, bias } = w;
  const { threads, data = "resident", pass = "forward" } = options;
  const settings = { layout, dtype, batch, channels, kernelLength, threads };
  const conv =
    form === "projections"
      ? await FlashHyenaProjections.create(settings)
      : await FlashDepthwiseConv1d.create({
          ...settings,
          activation: form === "silu" ? "silu" : "none",
        });
  const place = (values: Float32Array | Uint16Array, input: boolean): SampleArray => {
    if (data === "arrays") return values.slice();
    const resident = (
      input ? conv.allocateInput(batch, length) : conv.allocateOutput(batch, length)
    ) as Float32Array;
    resident.set(values as Float32Array);
    return resident;
  };
  const x = place(w.x, true);
  const outputs = [place(w.dy, false), place(w.dy, false)] as const;
  const dx = place(w.x, true);
  let dweight = new Float32Array(0);
  const run = async (): Promise<void> => {
    if (pass === "backward") {
      const [d, e] = outputs;
      const gradients =
        conv instanceof FlashHyenaProjections
          ? await conv.backward({ dgated: d, dpostgate: e }, x, weight, { bias, out: { dx } })
          : await conv.backward(d, x, weight, { bias, out: { dx } });
      dweight = gradients.dweight as Float32Array<ArrayBuffer>;
      return;
    }
    const [gated, postgate] = outputs;
    if (conv instanceof FlashHyenaProjections)
      await conv.forward(x, weight, { bias, out: { gated, postgate } });
    else await conv.forward(x, weight, { bias, out: gated });
  };
  const thirds = w.packed / channels;
  return {
    ...{ name: "ours", threads: conv.threads, data, rows: w.rows, pass, run },
    largestError: roundings[dtype],
    settleMs: threads > 1 ? 2 : 0,
    plan: `${form} ${layout} K=${kernelLength} ${dtype}`,
    answer(row) {
      const at = [Math.floor(row / channels), row % channels] as const;
      if (pass === "forward")
        return Float32Array.from(decode(channelOf(outputs[0], w, channels, at), dtype));
      const all = new Float32Array(thirds * length);
      for (let t = 0; t < thirds; t++) {
        const c = t * channels + at[1];
        all.set(decode(channelOf(dx, w, w.packed, [at[0], c]), dtype), t * length);
      }
      return all;
    },
    ...(pass === "backward" && {
      kernelGradient(channel: number) {
        const all = new Float32Array(thirds * kernelLength);
        for (let t = 0; t < thirds; t++) {
          const from = (t * channels + channel) * kernelLength;
          all.set(dweight.subarray(from, from + kernelLength), t * kernelLength);
        }
        return all;
      },
    }),
    dispose: () => conv.dispose(),
  };
}

type Loop = (
  x: Float32Array,
  w: Float32Array,
  bias: Float32Array,
  y: Float32Array,
  shape: ShortShape,
) => void;

/** One sum for each output, in the order of memory: what one writes first. */
const plainLoop: Loop = (x, w, bias, y, { layout, batch, channels, length, kernelLength }) => {
  const first = kernelLength - 1;
  if (layout === "BLH") {
    for (let b = 0; b < batch; b++) {
      for (let n = 0; n < length; n++) {
        const from = Math.max(0, first - n);
        for (let c = 0; c < channels; c++) {
          let sum = bias[c]!;
          for (let j = from; j < kernelLength; j++)
            sum += w[c * kernelLength + j]! * x[(b * length + n + j - first) * channels + c]!;
          y[(b * length + n) * channels + c] = sum;
        }
      }
    }
    return;
  }
  for (let row = 0; row < batch * channels; row++) {
    const c = row % channels;
    for (let n = 0; n < length; n++) {
      let sum = bias[c]!;
      for (let j = Math.max(0, first - n); j < kernelLength; j++)
        sum += w[c * kernelLength + j]! * x[row * length + n + j - first]!;
      y[row * length + n] = sum;
    }
  }
};

/** The same with its taps in variables and no inner loop, written out for K: as fast as we could make JavaScript. */
function unrolledLoop({ layout, kernelLength }: ShortShape): Loop {
  const taps = Array.from({ length: kernelLength }, (_, j) => j);
  const across = layout === "BLH";
  const step = across ? "channels" : "1";
  const terms = taps.map((j) => `w${j} * x[at + ${j} * ${step}]`).join(" + ");
  const first = kernelLength - 1;
  const text = `
    const { batch, channels, length } = shape;
    for (let row = 0; row < batch * channels; row++) {
      const b = Math.floor(row / channels), c = row % channels;
      const start = ${across ? "b * length * channels + c" : "row * length"}, base = bias[c];
      ${taps.map((j) => `const w${j} = w[c * ${kernelLength} + ${j}];`).join("\n")}
      for (let n = 0; n < ${first} && n < length; n++) {
        let sum = base;
        for (let j = ${first} - n; j < ${kernelLength}; j++)
          sum += w[c * ${kernelLength} + j] * x[start + (n + j - ${first}) * ${step}];
        y[start + n * ${step}] = sum;
      }
      for (let n = ${first}, at = start; n < length; n++, at += ${step})
        y[at + ${first} * ${step}] = base + ${terms};
    }`;
  return new Function("x", "w", "bias", "y", "shape", text) as Loop;
}

function openLoop(w: ShortWorkload, name: string, loop: Loop): Contender {
  const { channels, rows } = w;
  const [x, y] = [w.x as Float32Array, new Float32Array(w.dy.length)];
  return {
    ...{ name, threads: 1, data: "arrays", rows, pass: "forward", settleMs: 0 },
    run: () => loop(x, w.weight, w.bias, y, w),
    answer: (row) =>
      channelOf(y, w, channels, [Math.floor(row / channels), row % channels]) as Float32Array,
    dispose() {},
  };
}

/** A group of contenders on one shape. */
export interface ShortGroup {
  readonly name: string;
  readonly shape: ShortShape;
  readonly ours: readonly OursOptions[];
}

/** The groups of `bench short`. */
export function shortGroups(threads: readonly number[], quick: boolean): ShortGroup[] {
  const models: ShortShape = {
    ...{ form: "linear", layout: "BHL", dtype: "float32", batch: 4, channels: 768 },
    ...{ length: 1024, kernelLength: 4 },
  };
  const narrow = { ...models, batch: 1, channels: 64, length: 4096 };
  const group = (shape: ShortShape): ShortGroup => {
    const { form, layout, dtype, batch, channels, length, kernelLength } = shape;
    const name = `short ${form} ${layout} ${dtype} B=${batch} H=${channels} L=${length} K=${kernelLength}`;
    const ours: OursOptions[] = threads.map((n) => ({ threads: n }));
    if (threads.includes(1))
      ours.push({ threads: 1, data: "arrays" }, { threads: 1, pass: "backward" });
    return { name, shape, ours };
  };
  const both = (shape: ShortShape): ShortShape[] => [shape, { ...shape, layout: "BLH" }];
  if (quick) return both(models).map(group);
  return [
    ...[models, narrow, { ...models, batch: 1, length: 8192 }].flatMap(both),
    ...[3, 5, 16, 64, 256].flatMap((kernelLength) => both({ ...narrow, kernelLength })),
    ...both({ ...models, form: "silu" }),
    ...both({ ...models, batch: 1, form: "projections", kernelLength: 3 }),
    ...(["float16", "bfloat16"] as const).flatMap((dtype) => both({ ...models, dtype })),
  ].map(group);
}

/** Bytes that must be read and written once: x and y, or x, dy and dx. */
function bytesOf(w: ShortWorkload, pass: Contender["pass"]): number {
  const inputs = w.batch * w.packed * w.length;
  const outputs = w.rows * w.length * (w.form === "projections" ? 2 : 1);
  const samples = pass === "backward" ? 2 * inputs + outputs : inputs + outputs;
  return samples * (w.dtype === "float32" ? 4 : 2);
}

/** Measure a group: ours in its forms beside plain JavaScript, where it can compute the form. */
export async function runShort(
  { shape, ours }: ShortGroup,
  effort: Effort,
  machine: Machine,
): Promise<BenchRecord[]> {
  const w = createShort(shape);
  const opened: Contender[] = [];
  try {
    for (const options of ours) opened.push(await openShort(w, options));
    const mine = [...opened];
    if (shape.form === "linear" && shape.dtype === "float32") {
      opened.push(openLoop(w, "JavaScript", plainLoop));
      opened.push(openLoop(w, "JavaScript, unrolled", unrolledLoop(shape)));
    }
    const timings = await measure(opened, new ShortAnswers(w), w, effort);
    const find = (contender: Contender): Measured => ({
      contender,
      timing: timings.get(contender)!,
    });
    const peers = opened.slice(mine.length);
    return mine.flatMap((contender) => {
      const gb = (ms: number): number => bytesOf(w, contender.pass) / ms / 1e6;
      const record = (peer: Contender | undefined): BenchRecord => {
        const compared = peer && { name: peer.name, timing: find(peer).timing };
        const made = createRecord(
          contender.pass === "forward" ? "short" : "short backward",
          w,
          find(contender),
          compared,
          machine,
          shape.dtype,
        );
        return { ...made, gb_per_s: Number(gb(made.ours_ms).toPrecision(4)) };
      };
      const compared = contender.pass === "forward" && contender.threads === 1;
      return compared && peers.length > 0 ? peers.map(record) : [record(undefined)];
    });
  } finally {
    for (const contender of opened) await contender.dispose();
  }
}
