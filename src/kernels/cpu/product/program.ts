/** Products as programs: packing, tiles of sums over panels, and what becomes of sums before they are stored. */
import { activations } from "../../../math/activation.ts";
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { CpuProductTile } from "../../../plan/cpu/product.ts";
import { productTile, tileBytes, tileWidth } from "../../../plan/cpu/product.ts";
import type { ProductEpilogue, ProductProblem } from "../../../plan/product.ts";
import type { Int, KernelFunction, KernelModule, Statement, Store } from "../ir.ts";
import { call, loop, plus, times } from "../ir.ts";
import type { ProgramSource } from "../program-source.ts";
import { packAcross, packBeside } from "./pack.ts";
import { tileFunction } from "./tile.ts";

type Pack = (
  source: number,
  stride: number,
  last: number,
  to: number,
  count: number,
  depth: number,
) => void;

/** Sums of a block of A's rows times a panel of B: addresses of both and of the tiles' sums; steps of k; rows and columns of C; and where C and what it is made of lie. */
type Multiply = (
  a: number,
  b: number,
  t: number,
  depth: number,
  rows: number,
  columns: number,
  ...cells: readonly number[]
) => void;

/** Functions of a program of products. */
export interface ProductFunctions {
  readonly packRowsBeside: Pack;
  readonly packRowsAcross: Pack;
  readonly packColumnsBeside: Pack;
  readonly packColumnsAcross: Pack;
  /** By the place of the panel among those that are summed. */
  readonly multiplyOnly: Multiply;
  readonly multiplyFirst: Multiply;
  readonly multiplyInner: Multiply;
  readonly multiplyLast: Multiply;
}

/** Matrices that lie as C does. */
const alike = ["c", "residual", "z", "sum"] as const;
/** Bytes from row to row of C, and addresses in it and in what goes with it. */
const cellParameters = ["stride", ...alike, "bias"];

/** finish{name}(t, rows, …cellParameters): a tile's sums to C, `columns` of them a row. */
function finishFunction(
  name: string,
  tile: CpuProductTile,
  { bias, activation, keeps, slope, residual, accumulate }: ProductEpilogue,
  columns: number,
): KernelFunction {
  const { lanes } = tile;
  const g = new Graph();
  const stores = Array.from({ length: Math.ceil(columns / lanes) }, (_, v): Store[] => {
    const at = (pointer: string) => ({ pointer, offset: 4 * lanes * v });
    const load = (pointer: string): Node => g.load(at(pointer), "float32", 0, lanes);
    const store = (pointer: string, value: Node): Store => ({
      at: at(pointer),
      ...{ format: "float32", value, first: 0, last: Math.min(lanes, columns - lanes * v) },
    });
    let value = load("t");
    if (bias === "columns") value = g.add(value, load("bias"));
    if (bias === "rows")
      value = g.add(value, g.load({ pointer: "bias", offset: 0 }, "splat", 0, lanes));
    const kept = keeps ? [store("sum", value)] : [];
    if (activation) value = activations[activation].value(g, value);
    if (slope) value = g.mul(value, activations[slope].slope(g, load("z")));
    if (residual) value = g.add(value, load("residual"));
    if (accumulate) value = g.add(value, load("c"));
    return [...kept, store("c", value)];
  });
  const uses = { c: true, residual, z: slope, sum: keeps };
  const used = alike.filter((each) => uses[each]);
  const advance = ([name, by]: readonly [string, Int]): Statement => ({
    op: "let",
    name,
    value: plus(name, by),
  });
  return {
    name: `finish${name}`,
    parameters: ["t", "rows", ...cellParameters],
    exported: false,
    body: [
      loop(
        "row",
        0,
        "rows",
        1,
        [
          { op: "block", stores: stores.flat() },
          ...used.map((each) => advance([each, "stride"])),
          ...(bias === "rows" ? [advance(["bias", 4])] : []),
        ],
        [{ name: "t", from: "t", step: 4 * tileWidth(tile) }],
      ),
    ],
  };
}

/** multiply{name}(a, b, t, depth, rows, columns, …cellParameters). */
function multiplyFunction(
  name: string,
  tile: CpuProductTile,
  tail: number,
  bias: ProductEpilogue["bias"],
): KernelFunction {
  const width = tileWidth(tile);
  const sums = name === "Only" || name === "First" ? "tileOf" : "addTile";
  const set = (variable: string, value: Int): Statement => ({ op: "let", name: variable, value });
  const advance = (variable: string, by: Int): Statement => set(variable, plus(variable, by));
  const columns = (finish: string, end: Int): Statement =>
    loop(
      "column",
      "column",
      end,
      width,
      [
        set("pa", "a"),
        set("at", times("column", 4)),
        loop("row", 0, "rows", tile.rows, [
          call(sums, "pa", "b", "t", "depth"),
          ...(name === "Only" || name === "Last"
            ? [
                call(
                  finish,
                  "t",
                  { op: "min", a: tile.rows, b: plus("rows", times("row", -1)) },
                  "stride",
                  ...alike.map((each) => plus(each, "at")),
                  bias === "rows"
                    ? plus("bias", times("row", 4))
                    : plus("bias", times("column", 4)),
                ),
              ]
            : []),
          advance("pa", times("depth", 4 * tile.rows)),
          advance("at", times("stride", tile.rows)),
          ...(name === "Only" ? [] : [advance("t", tileBytes(tile))]),
        ]),
        advance("b", times("depth", 4 * width)),
      ],
      [],
      false,
    );
  return {
    name: `multiply${name}`,
    parameters: ["a", "b", "t", "depth", "rows", "columns", ...cellParameters],
    exported: true,
    body: [
      set("column", 0),
      columns("finishTile", times({ op: "div", a: "columns", by: width }, width)),
      ...(tail > 0 ? [columns("finishTail", "columns")] : []),
    ],
  };
}

function buildProduct(epilogue: ProductEpilogue, tail: number, lanes: 1 | 4): KernelModule {
  const tile = productTile(lanes);
  const width = tileWidth(tile);
  const packs = (
    [
      ["Rows", tile.rows],
      ["Columns", width],
    ] as const
  ).flatMap(([name, size]) => [
    packBeside(`pack${name}Beside`, size, lanes),
    packAcross(`pack${name}Across`, size, lanes),
  ]);
  const functions = [
    ...packs,
    tileFunction("tileOf", tile, false),
    tileFunction("addTile", tile, true),
    finishFunction("Tile", tile, epilogue, width),
    ...(tail > 0 ? [finishFunction("Tail", tile, epilogue, tail)] : []),
    ...["Only", "First", "Inner", "Last"].map((name) =>
      multiplyFunction(name, tile, tail, epilogue.bias),
    ),
  ];
  return { lanes, functions };
}

/** The program of a product: the same for all of an epilogue whose rows end alike. */
export function productSource({ n, epilogue }: ProductProblem): ProgramSource {
  const { bias = "", activation = "", slope = "", ...flags } = epilogue;
  const words = [bias, activation, slope, flags.keeps, flags.residual, flags.accumulate];
  const tailOf = (lanes: 1 | 4): number => n % tileWidth(productTile(lanes));
  return {
    key: `product ${words.join(" ")} ${tailOf(1)} ${tailOf(4)}`,
    build: (lanes) => buildProduct(epilogue, tailOf(lanes), lanes),
  };
}
