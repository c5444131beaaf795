/** Sequences in pieces: cut, streamed, put together and held to the oracle. */
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import type { FlashFFTConvStream, StreamPiece } from "../../src/index.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { forwardBar, type Inputs } from "./cases.ts";
import { expectClose } from "./close.ts";

/** Columns [from, to) of rows of `width` samples. */
function columns<T extends SampleArray>(rows: T, width: number, from: number, to: number): T {
  const all = rows as Float32Array;
  const count = all.length / width;
  const out = new (all.constructor as Float32ArrayConstructor)(count * (to - from));
  for (let r = 0; r < count; r++)
    out.set(all.subarray(r * width + from, r * width + to), r * (to - from));
  return out as unknown as T;
}

/** Rows that come in pieces, put together. */
export function joined(pieces: readonly SampleArray[], rows: number): Float32Array {
  const width = pieces.reduce((sum, p) => sum + p.length / rows, 0);
  const Kind = pieces[0]!.constructor as Float32ArrayConstructor;
  const out = new Kind(rows * width);
  let at = 0;
  for (const piece of pieces as readonly Float32Array[]) {
    const n = piece.length / rows;
    for (let r = 0; r < rows; r++) out.set(piece.subarray(r * n, (r + 1) * n), r * width + at);
    at += n;
  }
  return out;
}

/** The pieces of inputs, of the given sizes in turn. */
export function* cut(
  { problem, u, options }: Inputs,
  sizes: readonly number[],
): Generator<StreamPiece<Dtype> & { readonly u: SampleArray }> {
  const { length } = problem;
  for (let [from, i] = [0, 0]; from < length; i++) {
    const to = Math.min(length, from + sizes[i % sizes.length]!);
    const { pregate, postgate } = options;
    yield {
      u: columns(u, length, from, to),
      ...(pregate && { pregate: columns(pregate, length, from, to) }),
      ...(postgate && { postgate: columns(postgate, length, from, to) }),
    };
    from = to;
  }
}

/** All outputs of inputs in pieces of the given sizes, and of the flush. */
export async function streamed(
  stream: FlashFFTConvStream<Dtype>,
  inputs: Inputs,
  sizes: readonly number[],
): Promise<Float32Array> {
  const pieces: SampleArray[] = [];
  for await (const y of stream.convolve(cut(inputs, sizes))) pieces.push(y);
  return joined(pieces, inputs.exact.batch * inputs.exact.channels);
}

/** Hold outputs to the bars of the dense operation. */
export function expectRight(y: SampleArray, inputs: Inputs): void {
  const { problem, exact } = inputs;
  const want = oracleForward(problem, exact);
  // The bars of the dense operation, relative to all rows: the first outputs of short rows cancel.
  const bound = Math.max(6e-7, forwardBar(problem));
  expectClose(y, want, { rowLength: want.length, bound, dtype: problem.dtype, name: "y" });
}
