/** What kernels of `bench forms` work on, and in float64 what they must answer. */
import { toFloat16 } from "../src/dtype.ts";
import { digitAt } from "../src/plan/gpu/passes.ts";
import { type FormSpec, factorOffset, stagesOfForm, tiles } from "./forms-kernels.ts";

/** Complex numbers, real and imaginary parts in turn. */
type Complexes = Float64Array;

const turnOf = (fraction: number): [number, number] => [
  Math.cos(2 * Math.PI * fraction),
  Math.sin(2 * Math.PI * fraction),
];

/** Phases of a stage's blocks, as fractions of a turn; exact, since radices are powers of two. */
function phases(tile: number, radix: number, stage: number): number[] {
  let all = [digitAt(tile, tiles) / tiles];
  for (let s = 0; s < stage; s++)
    all = all.flatMap((f) =>
      Array.from({ length: radix }, (_, q) => (f + digitAt(q, radix)) / radix),
    );
  return all;
}

/** Twiddles of every sub-block, stage by stage and tile by tile: what dense stages multiply their inputs with. */
export function factorValues(spec: FormSpec): Float32Array<ArrayBuffer> {
  const stages = stagesOfForm(spec);
  const values = new Float32Array(2 * factorOffset(stages, stages.length, spec.points));
  stages.forEach(({ radix }, s) => {
    const all = Array.from({ length: tiles }, (_, tile) => phases(tile, radix, s)).flat();
    const first = factorOffset(stages, s, spec.points);
    all.forEach((f, b) => {
      for (let q = 0; q < radix; q++)
        values.set(turnOf((f * q) / radix), 2 * (first + b * radix + q));
    });
  });
  return values;
}

/** [Re F, −Im F; Im F, Re F] by rows, in the order of butterflies' outputs, times `scale`, in float16. */
export function matrixValues(radix: number, scale: number): Uint16Array<ArrayBuffer> {
  const side = 2 * radix;
  const values = new Uint16Array(side * side);
  for (let q = 0; q < radix; q++) {
    for (let j = 0; j < radix; j++) {
      const [c, d] = turnOf(((digitAt(q, radix) * j) % radix) / radix);
      values[q * side + j] = toFloat16(c * scale);
      values[q * side + radix + j] = toFloat16(-d * scale);
      values[(radix + q) * side + j] = toFloat16(d * scale);
      values[(radix + q) * side + radix + j] = toFloat16(c * scale);
    }
  }
  return values;
}

/** Inputs of all tiles: parts of unit scale, the same in every run. */
export function inputValues(points: number): Float32Array<ArrayBuffer> {
  let state = 1;
  const uniform = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32 - 0.5;
  };
  return Float32Array.from(
    { length: 2 * tiles * points },
    () => 1.7 * (uniform() + uniform() + uniform() + uniform()),
  );
}

/** One unitary transform of a tile, by its definition stage by stage. */
function transformed(spec: FormSpec, tile: number, input: Complexes): Complexes {
  let x = input;
  stagesOfForm(spec).forEach(({ radix, size, rest }, s) => {
    const y = new Float64Array(x.length);
    const scale = 1 / Math.sqrt(radix);
    phases(tile, radix, s).forEach((f, b) => {
      // The output of digit d in a block is the sum of its inputs times e^{2πi·(f + d)·j/r}.
      for (let q = 0; q < radix; q++) {
        const digit = digitAt(q, radix);
        for (let j = 0; j < radix; j++) {
          const [c, d] = turnOf((((f + digit) * j) / radix) % 1);
          for (let n = 0; n < rest; n++) {
            const from = 2 * (b * size + j * rest + n);
            const to = 2 * (b * size + q * rest + n);
            y[to]! += scale * (x[from]! * c - x[from + 1]! * d);
            y[to + 1]! += scale * (x[from]! * d + x[from + 1]! * c);
          }
        }
      }
    });
    x = y;
  });
  return x;
}

const answers = new Map<string, Float64Array>();

/** All tiles after so many stages, a whole number of transforms. */
export function exactAnswer(spec: FormSpec, stages: number): Float64Array {
  const { radix, points } = spec;
  const key = `${radix} ${points} ${stages}`;
  let found = answers.get(key);
  if (!found) {
    const each = stagesOfForm(spec).length;
    const before =
      stages === each ? Float64Array.from(inputValues(points)) : exactAnswer(spec, stages - each);
    found = new Float64Array(before.length);
    for (let tile = 0; tile < tiles; tile++) {
      const first = 2 * points * tile;
      found.set(transformed(spec, tile, before.subarray(first, first + 2 * points)), first);
    }
    answers.set(key, found);
  }
  return found;
}
