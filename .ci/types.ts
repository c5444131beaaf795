/** What TypeScript says of calls and their results, under `strict` and whatever module resolution: compiled, never run. */
import {
  type ConvolveOptions,
  convolve,
  type Dtype,
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  FlashHyenaProjections,
  type ForwardOptions,
  type GpuTensor,
  type Gradients,
  sparsifyKernel,
  type Tensor,
} from "flashfftconv";
import { FlashFFTConvStream as InWorklet } from "flashfftconv/audio-worklet";
import { createProblem } from "flashfftconv/plan";

declare const plain: Float32Array;
declare const bits: Uint16Array;
declare const onGpu: GpuTensor;
declare const channel: AudioBuffer;

/** Compiles where both types are the same. */
function same<A, B>(
  ..._: (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? [] : ["not the same"]
): void {}
/** A new array of 32-bit numbers: `Float32Array<ArrayBuffer>`. */
const fresh = new Float32Array(1);
const freshBits = new Uint16Array(1);
type Fresh = typeof fresh;
type FreshBits = typeof freshBits;

// One line.
const y: Float32Array = await convolve(plain, plain);
channel.copyToChannel(await convolve([1, 2, 3], [1, 1]), 0);
same<Awaited<ReturnType<typeof convolve<"float32", Float32Array>>>, Fresh>();
const half = await convolve(bits, plain, { dtype: "float16", channels: 2 });
same<typeof half, FreshBits>();
const wide = await convolve(new Float64Array(4), [1], { mode: "same", skip: [1], pregate: [1] });
same<typeof wide, Fresh>();
const settings: ConvolveOptions<"float32"> = { mode: "same" };
channel.copyToChannel(await convolve(plain, plain, settings), 0);
// @ts-expect-error bits are no float32
await convolve(bits, plain);
// @ts-expect-error nor are bytes anything
await convolve(new Uint8Array(1), plain);

// Objects: float32 by default.
const conv = await FlashFFTConv.create({ length: 4096 });
same<typeof conv, FlashFFTConv>();
const kernel = await conv.prepareKernel(plain);
const gates = { pregate: plain, postgate: { data: plain, shape: [1, 1, 4096] }, skip: plain };
const output = await conv.forward(plain, kernel, gates);
same<typeof output, Fresh>();
channel.copyToChannel(await conv.forward({ data: plain, shape: [1, 1, 4096] }, plain), 0);
channel.copyToChannel(await conv.forward({ data: plain, dims: [1, 1, 4096] }, plain), 0);
// Where a result goes says nothing of what it is.
Float64Array.from(await conv.forward(plain, kernel));
Float64Array.from((await conv.backward(plain, plain, kernel)).du);
const given: ForwardOptions = gates;
const either = await conv.forward(plain, plain, given);
same<typeof either, Fresh | Float32Array | GpuTensor>();
const lent = conv.allocateOutput(1, 1);
same<typeof lent, Float32Array>();
const written = await conv.forward(conv.allocateInput(1, 1), kernel, { out: lent });
same<typeof written, Float32Array>();
const gradients = await conv.backward(plain, plain, kernel, gates);
same<typeof gradients.du, Fresh>();
same<typeof gradients.dk, Fresh>();
const kept: Gradients = gradients;
// The gradient of what a call has is there; that of what it may have, may be.
same<typeof gradients.dpregate | typeof gradients.dskip, Fresh>();
const fewer = await conv.backward(plain, plain, kernel, { skip: plain });
same<typeof fewer.dskip, Fresh>();
same<typeof fewer.dpregate, Fresh | undefined>();
declare const perhaps: { readonly pregate?: Float32Array };
const maybe = await conv.backward(plain, plain, kernel, perhaps);
same<typeof maybe.dpregate, Fresh | undefined>();
// @ts-expect-error there is no such option
await conv.backward(plain, plain, kernel, { skip: plain, postGate: plain });
// @ts-expect-error nor is there such a gradient
await conv.backward(plain, plain, kernel, { out: { dx: plain } });
const dskip: Float32Array | undefined = kept.dskip;
const into = await conv.backward(plain, plain, kernel, { out: { du: lent, dk: fresh } });
const du: Float32Array = into.du;
const buffer = await conv.forward(onGpu, kernel);
same<typeof buffer, GpuTensor>();
same<Awaited<ReturnType<typeof conv.backward<GpuTensor>>>["dk"], GpuTensor>();
// @ts-expect-error bits are no float32
await conv.forward(bits, kernel);
// @ts-expect-error nor are they a gate
await conv.forward(plain, kernel, { pregate: bits });
// @ts-expect-error there is no such option
await conv.forward(plain, kernel, { postGate: plain });
// @ts-expect-error create makes it
new FlashFFTConv({ length: 4096 });
// @ts-expect-error a length is needed
await FlashFFTConv.create({ kernelLength: 5 });

// Half precision.
const halves = await FlashFFTConv.create({ length: 4096, dtype: "float16" });
same<typeof halves, FlashFFTConv<"float16">>();
const out = await halves.forward(bits, plain);
same<typeof out, FreshBits>();
const lentBits: Uint16Array = halves.allocateInput(1, 1);
const dhalves = await halves.backward(bits, bits, bits);
same<typeof dhalves.dk, Fresh>();
same<typeof dhalves.du, FreshBits>();
const brain = await FlashFFTConv.create({ length: 4096, dtype: "bfloat16", mode: "full" });
const brains: Uint16Array = await brain.forward(bits, bits);
// @ts-expect-error float32 samples are no float16
await halves.forward(plain, plain);

// Of any type.
const any: FlashFFTConv<Dtype>[] = [conv, halves, brain];
declare const unknown: Tensor;
const result = await any[0]!.forward(unknown, plain);
const { length } = result;
// @ts-expect-error whose arrays are not known
const first: FlashFFTConv = any[0]!;

// Streams.
const stream = await FlashFFTConvStream.create(plain, { channels: 2 });
same<typeof stream, FlashFFTConvStream>();
channel.copyToChannel(await stream.process(plain), 0);
channel.copyToChannel(await stream.process({ u: plain, postgate: plain }), 0);
for await (const block of stream.convolve([plain])) channel.copyToChannel(block, 0);
declare const source: ReadableStream<Float32Array>;
const reader = source.pipeThrough(stream.transform()).getReader();
const { value } = await reader.read();
if (value) channel.copyToChannel(value, 0);
const narrow = await FlashFFTConvStream.create(plain, { dtype: "bfloat16" });
same<Awaited<ReturnType<typeof narrow.flush>>, FreshBits>();
// @ts-expect-error float32 samples are no bfloat16
await narrow.process(plain);

// Short filters.
const short = await FlashDepthwiseConv1d.create({ channels: 2, kernelLength: 4 });
const state = short.createState(1);
Float64Array.from(await short.forward(plain, plain));
const filtered = await short.forward(plain, plain, { bias: plain, state, stateOut: state });
same<typeof filtered, Fresh>();
const { dx, dweight, dbias } = await short.backward(plain, plain, plain, { bias: plain });
channel.copyToChannel(dx, 0);
channel.copyToChannel(dweight, 0);
const bias: Float32Array = dbias;
const sums = await short.backward(plain, plain, plain, { state, out: { dweight: plain } });
same<typeof sums.dstate, Fresh>();
const sum: Float32Array = sums.dweight;
// @ts-expect-error the gradient of x is dx
await short.backward(plain, plain, plain, { out: plain });
same<Awaited<ReturnType<typeof short.forward<GpuTensor>>>, GpuTensor>();
const projections = await FlashHyenaProjections.create({
  ...{ channels: 2, kernelLength: 3, dtype: "float16" as const },
});
const { gated, postgate } = await projections.forward(bits, plain);
same<typeof gated, FreshBits>();
same<Awaited<ReturnType<typeof halves.forward<typeof gated>>>, FreshBits>();
const gatedOut = await halves.forward(gated, plain, { postgate });
const results = { gated: bits, postgate: bits };
const parts = await projections.forward(bits, plain, { out: results });
const part: Uint16Array = parts.gated;

// Frequencies, and problems.
const { taps } = sparsifyKernel(plain, { length: 64, frequencies: { band: [0, 0.1] } });
channel.copyToChannel(taps, 0);
const problem = createProblem({ length: 64, dtype: "float16" }, "mine");
same<typeof problem.dtype, "float16">();

export const used = {
  ...{ y, output, either, written, dskip, du, buffer, out, lentBits, brains, length, first },
  ...{ filtered, bias, gatedOut, part, sum },
};

/** The file for worklets has the same class. */
export const inWorklet = (taps: Float32Array): Promise<FlashFFTConvStream> =>
  InWorklet.create(taps);
