/** What a FlashFFTConv and the worker that computes for it say to each other, over a port of the object's own. */
import type { Instructions } from "../backend/cpu/features.ts";
import type { Dtype } from "../dtype.ts";
import type { ErrorParts } from "../errors.ts";
import {
  BackendError,
  FlashFFTConvError,
  InvalidArgumentError,
  UnsupportedError,
} from "../errors.ts";
import type { Explanation } from "./explain.ts";
import type { FlashFFTConvOptions, MemoryUse, WarmUp } from "./options.ts";
import type { OperandRows, Request } from "./runner.ts";

/** Samples on their way: half precision as its bits. */
export type Wire = Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;

/** Results of a call: in the order of the request's rows that come out, dk, dskip. */
export type WireResults = readonly (Wire | undefined)[];

/** The first message, to the worker itself: make an object that is spoken to through a port. */
export interface Opening {
  readonly flashfftconv: Omit<FlashFFTConvOptions, "worker" | "device">;
  readonly call: string;
  readonly port: MessagePort;
}

/** A row tensor of a call: samples in, or how many come out. */
export interface WireRows extends Omit<OperandRows, "data"> {
  readonly data: Wire | undefined;
  readonly size: number;
  readonly wide: boolean;
}

/** A call's request. */
export interface WireRequest extends Pick<Request, "shape" | "gates" | "name"> {
  readonly rows: readonly WireRows[];
  readonly skip: Wire | undefined;
  /** The number of a prepared kernel, or taps. */
  readonly kernel: number | WireTaps;
}

/** Taps (H, K). */
interface WireTaps {
  readonly taps: Wire;
  readonly dtype: Dtype;
}

/** What the page asks for. */
export type Ask =
  | { readonly kind: "forward"; readonly request: WireRequest }
  | { readonly kind: "backward"; readonly request: WireRequest; readonly taps: number }
  | {
      readonly kind: "prepare";
      readonly kernel: number;
      readonly taps: WireTaps;
      readonly channels: number;
      readonly name: string;
    }
  | { readonly kind: "free"; readonly kernel: number }
  | { readonly kind: "warmUp"; readonly calls: WarmUp; readonly name: string }
  /** Nothing more comes. */
  | { readonly kind: "leave" };

/** What an object says of itself after each call. */
export interface State {
  readonly threads: number;
  readonly instructions: Instructions | "wgsl";
  readonly memory: MemoryUse;
  /** Its explanation without the method, and what that prints, where they are new. */
  readonly explained?: { readonly fields: Omit<Explanation, "toString">; readonly text: string };
}

/** The worker's answer to call number `id`. */
export type Answer = { readonly id: number; readonly state?: State } & (
  | { readonly results: WireResults }
  | { readonly error: WireError }
);

/** An error on its way. */
interface WireError {
  readonly name: string;
  readonly message: string;
  readonly parts: ErrorParts | undefined;
}

export function toWire(error: unknown): WireError {
  const { name = "Error", message = String(error) } = Object(error) as Partial<Error>;
  return { name, message, parts: error instanceof FlashFFTConvError ? error.parts : undefined };
}

const classes = { InvalidArgumentError, UnsupportedError, BackendError } as const;

export function fromWire({ name, message, parts }: WireError): Error {
  const Kind = classes[name as keyof typeof classes] ?? BackendError;
  return parts ? new Kind(parts) : new Error(message);
}
