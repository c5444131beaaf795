/** Row programs on tensors: how an operation says its arithmetic once, for every backend. */
import type { Node } from "../../math/expr.ts";
import type { RowOperand, RowShape } from "../../math/row-program.ts";
import { RowBuilder } from "../../math/row-program.ts";
import type { Tape, TapeTensor } from "../tape.ts";

/** How a tensor meets the cells of a row program, where that is not told by its kind alone. */
type Place = Omit<RowOperand, "name" | "kind" | "dtype">;

/**
 * A row program under construction, with the tensors of its operands. Operations of your own are made of it: read tensors, combine
 * the values as expressions of `g`, store the results, `run`.
 * @example
 * const rows = new Rows(x.tape, { rows: x.rows, columns: x.width });
 * const y = x.tape.tensor(x.shape);
 * rows.store(y, rows.g.mul(rows.cell(x), rows.column(scale)));
 * rows.run();
 */
export class Rows {
  readonly #tape: Tape;
  readonly #shape: RowShape;
  readonly #builder = new RowBuilder();
  readonly #reads: Record<string, TapeTensor> = {};
  readonly #writes: Record<string, TapeTensor> = {};
  #count = 0;

  constructor(tape: Tape, shape: RowShape) {
    this.#tape = tape;
    this.#shape = shape;
  }

  /** Arithmetic on values. */
  get g(): RowBuilder["g"] {
    return this.#builder.g;
  }

  /** Sums and maxima along the row, indices, random numbers. */
  get along(): RowBuilder {
    return this.#builder;
  }

  #operand(tensor: TapeTensor, kind: RowOperand["kind"], place: Place, prefix: string): RowOperand {
    return { name: `${prefix}${this.#count++}`, kind, dtype: tensor.storage, ...place };
  }

  #read(tensor: TapeTensor, kind: RowOperand["kind"], place: Place = {}): Node {
    const operand = this.#operand(tensor, kind, place, "x");
    this.#reads[operand.name] = tensor;
    return this.#builder.input(operand);
  }

  /** x[r, c] of a tensor of the program's rows and columns, or of part of a wider one. */
  cell(tensor: TapeTensor, place?: Place): Node {
    return this.#read(tensor, "cell", place);
  }

  /** x[c]: the same for all rows. */
  column(tensor: TapeTensor): Node {
    return this.#read(tensor, "column");
  }

  /** x[offset + r]: the same for all columns. */
  row(tensor: TapeTensor, offset = 0): Node {
    return this.#read(tensor, "row", offset ? { offset } : {});
  }

  /** One number: the first of a tensor, or another. All numbers of one tensor are one buffer. */
  scalar(tensor: TapeTensor, offset = 0): Node {
    const [known] = Object.entries(this.#reads).find(([, t]) => t === tensor) ?? [];
    const place = offset ? { offset } : {};
    if (known === undefined) return this.#read(tensor, "scalar", place);
    const operand = { name: known, kind: "scalar", dtype: tensor.storage, ...place } as const;
    return this.#builder.input(operand);
  }

  #write(
    tensor: TapeTensor,
    kind: RowOperand["kind"],
    place: Place,
    accumulate: boolean,
    store: (operand: RowOperand) => void,
  ): void {
    const operand = this.#operand(tensor, kind, place, "y");
    this.#writes[operand.name] = tensor;
    if (accumulate) this.#reads[operand.name] = tensor;
    store(operand);
  }

  /** Store a value at every cell; `accumulate` adds it to what is there. */
  store(tensor: TapeTensor, value: Node, place: Place = {}, accumulate = false): void {
    this.#write(tensor, "cell", place, accumulate, (o) =>
      this.#builder.store(o, value, accumulate),
    );
  }

  /** Store a number of each row. */
  storeRow(tensor: TapeTensor, value: Node, accumulate = false): void {
    this.#write(tensor, "row", {}, accumulate, (o) => this.#builder.store(o, value, accumulate));
  }

  /** Store the sums down the columns. */
  columnSum(tensor: TapeTensor, value: Node, accumulate = false): void {
    this.#write(tensor, "column", {}, accumulate, (o) =>
      this.#builder.columnSum(o, value, accumulate),
    );
  }

  /** Store the sum of a number of each row. */
  total(tensor: TapeTensor, value: Node, accumulate = false): void {
    this.#write(tensor, "scalar", {}, accumulate, (o) => this.#builder.total(o, value, accumulate));
  }

  /** Compute a tensor in place: values of its cells, stored where they were read. */
  inPlace(tensor: TapeTensor, value: (cell: Node) => Node): void {
    const operand = this.#operand(tensor, "cell", {}, "z");
    this.#reads[operand.name] = tensor;
    this.#writes[operand.name] = tensor;
    this.#builder.store(operand, value(this.#builder.input(operand)));
  }

  /** Add the step to the tape. */
  run(): void {
    const program = this.#builder.finish();
    this.#tape.step({ kind: "rows", program, shape: this.#shape }, this.#reads, this.#writes);
  }
}

/** Rows over all cells of a tensor. */
export function rowsOver(tensor: TapeTensor): Rows {
  return new Rows(tensor.tape, { rows: tensor.rows, columns: tensor.width });
}
