/** The curves of a training as a picture: loss over steps, in SVG that reads on light and on dark. */
import type { TrainingReport } from "./log.ts";

/** A line of the picture. */
interface Line {
  readonly name: string;
  readonly color: string;
  readonly points: readonly (readonly [x: number, y: number])[];
}

/** What the picture shows beside the losses. */
export interface CurveOptions {
  readonly title?: string;
  /** Losses to compare with, as lines across. */
  readonly marks?: Readonly<Record<string, number>>;
}

const [width, height] = [640, 360];
const frame = { left: 56, right: width - 24, top: 44, bottom: height - 44 };
/** Colours with contrast enough on white and on black. */
const colors = { training: "#4f8ad9", "held out": "#d9822b", axis: "#808080" } as const;

/**
 * The losses of a log over its steps, and how many seconds they took. A report whose loss is no number has no point.
 * @returns the text of an SVG file.
 * @example
 * writeFileSync("curve.svg", lossCurve(reports, { title: "Shakespeare" }));
 */
export function lossCurve(
  reports: readonly TrainingReport[],
  { title = "", marks = {} }: CurveOptions = {},
): string {
  const pointsOf = (name: "loss" | "validation_loss"): [number, number][] =>
    reports.flatMap(({ step, [name]: loss }) =>
      loss === null || !Number.isFinite(loss) ? [] : [[step, loss] as [number, number]],
    );
  const lines: Line[] = (
    [
      { name: "training", color: colors.training, points: pointsOf("loss") },
      { name: "held out", color: colors["held out"], points: pointsOf("validation_loss") },
    ] as const
  ).filter(({ points }) => points.length > 0);
  const all = [...lines.flatMap(({ points }) => points.map(([, y]) => y)), ...Object.values(marks)];
  const steps = Math.max(1, ...reports.map(({ step }) => step));
  const [xs, ys] = [niceTicks(0, steps), niceTicks(Math.min(...all, 1e9), Math.max(...all, 0))];
  const [low, high] = [Math.min(...ys, ...all), Math.max(...ys, ...all)];
  const x = (step: number): number => frame.left + (step / steps) * (frame.right - frame.left);
  const y = (loss: number): number =>
    frame.bottom - ((loss - low) / (high - low || 1)) * (frame.bottom - frame.top);
  const seconds = reports.at(-1)?.seconds ?? 0;
  const path = (points: Line["points"]): string =>
    points.map(([s, l], i) => `${i === 0 ? "M" : "L"}${at(x(s))} ${at(y(l))}`).join("");
  const across = (level: number, more: string): string =>
    `<path d="M${frame.left} ${at(level)}H${frame.right}" fill="none" stroke="${colors.axis}" ${more}/>`;
  const parts = [
    text(frame.left, 24, title, 'font-size="15"'),
    ...ys.map((l) => across(y(l), 'stroke-opacity="0.3"') + label(y(l), l)),
    ...xs.map((s) =>
      text(x(s), frame.bottom + 18, s.toLocaleString("en-US"), 'text-anchor="middle"'),
    ),
    text(frame.right, height - 8, `steps; ${Math.round(seconds)} s in all`, 'text-anchor="end"'),
    ...Object.entries(marks).map(
      ([name, l]) => across(y(l), 'stroke-dasharray="4 4"') + text(frame.left + 6, y(l) - 4, name),
    ),
    ...lines.map(
      ({ color, points }) =>
        `<path d="${path(points)}" fill="none" stroke="${color}" stroke-width="2" stroke-linejoin="round"/>`,
    ),
    ...lines.map(({ name, color, points }, i) =>
      text(
        frame.right,
        24 + 16 * i,
        `${name} ${points.at(-1)![1].toFixed(4)}`,
        `text-anchor="end" style="fill:${color}"`,
      ),
    ),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif" font-size="12" fill="${colors.axis}">
${parts.join("\n")}
</svg>
`;
}

const at = (value: number): string => value.toFixed(1);

function text(x: number, y: number, words: string, more = ""): string {
  const safe = words.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
  return `<text x="${at(x)}" y="${at(y)}" ${more}>${safe}</text>`;
}

const label = (level: number, value: number): string =>
  text(frame.left - 8, level + 4, String(Number(value.toPrecision(3))), 'text-anchor="end"');

/** Multiples of 1, 2 or 5 times a power of ten between two values, about five. */
function niceTicks(low: number, high: number): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
  const first = Math.ceil(low / unit - 1e-9);
  const count = Math.floor(high / unit + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => (first + i) * unit);
}
