/** What stands behind the filters of a short convolution, forward and backward, as arithmetic on their outputs z. */
import type { Activation } from "../../../math/activation.ts";
import { activations } from "../../../math/activation.ts";
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

const activated = ({ value, slope }: Activation): FormCode => ({
  forward: (g, z) => [value(g, z(0))],
  backward: (g, z, d) => [g.mul(d[0]!, slope(g, z(0)))],
});

/** The projections' branches: what multiplies v, what gates the long convolution, v. */
const others: Readonly<Record<Exclude<Form, keyof typeof activations>, FormCode>> = {
  linear: { forward: (_, z) => [z(0)] },
  projections: {
    forward: (g, z) => [g.mul(z(0), z(2)), z(1)],
    backward: (g, z, d) => [g.mul(d[0]!, z(2)), undefined, g.mul(d[0]!, z(0))],
  },
};

/** The arithmetic of a form. */
export const formCode = (form: Form): FormCode =>
  form === "linear" || form === "projections" ? others[form] : activated(activations[form]);
