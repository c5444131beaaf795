/** What stands behind the filters of a short convolution, forward and backward, as arithmetic on their outputs z. */
import { silu, siluSlope } from "../../../math/activation.ts";
import type { Graph, Node } from "../../../math/expr.ts";
import type { Form } from "../../../plan/depthwise.ts";

/** The filters' outputs by branch; one that is not asked for is not computed. */
export type FormOutputs = (branch: number) => Node;

/** A form's arithmetic. */
export interface FormCode {
  /** What is stored, by output. */
  readonly forward: (g: Graph, z: FormOutputs) => Node[];
  /**
   * Gradients with respect to z by branch, from the upstream gradients d by output. Output o's gradient comes in branch
   * o's window; undefined where it may stay there, and no function at all where all may.
   */
  readonly backward?: (g: Graph, z: FormOutputs, d: readonly Node[]) => (Node | undefined)[];
}

/** Branches of the projections: what multiplies v, what gates the long convolution, v. */
export const forms: Readonly<Record<Form, FormCode>> = {
  linear: { forward: (_, z) => [z(0)] },
  silu: {
    forward: (g, z) => [silu(g, z(0))],
    backward: (g, z, d) => [g.mul(d[0]!, siluSlope(g, z(0)))],
  },
  projections: {
    forward: (g, z) => [g.mul(z(0), z(2)), z(1)],
    backward: (g, z, d) => [g.mul(d[0]!, z(2)), undefined, g.mul(d[0]!, z(0))],
  },
};
