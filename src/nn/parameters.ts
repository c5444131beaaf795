/** Parameters of models: nested plain objects whose leaves are weights, and where all of them lie in one arena. */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { TensorShape } from "./tensor.ts";
import { sizeOf } from "./tensor.ts";

/** The numbers of one parameter. */
export interface Weight {
  readonly shape: TensorShape;
  /** Row-major, as many as the shape has. */
  readonly data: Float32Array;
  /** Whether training leaves it as it is: it has no gradient. */
  readonly frozen?: boolean;
}

/** A tree of weights: what a model's parameters look like before they are tensors. */
export type Weights =
  | Weight
  | readonly Weights[]
  | { readonly [name: string]: Weights | undefined };

/** The same tree with `Leaf` in place of weights. */
export type Mapped<Tree, Leaf> = Tree extends Weight
  ? Leaf
  : Tree extends readonly (infer Item)[]
    ? readonly Mapped<Item, Leaf>[]
    : { readonly [Name in keyof Tree]: Mapped<Tree[Name], Leaf> };

/** Whether a node of a tree is a weight. */
export function isWeight(node: unknown): node is Weight {
  const { shape, data } = Object(node);
  return Array.isArray(shape) && data instanceof Float32Array;
}

/** The tree with what `leaf` makes of each weight; paths are as in `blocks.3.norm.weight`. */
export function mapWeights<Tree extends Weights, Leaf>(
  tree: Tree,
  leaf: (weight: Weight, path: string) => Leaf,
  path = "",
): Mapped<Tree, Leaf> {
  const map = (node: Weights | undefined, at: string): unknown => {
    if (node === undefined) return undefined;
    if (isWeight(node)) return leaf(node, at);
    const below = (name: string | number): string => (at ? `${at}.${name}` : String(name));
    if (Array.isArray(node)) return node.map((item, i) => map(item, below(i)));
    return Object.fromEntries(
      Object.entries(node).map(([name, item]) => [name, map(item, below(name))]),
    );
  };
  return map(tree, path) as Mapped<Tree, Leaf>;
}

/** All weights by their paths, in the order of the tree. One that the tree has in two places, as a tied head, is listed once. */
export function listWeights(tree: Weights): ReadonlyMap<string, Weight> {
  const found = new Map<string, Weight>();
  const seen = new Set<Weight>();
  mapWeights(tree, (weight, path) => {
    if (seen.has(weight)) return;
    seen.add(weight);
    const size = sizeOf(weight.shape);
    if (weight.data.length !== size) {
      throw new InvalidArgumentError({
        call: path,
        requirement: `a weight of shape (${weight.shape.join(", ")}) needs ${show(size)} numbers`,
        value: show(weight.data.length),
        remedy: "Check shape and data.",
      });
    }
    found.set(path, weight);
  });
  return found;
}

/** Parameters begin at multiples of so many numbers in their arena: rows of the optimiser, whose rates may differ. */
export const arenaRow = 256;

/** Where a parameter lies. */
export interface ArenaPlace {
  /** Numbers before it. */
  readonly offset: number;
  readonly weight: Weight;
}

/** The places of all parameters, one after another. */
export function layOutArena(tree: Weights): {
  readonly places: ReadonlyMap<string, ArenaPlace>;
  readonly size: number;
} {
  const places = new Map<string, ArenaPlace>();
  let size = 0;
  for (const [path, weight] of listWeights(tree)) {
    places.set(path, { offset: size, weight });
    size += Math.ceil(weight.data.length / arenaRow) * arenaRow;
  }
  return { places, size };
}
