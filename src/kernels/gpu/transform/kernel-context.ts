/** What the collaborators of a kernel share: its pass and tile, its text, the user's tensors and the buffers that it binds. */
import type { PassLayout } from "../../../plan/gpu/passes.ts";
import { passLayouts, widened, workPoints } from "../../../plan/gpu/passes.ts";
import type { Binding } from "../dialect/wgsl.ts";
import type { TensorAccess, TensorName } from "../storage.ts";
import { tensorBinding } from "../storage.ts";
import type { Value } from "../text.ts";
import { Text } from "../text.ts";
import { isLeft } from "./frequency-mask.ts";
import { accumulators } from "./row-scales.ts";
import type { Cut, KernelSpec, PassSink, PassSource } from "./spec.ts";
import { sourcesAndSinks, tensorsOf } from "./spec.ts";
import type { Place, Stage } from "./tile.ts";
import { stagesOf, sum, Tile } from "./tile.ts";
import type { TileSums } from "./tile-sums.ts";
import { tileSums } from "./tile-sums.ts";
import { rootQuarters, stageTables } from "./twiddles.ts";

/** The names that hold the scales of the two rows of a transform: a vector of the row's factor and its inverse each. */
export type Scales = readonly [string, string];

/** The user's side of a pass: samples or taps at the places of its first stage. */
export interface UserEnd {
  load(source: PassSource & { kind: "samples" | "taps" }): Value[][];
  /** Loads the gates of `sink` before the last exchange, which hides the wait for them; `store` finds them by name. */
  gatesAhead(sink: PassSink & { kind: "samples" }): void;
  store(
    sink: PassSink & { kind: "samples" },
    values: readonly Value[][],
    scales: Scales | undefined,
  ): void;
  /** Loads the first tile's samples before the loop over tiles; the function returned loads those of the next tile. */
  fetchAhead?(source: PassSource): (() => void) | undefined;
}

/** One kernel under construction. */
export class KernelContext {
  readonly spec: KernelSpec;
  readonly pass: PassLayout;
  readonly text: Text;
  readonly tile: Tile;
  readonly tensors: Map<TensorName, TensorAccess> = new Map();
  readonly bindings: Map<string, Binding> = new Map();
  /** How rows are cut into blocks where this kernel has samples of them. */
  readonly cut: Cut | undefined;
  /** Whether the pass takes points that hold two neighbours of a row for columns of real samples. */
  readonly splits: boolean;
  /** Whether two rows share a transform. */
  readonly twoRows: boolean;
  /** Whether it makes spectra in float16, which it fits to the size of the taps. */
  readonly fitted: boolean;
  /** Whether a thread holds neighbouring points of the first stage. */
  readonly neighbours: boolean;
  /** Whether adjacent threads do, as adjacent lanes of a subgroup, so that they can swap halves of the words that they store. */
  readonly swaps: boolean;
  /** How threads add up the norms of two rows, or the size of taps; its `elements` are those of a tile's shared memory. */
  readonly sums: TileSums;
  /** Tiles that a workgroup takes one after the other; gradients loop by themselves. */
  readonly turns: number;
  /** Statements before the loop over turns. */
  readonly before: string[] = [];
  /** Whether threads exchange values by shuffles. */
  shuffles: boolean;

  constructor(spec: KernelSpec) {
    const { plan, work, machine } = spec;
    this.spec = spec;
    this.text = new Text(!machine.slowFma);
    const layout = passLayouts(plan)[spec.pass]!;
    this.pass = work.kind === "gradient" ? widened(layout, machine.threads) : layout;
    this.turns = work.kind === "path" ? (this.pass.turns ?? 1) : 1;
    this.splits = plan.packing === "neighbours" && spec.pass === 0;
    this.twoRows = plan.packing === "rows";
    const makesSpectra = work.kind === "path" && work.sink.kind === "spectrum";
    this.fitted = makesSpectra && spec.spectra === "float16";
    const ends = sourcesAndSinks(work);
    this.cut = ends.flatMap((end) => (end.kind === "samples" && end.cut ? [end.cut] : []))[0];
    const tensors = ends.flatMap(tensorsOf);
    const ofRows = tensors.length > 0 && !this.splits;
    const pairs = spec.format === "pair" && !this.splits;
    const together = { first: ofRows || pairs, last: pairs, apart: this.splits };
    const stages = stagesOf(
      this.pass,
      stageTables(plan)[spec.pass]!,
      rootQuarters(plan) / 4,
      together,
    );
    this.tile = new Tile(this.text, this.pass, stages, machine.sharedBytes);
    const parts = this.fitted ? 1 : this.twoRows ? 2 * accumulators(spec.dtype) : 0;
    this.sums = tileSums(parts, this.pass, this.tile.shared.stride, machine);
    this.neighbours = stages[0]!.vector === 2;
    this.swaps = ofRows && !this.neighbours && this.#canSwap(stages[0]!);
    this.shuffles = this.swaps;
    for (const { name, writes, width } of tensors) {
      const paired = (this.neighbours || this.swaps || this.splits) && width % 2 === 0;
      const access = { name, dtype: spec.dtype, writes, paired };
      this.tensors.set(name, access);
      this.bind(tensorBinding(access));
    }
    if (stages.some((s) => s.table))
      this.bind({ name: "twiddles", access: "read", element: "vec4f" });
    // Tiles of all passes but the first look up their blocks.
    if (spec.pattern && spec.pass > 0) this.bindPattern();
  }

  #canSwap({ vector, rest, radix }: Stage): boolean {
    const { threads, columns } = this.pass;
    const even = (n: number): boolean => n % 2 === 0;
    return (
      (this.spec.machine.shuffles ?? false) &&
      this.spec.dtype !== "float32" &&
      vector === 1 &&
      [rest, threads, radix].every(even) &&
      rest % threads === 0 &&
      (columns === 1 || even(columns))
    );
  }

  bind(binding: Binding): void {
    const known = this.bindings.get(binding.name);
    if (known?.access !== "read_write") this.bindings.set(binding.name, binding);
  }

  bindPattern(): void {
    this.bind({ name: "pattern", access: "read", element: "u32" });
  }

  /** Points of a transform in work memory. */
  get workPoints(): number {
    return workPoints(this.spec.plan);
  }

  /** What `of` makes of each of this thread's points at a stage, by butterfly and input; `place` is the point's in its block. */
  points<T>(end: "first" | "last", of: (place: Place, i: number, q: number) => T): T[][] {
    const { tile } = this;
    const stage = tile.stages.at(end === "first" ? 0 : -1)!;
    const all = tile.places(stage).map((row) => row.map((at) => tile.position(at, "column")));
    return all.map((row, i) => row.map((place, q) => of(place, i, q)));
  }

  /** Sums of values over the threads of a tile, as `sums` says. */
  addUp(values: readonly string[]): string[] {
    this.shuffles ||= this.sums.span > 1;
    return this.tile.sums(values, this.sums);
  }

  /** A condition: the sub-block that a place of the last stage belongs to keeps a frequency; undefined where all do. */
  keeps(place: Place): string | undefined {
    const section = this.spec.pattern?.sections[this.spec.pass + 1];
    const { rest, size, blocks } = this.pass;
    const subBlocks = size / rest;
    if (!section || section.count === blocks * subBlocks) return undefined;
    this.bindPattern();
    const local = this.tile.held("b", rest === 1 ? sum(place) : `(${sum(place)}) / ${rest}u`);
    const block = this.tile.held("b", `block * ${subBlocks}u + ${local}`);
    return this.tile.held("l", isLeft(section, block));
  }
}
