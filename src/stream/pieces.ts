/** What a stream is fed: pieces, whose samples are checked and taken apart into rows. */
import { checkOptions, known } from "../checks.ts";
import type { Dtype, SampleArray } from "../dtype.ts";
import { decode } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { Expected } from "../tensors/check.ts";
import { checkSizes, emptyOf, exactly, samplesOf } from "../tensors/check.ts";
import type { Tensor } from "../tensors/tensor.ts";
import type { StreamRows } from "./engine.ts";
import type { StreamMode, StreamPiece } from "./options.ts";
import { pieceNames, refuseStreamBuffer } from "./options.ts";

/** Rows that pieces have, and how their samples are stored. */
interface PieceShape extends StreamRows {
  readonly dtype: Dtype;
  readonly mode: StreamMode;
}

/** The samples of a piece, checked. */
export interface PieceSamples {
  /** How many each of them has. */
  readonly size: number;
  readonly u: SampleArray;
  readonly pregate: SampleArray | undefined;
  readonly postgate: SampleArray | undefined;
}

/** A piece with the names of what it has. */
function named<D extends Dtype>(
  piece: Tensor<D> | StreamPiece<D>,
  call: string,
): StreamPiece<Dtype> {
  if (ArrayBuffer.isView(piece) || "data" in piece) return { u: piece };
  known(piece, pieceNames, call, "the piece");
  return piece;
}

/** The rows of an array as float32. */
export function rowsIn(data: SampleArray, dtype: Dtype, rows: number): Float32Array[] {
  const values = data instanceof Float32Array ? data : Float32Array.from(decode(data, dtype));
  const n = values.length / rows;
  return Array.from({ length: rows }, (_, r) => values.subarray(r * n, (r + 1) * n));
}

/** Dimensions of a piece, for messages. */
const streamDimensions = ["B", "H", "n"] as const;

/** Refuse what does not come in pieces; an array is a piece, not a list of them. */
export function checkSource(source: unknown, call: string): void {
  const { [Symbol.asyncIterator]: later, [Symbol.iterator]: now } = Object(source) as Partial<
    AsyncIterable<unknown> & Iterable<unknown>
  >;
  const iterates = typeof later === "function" || typeof now === "function";
  if (iterates && typeof source === "object" && !ArrayBuffer.isView(source)) return;
  throw new InvalidArgumentError({
    call,
    requirement: "source must be an iterable of pieces, async or not",
    value: show(source),
    remedy: "Pass [samples] for a single piece, or pipe a Web Stream through stream.transform().",
  });
}

/** The samples of a piece, checked. */
export function checkPiece<D extends Dtype>(
  piece: Tensor<D> | StreamPiece<D>,
  shape: PieceShape,
  call: string,
): PieceSamples {
  const rows = shape.batch * shape.channels;
  if (Array.isArray(piece)) {
    throw new InvalidArgumentError({
      call,
      requirement: "the piece must be one typed array, or { u, pregate, postgate }",
      value: show(piece),
      remedy: "Pass the next samples of every row, one row after the other.",
    });
  }
  if (!ArrayBuffer.isView(piece)) {
    const remedy = "Pass the next samples of every row, or { u, pregate, postgate }.";
    checkOptions(piece, call, "the piece", remedy);
  }
  const { u, pregate, postgate } = named(piece, call);
  const { dtype } = shape;
  const data = samplesOfPiece(u, "u", shape, call);
  if (data.length % rows !== 0) {
    throw new InvalidArgumentError({
      call,
      requirement: `u must hold ${show(rows)} rows of equal length`,
      value: show(data),
      remedy: "Pass the next samples of every row, one row after the other.",
    });
  }
  const gate = (tensor: Tensor | undefined, name: string): SampleArray | undefined => {
    if (tensor === undefined) return undefined;
    const samples = samplesOfPiece(tensor, name, shape, call);
    exactly(samples, data.length, { call, name, dtype, dimensions: streamDimensions });
    return samples;
  };
  const before = gate(pregate, "pregate");
  const after = gate(postgate, "postgate");
  if (after && shape.mode === "full") {
    throw new InvalidArgumentError({
      call,
      requirement: "postgate needs outputs as long as the inputs",
      value: "a stream of mode 'full'",
      remedy: "Use another mode, or multiply the outputs yourself.",
    });
  }
  return { size: data.length, u: data, pregate: before, postgate: after };
}

/** Samples (B, H, n) of a piece or its gate. */
function samplesOfPiece(
  tensor: Tensor,
  name: string,
  { dtype, batch, channels }: PieceShape,
  call: string,
): SampleArray {
  const expected: Expected = { call, name, dtype, dimensions: streamDimensions };
  refuseStreamBuffer(tensor, name, call);
  const nothing = emptyOf(tensor, dtype);
  const { data, shape } = nothing ?? samplesOf(tensor, expected);
  checkSizes(shape, [batch, channels, nothing ? 0 : undefined], expected);
  return data;
}
