/** Types of what calls return: arrays of the kind that went in, or what the caller gave for them. */
import type { NewArray, SampleArray } from "../dtype.ts";
import type { GpuTensor, Tensor } from "./tensor.ts";

/** An array that was given with its shape. */
export interface Shaped<A> {
  /** The samples. */
  readonly data: A;
}

/** A new result for an operand: an array of its kind, or a buffer where it is in one. */
export type NewResult<U> = U extends SampleArray
  ? NewArray<U>
  : U extends Shaped<infer A extends SampleArray>
    ? NewArray<A>
    : GpuTensor;

/**
 * What comes back of a tensor that was given for a result: its array, or the buffer with its shape. `O` itself is no outcome, so
 * that it is never inferred from where a result goes.
 */
export type GivenResult<O> = O extends undefined
  ? never
  : O extends infer A extends SampleArray
    ? A
    : O extends Shaped<infer A extends SampleArray>
      ? A
      : GpuTensor;

/** A result of a call whose operand is `U` and whose `out` is `O`. */
export type ResultOf<U, O> = GivenResult<O> | (undefined extends O ? NewResult<U> : never);

/** What was given under some of the names of `out`. */
export type GivenAs<O, Name extends string> = O extends undefined
  ? never
  : GivenResult<O[Name & keyof O]>;

/** New gradients of weights: they are float32 whatever the dtype of operand `U`. */
export type NewWeights<U> = U extends Tensor ? NewArray<Float32Array> : GpuTensor;

/** `out` of options of type `P`. */
export type OutOf<P> = "out" extends keyof P ? P["out"] : undefined;

/** Never, for each name of `P` that `All` has not: a misspelt one is an error of types. */
export type NoOthers<P, All> = [Exclude<keyof P, keyof All>] extends [never]
  ? unknown
  : string extends keyof P
    ? unknown
    : { readonly [N in Exclude<keyof P, keyof All>]: never };

/** Options of type `P`: they have no names but those of `All`, and their `out` has none but those of `Out`. */
export type KnownOptions<P, All, Out> = P &
  NoOthers<P, All> &
  (unknown extends NoOthers<OutOf<P>, Out> ? unknown : Record<"out", NoOthers<OutOf<P>, Out>>);

/** Gradients of type `G`, those among them not optional whose operands (of `Names`) options of type `P` certainly have. */
export type WithGradientsOf<P, Names extends string, G> = G & {
  readonly [N in Names as P extends { readonly [M in N]: NonNullable<unknown> }
    ? `d${N}` & keyof G
    : never]-?: NonNullable<G[`d${N}` & keyof G]>;
};
