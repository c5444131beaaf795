/** Products as programs: packing, tiles of sums over panels, and what becomes of the sums. */
import { activations } from "../../../math/activation.ts";
import type { Node } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { RegisterTile } from "../../../plan/cpu/product.ts";
import { tileBytes, tileWidth } from "../../../plan/cpu/product.ts";
import type { ProductEpilogue, ProductProblem } from "../../../plan/product.ts";
import type { Int, KernelFunction, KernelModule, Statement, Store } from "../ir.ts";
import { call, loop, plus, times } from "../ir.ts";
import type { ProgramSource } from "../program-source.ts";
import { packAcross, packBeside } from "./pack.ts";
import { dotFunction, range, set, tileFunction } from "./tile.ts";

type Operand = "Rows" | "Columns";
/** Which of the panels that are summed: all in one, or in turn; or rows of A times B as it lies. */
type Turn = "Only" | "First" | "Inner" | "Last" | "Thin";

/** Functions of a program of products. */
export type ProductFunctions = Readonly<
  Record<`pack${Operand}${"Beside" | "Across"}` | `multiply${Turn}`, (...args: number[]) => void>
>;

/** Matrices that lie as C does. */
const alike = ["c", "residual", "z", "sum"];

/** Sums at t to `rows` rows of C, `columns` of each; the pointers {name}p are at the first. */
function finish(
  { lanes, vectors }: RegisterTile,
  { bias, activation, keeps, slope, residual, accumulate }: ProductEpilogue,
  columns: number,
  rows: Int,
): Statement {
  const g = new Graph();
  const stores = range(Math.ceil(columns / lanes)).flatMap((v): Store[] => {
    const at = (name: string) => ({ pointer: `${name}p`, offset: 4 * lanes * v });
    const load = (name: string): Node => g.load(at(name), "float32", 0, lanes);
    const store = (name: string, value: Node): Store => ({
      ...{ at: at(name), format: "float32", value, first: 0 },
      last: Math.min(lanes, columns - lanes * v),
    });
    let value = load("t");
    if (bias === "columns") value = g.add(value, load("bias"));
    if (bias === "rows")
      value = g.add(value, g.load({ pointer: "biasp", offset: 0 }, "splat", 0, lanes));
    const kept = keeps ? [store("sum", value)] : [];
    if (activation) value = activations[activation].value(g, value);
    if (slope) value = g.mul(value, activations[slope].slope(g, load("z")));
    if (residual) value = g.add(value, load("residual"));
    if (accumulate) value = g.add(value, load("c"));
    return [...kept, store("c", value)];
  });
  const advance = [
    ...alike.map((name) => [name, "stride"] as const),
    ...(bias === "rows" ? [["bias", 4] as const] : []),
  ];
  const body: Statement[] = [
    { op: "block", stores },
    ...advance.map(([name, by]) => set(`${name}p`, plus(`${name}p`, by))),
  ];
  return loop("i", 0, rows, 1, body, [{ name: "tp", from: "t", step: 4 * vectors * lanes }]);
}

/** Sums of packed rows of A times a packed panel of B, tile by tile; a block of C where they are complete. */
function multiplyFunction(
  turn: Turn,
  tile: RegisterTile,
  epilogue: ProductEpilogue,
  tail: number,
): KernelFunction {
  const width = tileWidth(tile);
  const thin = turn === "Thin";
  const height = thin ? 1 : tile.rows;
  const complete = turn !== "First" && turn !== "Inner";
  const along = (name: string): boolean => name !== "bias" || epilogue.bias === "columns";
  const sums = thin
    ? call("dot", "ap", "b", "t", "depth", "bStride", "last")
    : call(turn === "Only" || turn === "First" ? "tileOf" : "addTile", "ap", "b", "t", "depth");
  const tiles = (columns: number, end: Int): Statement =>
    loop(
      "column",
      "column",
      end,
      width,
      [
        set("ap", "a"),
        ...[...alike, "bias"].map((name) =>
          set(`${name}p`, along(name) ? plus(name, times("column", 4)) : name),
        ),
        loop("row", 0, "rows", height, [
          sums,
          ...(complete
            ? [
                finish(tile, epilogue, columns, {
                  op: "min",
                  a: height,
                  b: plus("rows", times("row", -1)),
                }),
              ]
            : []),
          set("ap", plus("ap", thin ? "aStride" : times("depth", 4 * height))),
          ...(turn === "Only" || thin ? [] : [set("t", plus("t", tileBytes(tile)))]),
        ]),
        set("b", plus("b", thin ? times("bStride", width) : times("depth", 4 * width))),
      ],
      [],
      false,
    );
  return {
    name: `multiply${turn}`,
    parameters: [
      "a",
      "b",
      "t",
      "depth",
      "rows",
      "columns",
      "stride",
      ...alike,
      "bias",
      ...(thin ? ["aStride", "bStride", "last"] : []),
    ],
    exported: true,
    body: [
      set("column", 0),
      tiles(width, times({ op: "div", a: "columns", by: width }, width)),
      ...(tail > 0 ? [tiles(tail, "columns")] : []),
    ],
  };
}

function build(tile: RegisterTile, epilogue: ProductEpilogue, tail: number): KernelModule {
  const { rows, lanes } = tile;
  const sides: readonly (readonly [Operand, number])[] = [
    ["Rows", rows],
    ["Columns", tileWidth(tile)],
  ];
  const packs = sides.flatMap(([side, size]) => [
    packBeside(`${side}Beside`, size, lanes),
    packAcross(`${side}Across`, size, lanes),
  ]);
  const turns: readonly Turn[] = ["Only", "First", "Inner", "Last", "Thin"];
  return {
    lanes,
    functions: [
      ...packs,
      tileFunction("tileOf", tile, false),
      tileFunction("addTile", tile, true),
      dotFunction("dot", tile),
      ...turns.map((turn) => multiplyFunction(turn, tile, epilogue, tail)),
    ],
  };
}

/** The program of a product for a tile: the same for all that end alike. */
export function productSource({ n, epilogue }: ProductProblem, tile: RegisterTile): ProgramSource {
  const { bias, activation, slope, keeps, residual, accumulate } = epilogue;
  const tail = n % tileWidth(tile);
  const ends = [bias, activation, slope, keeps, residual, accumulate].map((each) => each || "");
  return {
    key: `product ${tile.rows} ${tile.vectors} ${tile.lanes} ${tail} ${ends.join(" ")}`,
    build: () => build(tile, epilogue, tail),
  };
}
