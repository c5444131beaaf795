/** Products as programs: packing, tiles of sums over panels, and what becomes of the sums. */
import { activations } from "../../../math/activation.ts";
import { Graph } from "../../../math/expr.ts";
import type { RegisterTile } from "../../../plan/cpu/product.ts";
import { tileBytes, tileWidth } from "../../../plan/cpu/product.ts";
import type { ProductEpilogue, ProductProblem } from "../../../plan/product.ts";
import type { Int, KernelFunction, Statement, Store } from "../ir.ts";
import { call, loop, plus, times } from "../ir.ts";
import type { ProgramSource } from "../program-source.ts";
import { packAcross, packBeside } from "./pack.ts";
import { dotFunction, load, range, set, store, tileFunction } from "./tile.ts";

/** Which of the panels that are summed: all in one, or in turn; or rows of A times B as it lies. */
const turns = ["Only", "First", "Inner", "Last", "Thin"] as const;
type Turn = (typeof turns)[number];
type Name = `pack${"Rows" | "Columns"}${"Beside" | "Across"}` | `multiply${Turn}`;

/** Functions of a program of products. */
export type ProductFunctions = Readonly<Record<Name, (...args: number[]) => void>>;

/** Matrices that lie as C does, and the bias: addresses, and in {name}p where the next row of a tile begins. */
const alike = ["c", "residual", "z", "sum"];
const operands = [...alike, "bias"];

/** Sums at t to `rows` rows of C, `columns` of each. */
function finish(
  { lanes, vectors }: RegisterTile,
  { bias, activation, keeps, slope, residual, accumulate }: ProductEpilogue,
  columns: number,
  rows: Int,
): Statement {
  const g = new Graph();
  const stores = range(Math.ceil(columns / lanes)).flatMap((v): Store[] => {
    const of = (name: string) => load(g, `${name}p`, lanes * v, lanes);
    const last = Math.min(lanes, columns - lanes * v);
    let value = of("t");
    if (bias === "columns") value = g.add(value, of("bias"));
    if (bias === "rows") value = g.add(value, load(g, "biasp", 0, lanes, "splat"));
    const kept = keeps ? [store("sump", lanes * v, value, last)] : [];
    if (activation) value = activations[activation].value(g, value);
    if (slope) value = g.mul(value, activations[slope].slope(g, of("z")));
    if (residual) value = g.add(value, of("residual"));
    if (accumulate) value = g.add(value, of("c"));
    return [...kept, store("cp", lanes * v, value, last)];
  });
  const body: Statement[] = [
    { op: "block", stores },
    ...alike.map((name) => set(`${name}p`, plus(`${name}p`, "stride"))),
    set("biasp", plus("biasp", bias === "rows" ? 4 : 0)),
  ];
  return loop("i", 0, rows, 1, body, [{ name: "tp", from: "t", step: 4 * vectors * lanes }]);
}

/** Sums of packed rows of A times a packed panel of B, tile by tile; cells of C where they are complete. */
function multiplyFunction(
  turn: Turn,
  tile: RegisterTile,
  epilogue: ProductEpilogue,
  tail: number,
): KernelFunction {
  const thin = turn === "Thin";
  const [height, width] = [thin ? 1 : tile.rows, tileWidth(tile)];
  const sums = turn === "Only" || turn === "First" ? "tileOf" : "addTile";
  const rows: Int = { op: "min", a: height, b: plus("rows", times("row", -1)) };
  const alongRows = epilogue.bias === "rows" ? ["bias"] : [];
  const tiles = (columns: number, end: Int): Statement => {
    const each = [
      call(thin ? "dot" : sums, "ap", "b", "t", "depth", ...(thin ? ["bStride", "bLast"] : [])),
      ...(turn === "First" || turn === "Inner" ? [] : [finish(tile, epilogue, columns, rows)]),
      set("ap", plus("ap", times("depth", 4 * height))),
      set("t", plus("t", thin || turn === "Only" ? 0 : tileBytes(tile))),
    ];
    const body = [
      set("ap", "a"),
      ...operands.map((name) =>
        set(`${name}p`, plus(name, alongRows.includes(name) ? 0 : times("column", 4))),
      ),
      loop("row", 0, "rows", height, each),
      set("b", plus("b", times(thin ? "bStride" : "depth", thin ? width : 4 * width))),
    ];
    return loop("column", "column", end, width, body, [], false);
  };
  const whole = times({ op: "div", a: "columns", by: width }, width);
  const shape = ["depth", "rows", "columns", "stride", "bStride", "bLast"];
  const parameters = ["a", "b", "t", ...shape, ...operands];
  const body = [
    set("column", 0),
    tiles(width, whole),
    ...(tail > 0 ? [tiles(tail, "columns")] : []),
  ];
  return { name: `multiply${turn}`, parameters, body, exported: true };
}

/** The program of a product for a tile: the same for all that end alike. */
export function productSource({ n, epilogue }: ProductProblem, tile: RegisterTile): ProgramSource {
  const { bias, activation, slope, keeps, residual, accumulate } = epilogue;
  const { rows, vectors, lanes } = tile;
  const tail = n % tileWidth(tile);
  const ends = [bias, activation, slope, keeps, residual, accumulate].map((each) => each || "");
  const build = () => ({
    lanes,
    functions: [
      packBeside("RowsBeside", rows, lanes),
      packAcross("RowsAcross", rows, lanes),
      packBeside("ColumnsBeside", tileWidth(tile), lanes),
      packAcross("ColumnsAcross", tileWidth(tile), lanes),
      tileFunction("tileOf", tile, false),
      tileFunction("addTile", tile, true),
      dotFunction(tile),
      ...turns.map((turn) => multiplyFunction(turn, tile, epilogue, tail)),
    ],
  });
  return { key: `product ${rows} ${vectors} ${lanes} ${tail} ${ends.join(" ")}`, build };
}
