/**
 * Generation with language models, exactly as forwards of the whole text would have it. The prompt is one forward, whose convolutions
 * run on behind it: what it adds to all later positions is known then. A token adds to that what the tokens since then do, with the
 * taps as they are: work that grows with their number. Once they are as many as there is room for, all tokens are a prompt again,
 * with twice the room.
 */
import { checkTokens } from "../data/tokens.ts";
import { InvalidArgumentError, UnsupportedError } from "../errors.ts";
import type { Node } from "../math/expr.ts";
import type { Model } from "../nn/model.ts";
import { embedding } from "../nn/operations/embedding.ts";
import { linear } from "../nn/operations/linear.ts";
import { longConv, projections } from "../nn/operations/long-convolution.ts";
import { layerNorm } from "../nn/operations/norm.ts";
import { Rows, rowsOver } from "../nn/operations/rows.ts";
import { toRows } from "../nn/operations/transpose.ts";
import type { Weight } from "../nn/parameters.ts";
import { ModelProgram } from "../nn/program.ts";
import type { Tape, TapeTensor } from "../nn/tape.ts";
import type { Storage } from "../nn/tensor.ts";
import { show } from "../show.ts";
import type { BlockParameters, HyenaConfig, Mixer } from "./hyena.ts";
import { blocks, taps } from "./hyena.ts";
import type { HyenaLMConfig, HyenaLMOf, HyenaLMParameters } from "./hyena-lm.ts";

/** A language model on a machine. */
export type HyenaModel<M = unknown> = Model<M, HyenaLMOf<Weight>>;

/** What of a block stays from token to token: T positions of a prompt's forward have room for T/2 tokens behind the prompt. */
interface Kept {
  /** (D, T/2): the taps of the lags that tokens behind the prompt have from each other. */
  readonly taps: TapeTensor;
  /** (T, D): the convolution of the prompt, at all positions. */
  readonly prompt: TapeTensor;
  /** (D, T/2 + 1) each, in turns: what is convolved of the tokens behind the prompt, the last first, behind a column of no use. */
  readonly seen: readonly [TapeTensor, TapeTensor];
  /** (3D) each, in turns: the projections of the tokens before, the last first. */
  readonly before: readonly [readonly TapeTensor[], readonly TapeTensor[]];
  /** (3D) each: the taps of the short filters, the oldest token's first. */
  readonly short: readonly TapeTensor[];
}

function kept(tape: Tape, p: BlockParameters["mixer"], c: HyenaConfig, positions: number): Kept {
  const { place } = tape;
  const room = Math.min(positions / 2, c.maxLength);
  const state = (name: string, shape: readonly number[], storage: Storage = "float32") =>
    tape.state(`${place} ${name} ${shape.join("×")}`, shape, storage);
  const count = p.short.weight.width;
  const lines = (name: string, most: number): readonly TapeTensor[] =>
    Array.from({ length: most }, (_, i) => state(`${name} ${i}`, [3 * c.width]));
  return {
    taps: state("taps", [c.width, room]),
    prompt: state("prompt", [positions, c.width], tape.storage),
    seen: [state("seen 0", [c.width, room + 1]), state("seen 1", [c.width, room + 1])],
    before: [lines("before 0", count - 1), lines("before 1", count - 1)],
    short: lines("short", count),
  };
}

/**
 * Hyena on T/2 positions, of which those up to `last` are a prompt and the others anything, which counts for nothing. What tokens will
 * need is kept: the convolution runs on to T.
 */
const promptMixer =
  (positions: number, last: TapeTensor): Mixer =>
  (x, p, c, residual) => {
    const { tape } = x;
    const { width } = c;
    const keep = kept(tape, p, c, positions);
    const k = taps(positions, p.filter, c); // (D, K)
    const projected = linear(x, p.inProjection, { to: "channels" }); // (1, 3D, T/2)
    const { gated, postgate } = projections(projected, p.short); // (1, D, T/2) each

    const heard = tape.tensor([1, width, positions], gated.storage);
    const stored = (offset: number, value: (rows: Rows) => Node): void => {
      const rows = rowsOver(gated);
      rows.store(heard, value(rows), { stride: positions, offset });
      rows.run();
    };
    stored(0, (rows) => {
      const end = rows.g.add(rows.scalar(last), rows.g.constant(0.5));
      const within = rows.g.sub(end, rows.along.columnIndex());
      return rows.g.select(within, rows.cell(gated), rows.g.constant(0));
    });
    stored(positions / 2, (rows) => rows.g.constant(0));
    const y = longConv(heard, k); // (1, D, T)

    const copy = (from: TapeTensor, to: TapeTensor, stride = to.width): void => {
      const rows = rowsOver(to);
      rows.store(to, rows.cell(from, { stride }));
      rows.run();
    };
    copy(k, keep.taps, k.width);
    copy(toRows(y).reshape(positions, width), keep.prompt);
    const none = rowsOver(keep.seen[0]);
    none.store(keep.seen[0], none.g.constant(0));
    none.run();
    const lines = rowsOver(projected);
    keep.before[0].forEach((line, i) => {
      const column = lines.g.sub(lines.scalar(last), lines.g.constant(i));
      lines.storeRow(line, lines.along.at(lines.cell(projected), column));
    });
    lines.run();
    const filters = rowsOver(p.short.weight);
    const taken = filters.cell(p.short.weight);
    keep.short.forEach((line, i) => {
      filters.storeRow(line, filters.along.at(taken, filters.g.constant(i)));
    });
    filters.run();

    const gatedTwice = tape.tensor(postgate.shape, postgate.storage);
    const gate = rowsOver(postgate);
    gate.store(gatedTwice, gate.g.mul(gate.cell(y, { stride: positions }), gate.cell(postgate)));
    gate.run();
    return linear(gatedTwice, p.outProjection, { from: "channels", residual }); // (1, T/2, D)
  };

/** Hyena on one token more; `turn` says which of two states are read, and which written. */
const tokenMixer =
  (positions: number, position: TapeTensor, turn: 0 | 1): Mixer =>
  (x, p, c, residual) => {
    const { tape } = x;
    const { width } = c;
    const keep = kept(tape, p, c, positions);
    const to = turn === 0 ? 1 : 0;
    const projected = linear(x, p.inProjection); // (1, 3D)

    const filtered = tape.tensor([3 * width], "float32");
    const short = rowsOver(projected);
    const now = short.cell(projected);
    const before = keep.before[turn].map((line) => short.cell(line));
    const inTime = [...before.toReversed(), now];
    const bias = p.short.bias ? short.cell(p.short.bias) : short.g.constant(0);
    const sum = inTime.reduce(
      (s, value, i) => short.g.fma(short.cell(keep.short[i]!), value, s),
      bias,
    );
    short.store(filtered, sum);
    [now, ...before].slice(0, -1).forEach((value, i) => {
      short.store(keep.before[to][i]!, value);
    });
    short.run();

    const base = converted(embedding(position, keep.prompt), "float32"); // (1, D)
    const y = tape.tensor([1, width], "float32");
    const long = rowsOver(keep.taps);
    const { g } = long;
    const gated = g.mul(long.row(filtered, width), long.row(filtered, 2 * width));
    const first = g.sub(g.constant(1), long.along.columnIndex());
    // One column on: where the last token was, the one before it is read.
    const stride = keep.seen[0].width;
    const seen = g.select(first, gated, long.cell(keep.seen[turn], { stride }));
    long.store(keep.seen[to], seen, { stride, offset: 1 });
    const own = long.along.sum(g.mul(long.cell(keep.taps), seen));
    long.storeRow(y, g.mul(long.row(filtered), g.add(long.row(base), own)));
    long.run();
    return linear(converted(y, tape.storage), p.outProjection, { residual }); // (1, D)
  };

/** The same numbers in another storage. */
function converted(x: TapeTensor, storage: "float32" | "float16"): TapeTensor {
  if (x.storage === storage) return x;
  const y = x.tape.tensor(x.shape, storage);
  const rows = new Rows(x.tape, { rows: x.rows, columns: x.width });
  rows.store(y, rows.cell(x));
  rows.run();
  return y;
}

/** Logits at the last position, of what blocks make of tokens there: (1, V). */
function scores(x: TapeTensor, p: HyenaLMParameters, c: HyenaLMConfig): TapeTensor {
  return linear(layerNorm(x, p.norm, c.normEpsilon), { weight: p.head });
}

/** Programs for texts of up to so many positions. */
interface Stage<M> {
  readonly positions: number;
  readonly prompt: ModelProgram<M>;
  readonly tokens: readonly [ModelProgram<M>, ModelProgram<M>];
}

/** The least positions of a stage: half of them are for tokens behind a prompt. */
const fewest = 256;

/** Whose text the states of a model belong to. */
const owners = new WeakMap<object, HyenaCache>();

/**
 * A text that grows token by token, and what a model says comes next. States lie with the model: one text of a model grows at a time.
 * @example
 * const cache = new HyenaCache(model, config);
 * let logits = await cache.prompt(tokens); // of the token that follows
 * logits = await cache.next(7);
 * cache.dispose();
 */
export class HyenaCache<M = unknown> {
  readonly config: HyenaLMConfig;
  readonly #model: HyenaModel<M>;
  readonly #stages = new Map<number, Promise<Stage<M>>>();
  #stage: Stage<M> | undefined;
  #text: number[] = [];
  /** Tokens behind the prompt. */
  #behind = 0;

  /** @throws UnsupportedError for operators of another order than 2, and for those that keep some frequencies only. */
  constructor(model: HyenaModel<M>, config: HyenaLMConfig) {
    const { order = 2, frequencies } = config;
    if (order !== 2 || frequencies) {
      throw new UnsupportedError({
        call: "HyenaCache",
        requirement: "generation needs operators of order 2 that keep all frequencies",
        value: show({ order, frequencies }),
        remedy: "Compute forwards of the whole text.",
      });
    }
    this.#model = model;
    this.config = config;
  }

  /**
   * Begin with a text.
   * @returns (V): logits of the token that follows.
   * @throws InvalidArgumentError for no token, for tokens out of the vocabulary, and for more than the filters were made for.
   */
  async prompt(tokens: ArrayLike<number>): Promise<Float32Array> {
    this.#check("cache.prompt", tokens, tokens.length);
    owners.set(this.#model, this as HyenaCache);
    this.#text = Array.from(tokens);
    return this.#restart();
  }

  /**
   * Add a token.
   * @returns (V): logits of the token that follows.
   * @throws InvalidArgumentError as `prompt` does, and where another text of the model was begun since.
   */
  async next(token: number): Promise<Float32Array> {
    const call = "cache.next";
    const stage = this.#stage;
    if (!stage || owners.get(this.#model) !== this) {
      throw new InvalidArgumentError({
        call,
        requirement: "the text that was begun last with this model grows",
        value: stage ? "another text" : "no text",
        remedy: "Call prompt() first; for texts that grow in turns, make a model for each.",
      });
    }
    this.#check(call, [token], this.#text.length + 1);
    this.#text.push(token);
    if (this.#behind === stage.positions / 2) return this.#restart();
    const program = stage.tokens[(this.#behind % 2) as 0 | 1];
    this.#behind += 1;
    program.write("ids", Uint32Array.of(token));
    program.write("position", Uint32Array.of(this.#text.length - 1));
    await program.run();
    return program.read("logits");
  }

  #check(call: string, tokens: ArrayLike<number>, count: number): void {
    const { vocabulary, maxLength, extends: more = false } = this.config;
    checkTokens(tokens, vocabulary, call);
    if (count > 0 && (more || count <= maxLength)) return;
    throw new InvalidArgumentError({
      call,
      requirement: `a text has 1 to ${show(maxLength)} tokens, as the filters were made for`,
      value: show(count),
      remedy: "Shorten the text, or set extends in the configuration.",
    });
  }

  async #restart(): Promise<Float32Array> {
    const text = this.#text;
    const positions = Math.max(fewest, 2 ** (Math.ceil(Math.log2(text.length)) + 1));
    const stage = this.#stages.get(positions) ?? this.#compile(positions);
    this.#stages.set(positions, stage);
    stage.catch(() => this.#stages.delete(positions));
    const { prompt } = await stage;
    this.#stage = await stage;
    this.#behind = 0;
    const ids = new Uint32Array(positions / 2);
    ids.set(text);
    prompt.write("ids", ids);
    prompt.write("last", Uint32Array.of(text.length - 1));
    await prompt.run();
    return prompt.read("logits");
  }

  async #compile(positions: number): Promise<Stage<M>> {
    const call = "HyenaCache";
    const c = { ...this.config, extends: true };
    const one = { shape: [1], storage: "uint32" } as const;
    const whole = { ids: { shape: [1, positions / 2], storage: "uint32" as const }, last: one };
    const prompt = await ModelProgram.compile(
      this.#model,
      whole,
      (p, { ids, last }) => {
        const x = embedding(ids, p.embedding); // (1, T/2, D)
        const mixed = blocks(x, p.blocks, c, promptMixer(positions, last)); // (1, T/2, D)
        const end = embedding(last, mixed.reshape(positions / 2, c.width)); // (1, D)
        return { logits: scores(end, p, c) };
      },
      {},
      call,
    );
    const token = (turn: 0 | 1): Promise<ModelProgram<M>> =>
      ModelProgram.compile(
        this.#model,
        { ids: one, position: one },
        (p, { ids, position }) => {
          const x = embedding(ids, p.embedding); // (1, D)
          const mixed = blocks(x, p.blocks, c, tokenMixer(positions, position, turn)); // (1, D)
          return { logits: scores(mixed, p, c) };
        },
        {},
        call,
      );
    return { positions, prompt, tokens: [await token(0), await token(1)] };
  }

  /** Free the programs; states go with the model. */
  dispose(): void {
    for (const made of this.#stages.values())
      void made.then(({ prompt, tokens }) => {
        for (const program of [prompt, ...tokens]) program.dispose();
      });
    this.#stages.clear();
    this.#stage = undefined;
  }
}
