/**
 * AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the arenas of a model: one program, which nothing is read back from. It divides
 * gradients by the loss scale, clips their norm, moves parameters and averages, writes float16 copies, clears the gradients, and
 * adapts the loss scale. A step whose gradient is not finite changes nothing else.
 */
import { integer, known } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { Node } from "../math/expr.ts";
import { RowBuilder } from "../math/row-program.ts";
import type { Model } from "../nn/model.ts";
import { wholeArena } from "../nn/model.ts";
import { lossScale } from "../nn/operations/loss.ts";
import { Rows } from "../nn/operations/rows.ts";
import { arenaRow } from "../nn/parameters.ts";
import { ModelProgram } from "../nn/program.ts";
import type { Tape, TapeTensor } from "../nn/tape.ts";
import type { ArenaName, TensorShape } from "../nn/tensor.ts";
import { show } from "../show.ts";

/** What parameters of one kind have of their own. */
export interface ParameterGroup {
  /** Multiplies the learning rate; 1 by default, 0 leaves a parameter as it is. */
  readonly rate?: number;
  /** Weight decay; the optimiser's by default for matrices, 0 for vectors. */
  readonly decay?: number;
}

/** Numbers of an optimiser. */
export interface AdamWOptions {
  /** Of the averages of gradients and of their squares; [0.9, 0.999] by default. */
  readonly betas?: readonly [number, number];
  /** Added to the root of the second average; 1e-8 by default. */
  readonly eps?: number;
  /** Weight decay of matrices; 0.01 by default. */
  readonly decay?: number;
  /** The highest norm of all gradients together; 1 by default, Infinity for any. */
  readonly clip?: number;
  /** What a parameter has of its own, by its path and shape. */
  readonly groups?: (path: string, shape: TensorShape) => ParameterGroup | undefined;
  /** Keep an exponential average of the weights, which holds this share of its own at each step: 0.999, say. */
  readonly average?: number;
  /** Gradients of so many micro-batches are added up before a step: it takes their mean; 1 by default. */
  readonly microBatches?: number;
  /** Good steps after which the loss scale doubles; 2,000 by default. Only storage in float16 has a scale other than 1. */
  readonly growthInterval?: number;
}

/** What stays on the machine from step to step, and what a step computes once for all parameters. */
const fields = [
  // 1 − βᵗ of both averages.
  "correction1",
  "correction2",
  // Good steps since the loss scale grew.
  "good",
  // The first step whose gradient was not finite under the lowest loss scale: none moves the parameters after it. 0: none.
  "halted",
  // Sums over the steps since the last report.
  "loss",
  "counted",
  "skipped",
  // Of this step: its gradient's norm, the loss scale after it, 1 where it moves the parameters, and what they are moved by.
  "norm",
  "scale",
  "apply",
  "factor",
  "stepSize",
  "root",
  "rate",
] as const;
type Field = (typeof fields)[number];

/** What the device knows of the steps so far. */
export type OptimiserFacts = Readonly<Record<Field, number>>;

/** The name of its state. */
const stateName = "optimiser";

/** Losses of micro-batches, until the optimiser takes them. */
const lossSum = "loss sum";

/** Scales that float16 gradients begin with, and have at most. */
const scales = { float32: { first: 1, most: 1 }, float16: { first: 2 ** 16, most: 2 ** 24 } };

/** A sum of squares above this counts as infinite; NaN is not below it. */
const finite = 1e38;

/** Add a loss to a number that stays on the machine. */
export function addLoss(tape: Tape, loss: TapeTensor, name: string = lossSum): void {
  const rows = new Rows(tape, { rows: 1, columns: 1 });
  rows.storeRow(tape.state(name), rows.scalar(loss), true);
  rows.run();
}

/** The optimiser of one model. */
export class AdamW<M = unknown> {
  readonly #model: Model<M>;
  readonly #program: ModelProgram<M>;

  private constructor(model: Model<M>, program: ModelProgram<M>) {
    this.#model = model;
    this.#program = program;
  }

  /**
   * Make arenas and program. Programs that train are compiled first: they say whether there are copies in float16.
   * @throws InvalidArgumentError for numbers out of range.
   */
  static async create<M>(model: Model<M>, options: AdamWOptions = {}): Promise<AdamW<M>> {
    const call = "AdamW.create";
    const checked = check(options, call);
    const arenas: ArenaName[] = ["parameter", "gradient", "moment", "square"];
    if (checked.average !== undefined) arenas.push("average");
    const fresh = !model.arenas.includes("average");
    for (const name of arenas) await model.arena(name, call);
    if (checked.average !== undefined && fresh) await model.write(await model.read(), "average");
    if (model.arenas.includes("half")) arenas.push("half");
    const { first } = scales[model.machine.storage];
    const program = await ModelProgram.compile(
      model,
      { settings: { shape: [3], storage: "float32" } },
      (_, { settings }, tape) => {
        trace(tape, settings, arenas, model.size / arenaRow, checked);
        return {};
      },
      {},
      call,
    );
    model.writeState("loss scale", Float32Array.of(first));
    model.writeState("optimiser groups", groupsOf(model, checked));
    return new AdamW(model, program);
  }

  /**
   * One step with the gradients that are there.
   * @param step its number, from 1 on.
   * @param fresh whether sums for reports begin anew with it.
   */
  step(step: number, rate: number, fresh: boolean): void | Promise<void> {
    this.#program.write("settings", Float32Array.of(rate, Number(fresh), step));
    return this.#program.run();
  }

  /** What there is to know after the steps so far. It may be awaited while others run. */
  async facts(): Promise<OptimiserFacts> {
    const values = await this.#model.readState(stateName);
    return Object.fromEntries(fields.map((name, i) => [name, values[i]!])) as OptimiserFacts;
  }

  /** The names of its states, which checkpoints keep. */
  static readonly states: readonly string[] = [stateName, lossSum, "loss scale"];

  dispose(): void {
    this.#program.dispose();
  }
}

type Checked = Required<Omit<AdamWOptions, "average">> & Pick<AdamWOptions, "average">;

function check(options: AdamWOptions, call: string): Checked {
  const names = ["betas", "eps", "decay", "clip", "groups", "average", "microBatches"];
  known(options, [...names, "growthInterval"], call);
  const { betas = [0.9, 0.999], eps = 1e-8, decay = 0.01, clip = 1, average } = options;
  const { microBatches = 1, growthInterval = 2000, groups = () => undefined } = options;
  integer(call, "microBatches", microBatches, 1, 2 ** 20);
  integer(call, "growthInterval", growthInterval, 1, 2 ** 24);
  const shares = average === undefined ? betas : [...betas, average];
  const rule = (holds: boolean, requirement: string, value: unknown): void => {
    if (holds) return;
    const remedy = "Correct the options of the optimiser.";
    throw new InvalidArgumentError({ call, requirement, value: show(value), remedy });
  };
  rule(betas.length === 2, "betas must be two numbers", betas);
  rule(
    shares.every((b) => b >= 0 && b < 1),
    "betas and average must be from 0 to below 1",
    shares,
  );
  rule(eps > 0 && eps < 1, "eps must be above 0 and below 1", eps);
  rule(decay >= 0 && decay < Number.POSITIVE_INFINITY, "decay must be 0 or more", decay);
  rule(clip > 0, "clip must be above 0", clip);
  return {
    ...{ betas, eps, decay, clip, groups, microBatches, growthInterval },
    ...(average !== undefined && { average }),
  };
}

/** The rate's factor of each row of the arenas, then the decay of each. */
function groupsOf<M>(model: Model<M>, { groups, decay: usual }: Checked): Float32Array {
  const rows = model.size / arenaRow;
  const both = new Float32Array(2 * rows);
  for (const [path, { offset, weight }] of model.places) {
    const { shape, data } = weight;
    const own = weight.frozen ? { rate: 0 } : (groups(path, shape) ?? {});
    const { rate = 1, decay = shape.length > 1 ? usual : 0 } = own;
    if (!(rate >= 0 && decay >= 0 && rate + decay < Number.POSITIVE_INFINITY)) {
      throw new InvalidArgumentError({
        call: "AdamW.create",
        requirement: `rate and decay of ${path} must be 0 or more`,
        value: show({ rate, decay }),
        remedy: "Correct what groups returns for it.",
      });
    }
    const [from, to] = [offset / arenaRow, Math.ceil((offset + data.length) / arenaRow)];
    both.fill(rate, from, to).fill(decay, rows + from, rows + to);
  }
  return both;
}

/** All of a step: the norm; one number each for all parameters; these kept; the parameters. */
function trace(
  tape: Tape,
  settings: TapeTensor,
  arenas: readonly ArenaName[],
  rows: number,
  options: Checked,
): void {
  const arena = (name: ArenaName): TapeTensor => {
    const storage = name === "half" ? "float16" : "float32";
    return tape.outside([rows, arenaRow], storage, wholeArena, name);
  };
  const norm = tape.tensor([], "float32");
  const squares = new Rows(tape, { rows, columns: arenaRow });
  const unit = squares.g.constant(1 / options.microBatches);
  const share = squares.g.div(unit, squares.scalar(lossScale(tape)));
  const value = squares.g.mul(squares.cell(arena("gradient")), share);
  squares.total(norm, squares.along.sum(squares.g.mul(value, value)));
  squares.run();

  const next = decide(tape, settings, norm, options);

  const kept = new Rows(tape, { rows: 1, columns: fields.length });
  kept.store(tape.state(stateName, [fields.length]), kept.cell(next));
  kept.run();
  const begun = new Rows(tape, { rows: 1, columns: 1 });
  begun.storeRow(lossScale(tape), begun.scalar(next, fields.indexOf("scale")));
  begun.storeRow(tape.state(lossSum), begun.g.constant(0));
  begun.run();

  update(tape, next, new Map(arenas.map((name) => [name, arena(name)])), rows, options);
}

/** The numbers of `fields` after this step. */
function decide(
  tape: Tape,
  settings: TapeTensor,
  squares: TapeTensor,
  options: Checked,
): TapeTensor {
  const { microBatches, clip, growthInterval } = options;
  const { most } = scales[tape.storage];
  const next = tape.tensor([fields.length], "float32");
  const state = tape.state(stateName, [fields.length]);
  const reads = { settings, state, squares, scale: lossScale(tape), losses: tape.state(lossSum) };
  const b = new RowBuilder();
  const { g } = b;
  const read = (name: keyof typeof reads, offset = 0): Node =>
    b.input({ name, kind: "scalar", dtype: "float32", offset });
  const was = (name: Field): Node => read("state", fields.indexOf(name));
  const [zero, one] = [g.constant(0), g.constant(1)];
  const [rate, fresh, step] = [read("settings"), read("settings", 1), read("settings", 2)];
  const [square, scale] = [read("squares"), read("scale")];
  const sound = g.select(g.sub(g.constant(finite), square), one, zero);
  const apply = g.select(was("halted"), zero, sound);
  const ifApplied = (then: Node, otherwise: Node): Node => g.select(apply, then, otherwise);
  const lowest = g.select(g.sub(scale, one), zero, one);
  const halts = g.select(sound, zero, g.select(lowest, step, zero));
  const halted = g.select(was("halted"), was("halted"), halts);
  const grown = g.add(was("good"), one);
  const grows = g.sub(grown, g.constant(growthInterval - 0.5));
  const doubled = g.min(g.mul(scale, g.constant(2)), g.constant(most));
  const halved = g.max(g.mul(scale, g.constant(0.5)), one);
  const correction = (name: "correction1" | "correction2", beta: number): Node => {
    // 1 − βᵗ from 1 − βᵗ⁻¹: subtracting powers instead would lose 5 digits of the first steps.
    const after = g.fma(g.constant(beta), was(name), g.constant(1 - beta));
    return ifApplied(after, was(name));
  };
  const sum = (name: Field, more: Node): Node => g.add(g.select(fresh, zero, was(name)), more);
  const norm = g.sqrt(square);
  const clipped = g.min(one, g.div(g.constant(clip), g.add(norm, g.constant(1e-6))));
  const [correction1, correction2] = options.betas.map((beta, i) =>
    correction(i === 0 ? "correction1" : "correction2", beta),
  ) as [Node, Node];
  const meanLoss = g.mul(read("losses"), g.constant(1 / microBatches));
  const values: Readonly<Record<Field, Node>> = {
    ...{ correction1, correction2, halted, norm, rate, apply },
    good: ifApplied(g.select(grows, zero, grown), zero),
    loss: sum("loss", ifApplied(meanLoss, zero)),
    counted: sum("counted", apply),
    skipped: sum("skipped", g.sub(one, apply)),
    scale: ifApplied(g.select(grows, doubled, scale), g.select(halted, scale, halved)),
    factor: g.mul(
      Number.isFinite(clip) ? clipped : one,
      g.div(g.constant(1 / microBatches), scale),
    ),
    stepSize: g.div(rate, correction1),
    root: g.sqrt(correction2),
  };
  // One result of as many columns: the first whose number is not below the cell's.
  const column = b.columnIndex();
  const value = fields.reduceRight(
    (rest, name, i) => g.select(g.sub(g.constant(i + 0.5), column), values[name], rest),
    zero,
  );
  b.store({ name: "next", kind: "cell", dtype: "float32" }, value);
  const shape = { rows: 1, columns: fields.length };
  tape.step({ kind: "rows", program: b.finish(), shape }, reads, { next });
  return next;
}

/** Parameters and averages, each in its place. */
function update(
  tape: Tape,
  next: TapeTensor,
  arenas: ReadonlyMap<ArenaName, TapeTensor>,
  rows: number,
  { betas, eps, average }: Checked,
): void {
  const b = new RowBuilder();
  const { g } = b;
  const cell = (name: ArenaName) =>
    ({ name, kind: "cell", dtype: name === "half" ? "float16" : "float32" }) as const;
  const rateOrDecay = (offset: number): Node =>
    b.input({ name: "own", kind: "row", dtype: "float32", offset });
  const common = (name: Field): Node =>
    b.input({ name: "next", kind: "scalar", dtype: "float32", offset: fields.indexOf(name) });
  const [p, m, v] = [b.input(cell("parameter")), b.input(cell("moment")), b.input(cell("square"))];
  const d = g.mul(b.input(cell("gradient")), common("factor"));
  const moment = g.fma(g.constant(1 - betas[0]), g.sub(d, m), m);
  const square = g.fma(g.mul(d, g.constant(1 - betas[1])), d, g.mul(v, g.constant(betas[1])));
  const spread = g.add(g.div(g.sqrt(square), common("root")), g.constant(eps));
  const stepped = g.mul(g.mul(common("stepSize"), rateOrDecay(0)), g.div(moment, spread));
  const decay = g.mul(g.mul(common("rate"), rateOrDecay(0)), rateOrDecay(rows));
  const moved = g.sub(g.fnma(p, decay, p), stepped);
  const put = (name: ArenaName, after: Node, before: Node): Node => {
    const value = g.select(common("apply"), after, before);
    b.store(cell(name), value);
    return value;
  };
  const parameter = put("parameter", moved, p);
  put("moment", moment, m);
  put("square", square, v);
  b.store(cell("gradient"), g.constant(0));
  if (arenas.has("half")) b.store(cell("half"), parameter);
  if (average !== undefined) {
    const mean = b.input(cell("average"));
    put("average", g.fma(g.constant(1 - average), g.sub(moved, mean), mean), mean);
  }
  const all = Object.fromEntries(arenas);
  const { half: _, ...read } = all;
  const own = tape.state("optimiser groups", [2 * rows]);
  const shape = { rows, columns: arenaRow };
  tape.step({ kind: "rows", program: b.finish(), shape }, { ...read, own, next }, all);
}
