/**
 * A plan is data: how one negacyclic transform of M complex points is factored, where each group of stages works, and
 * how rows and threads go through it. It prints on one line and parses back.
 *
 * The transform evaluates the polynomial of a row modulo x^M − i (a right-angle convolution: M complex points hold 2M
 * real ones, see docs/architecture.md). Each stage of radix r splits every ring x^m − c into r rings x^{m/r} − t·ω^j,
 * t^r = c. The last stage is always of radix 4 and is fused with the multiplication and the first inverse stage.
 */

/** Stages that run together before control descends into the sub-blocks that they leave. */
export interface Level {
  /** Radices, outermost first. */
  readonly radices: readonly number[];
  /** Points of a row that go through all stages of the level together; 0 for the whole row (no tiling). */
  readonly tile: number;
  /** Unused bytes after each row, so that rows a power of two apart do not share a cache set. */
  readonly pad: number;
}

/** A factored transform of `points` = 4·Π radices complex points. */
export interface TransformPlan {
  /** M: complex points. */
  readonly points: number;
  /** Outermost first. */
  readonly levels: readonly Level[];
  /** Where not all frequencies are wanted. */
  readonly sparse?: Sparse;
}

/** What a factor of a cyclic transform with few frequencies computes. */
export interface Sparse {
  /** The root ring is x^M − i^quarter. */
  readonly quarter: 0 | 1;
  /**
   * Outputs that each stage computes of its radix, ascending, the fused one last; the sub-blocks of the others are left
   * out.
   */
  readonly kept: readonly (readonly number[])[];
  /** Whether some of the points that are left are masked too. */
  readonly masked: boolean;
}

/** One level, laid out: a block of `size` points is `rows` rows of `columns` points, `pitch` bytes apart. */
export interface LevelLayout extends Level {
  /** Blocks at this level in the whole transform. */
  readonly blocks: number;
  /** Points of one block. */
  readonly size: number;
  /** Rows of a block: the product of the level's radices. */
  readonly rows: number;
  /** Points of a row: the size of a sub-block. */
  readonly columns: number;
  /** Bytes from row to row. */
  readonly pitch: number;
  /** Bytes of one block. */
  readonly bytes: number;
}

/** Complex points are 8 bytes: float32 real and imaginary parts. */
const pointBytes = 8;

/** A function that remembers what it gave for an object: planners and kernels ask for the layout of each plan many times. */
export function remembered<K extends object, V>(make: (key: K) => V): (key: K) => V {
  const known = new WeakMap<K, V>();
  return (key) => {
    let value = known.get(key);
    if (value === undefined) {
      value = make(key);
      known.set(key, value);
    }
    return value;
  };
}

/** Sizes and strides of every level, outermost first. */
export const layout: (plan: TransformPlan) => readonly LevelLayout[] = remembered(layoutOf);

function layoutOf(plan: TransformPlan): LevelLayout[] {
  const out: LevelLayout[] = [];
  let size = plan.points;
  const sizes = plan.levels.map((level) => {
    const here = size;
    size /= product(level.radices);
    return here;
  });
  if (size !== 4)
    throw new RangeError(`plan of ${plan.points} points leaves blocks of ${size} points, not 4`);
  let innerBytes = 4 * pointBytes;
  for (let i = plan.levels.length - 1; i >= 0; i--) {
    const level = plan.levels[i]!;
    const rows = product(level.radices);
    const pitch = innerBytes + level.pad;
    const here = sizes[i]!;
    innerBytes = rows * pitch;
    out.unshift({
      ...level,
      blocks: plan.points / here,
      size: here,
      rows,
      columns: here / rows,
      pitch,
      bytes: innerBytes,
    });
  }
  return out;
}

const upTo = (radix: number): number[] => Array.from({ length: radix }, (_, j) => j);

/** Outputs that the stages of a level compute, by stage; all of them unless the plan is sparse. */
export function keptOutputs(plan: TransformPlan, level: number): (readonly number[])[] {
  const before = plan.levels.slice(0, level).reduce((n, l) => n + l.radices.length, 0);
  return plan.levels[level]!.radices.map(
    (radix, i) => plan.sparse?.kept[before + i] ?? upTo(radix),
  );
}

/** Outputs that the fused last stage computes. */
export function lastOutputs({ sparse }: TransformPlan): readonly number[] {
  return sparse?.kept.at(-1) ?? upTo(4);
}

/** Points that are left of a block of level `from`, or of the whole transform. */
export function pointsLeft(plan: TransformPlan, from = 0): number {
  const kept = plan.levels.flatMap((_, i) => (i < from ? [] : keptOutputs(plan, i)));
  return product([...kept, lastOutputs(plan)].map((k) => k.length));
}

/** Bytes that one transform takes in memory, padding included. */
export function transformBytes(plan: TransformPlan): number {
  return layout(plan)[0]!.bytes;
}

/** The product of some numbers; 1 of none. */
export function product(factors: readonly number[]): number {
  return factors.reduce((a, b) => a * b, 1);
}

/** "65536: 4·4·8 /16 +64 | 4·4·4": levels outermost first, tile after /, padding after +. */
export function formatTransform(plan: TransformPlan): string {
  const levels = plan.levels.map((l) => {
    const tile = l.tile ? ` /${l.tile}` : "";
    const pad = l.pad ? ` +${l.pad}` : "";
    return `${l.radices.join("·")}${tile}${pad}`;
  });
  return `${plan.points}: ${levels.join(" | ")}`;
}

/** Largest radix: a butterfly of 16 points is 32 numbers at once; larger ones only grow code. */
const largestRadix = 16;
/** Points of the widest vector: tiles are whole vectors. */
const vectorPoints = 4;

/**
 * Whether the kernels can carry a plan out: stages of radices that a codelet is written for, tiles of whole vectors that
 * cut a level's rows evenly, and padding in whole points between the rows of the outermost level, which deeper levels
 * must not have: the levels around them count on blocks without gaps.
 */
function isRunnable(plan: TransformPlan): boolean {
  const radices = plan.levels.flatMap((l) => l.radices);
  if (!radices.every((r) => r >= 2 && r <= largestRadix)) return false;
  if (4 * product(radices) !== plan.points) return false;
  return layout(plan).every(
    ({ tile, pad, columns }, i) =>
      (tile === 0 || (tile % vectorPoints === 0 && columns % tile === 0)) &&
      (pad === 0 || (i === 0 && plan.levels.length > 1 && pad % pointBytes === 0)),
  );
}

/** Inverse of formatTransform; undefined where the text is no plan that can be carried out. */
export function parseTransform(text: string): TransformPlan | undefined {
  const match = /^(\d+): (.+)$/.exec(text.trim());
  if (!match) return undefined;
  const levels: Level[] = [];
  for (const part of match[2]!.split(" | ")) {
    const level = /^(\d+(?:·\d+)*)(?: \/(\d+))?(?: \+(\d+))?$/.exec(part);
    if (!level) return undefined;
    levels.push({
      radices: level[1]!.split("·").map(Number),
      tile: Number(level[2] ?? 0),
      pad: Number(level[3] ?? 0),
    });
  }
  const plan = { points: Number(match[1]), levels };
  return isRunnable(plan) ? plan : undefined;
}

/** A convolution's plan: one transform per part, or none in the time domain. Joined by " & " in text. */
export type Plan = readonly TransformPlan[];

/** A plan as its text says it. */
export interface PlanText {
  /** One transform per part. */
  readonly plan: Plan;
  /** Outputs of a block, where rows are cut into blocks (overlap-save); 0 for whole rows, or where the text leaves it open. */
  readonly hop: number;
  /** K, where blocks are computed in the time domain, without a transform. */
  readonly taps?: number;
  /** Whether the transforms are the factors of one exact cyclic convolution. */
  readonly cyclic?: boolean;
}

/** Before the factors of an exact cyclic convolution: without it, "16: 4" is a transform that 31 positions fit into. */
const cyclicMark = "cyclic ";

/**
 * One line; parsePlan reads it back. A plan for blocks ends with their outputs: "4096: 4·4·4·4·4 @7169"; one whose transforms
 * are the factors of a cyclic convolution says so: "cyclic 512: 2·4·4·4 & 256: 4·4·4 & 256: 4·4·4".
 */
export function formatPlan(
  plan: Plan,
  { hop = 0, cyclic = false }: { readonly hop?: number; readonly cyclic?: boolean } = {},
): string {
  const transforms = plan.map(formatTransform).join(" & ");
  return `${cyclic ? cyclicMark : ""}${transforms}${hop ? ` @${hop}` : ""}`;
}

/** The plan of a kernel of K taps in the time domain: "direct 16 @4096", in blocks of 4,096 outputs; "direct 16" without. */
export function formatDirect(taps: number, hop = 0): string {
  return `direct ${taps}${hop ? ` @${hop}` : ""}`;
}

/** Inverse of formatPlan and formatDirect; undefined where the text is no plan. */
export function parsePlan(text: string): PlanText | undefined {
  const direct = /^direct ([1-9]\d*)(?: @([1-9]\d*))?$/.exec(text);
  if (direct) return { plan: [], hop: Number(direct[2] ?? 0), taps: Number(direct[1]) };
  const cyclic = text.startsWith(cyclicMark);
  const [transforms = "", hop, ...more] = (cyclic ? text.slice(cyclicMark.length) : text).split(
    " @",
  );
  const plan = transforms.split(" & ").map(parseTransform);
  if (more.length > 0 || (hop !== undefined && !/^[1-9]\d*$/.test(hop))) return undefined;
  if (!plan.every((p) => p !== undefined) || (hop !== undefined && (plan.length > 1 || cyclic)))
    return undefined;
  return { plan, hop: Number(hop ?? 0), ...(cyclic && { cyclic }) };
}
