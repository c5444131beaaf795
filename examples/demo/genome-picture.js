/** The picture of the genome: the beat of three along it, at every scale, above the genes that make it. */
import { bases, beat, decays, genes } from "./genome.js";
import { axisBelow, blend, image, ink, pngDataUri, svg, text } from "./picture.js";

const width = 1280;
const left = 84;
const plotWidth = 1164;
const plotTop = 92;
const plotHeight = 300;

/**
 * @param {Float32Array} y responses, (4 × filtersPerBase, length)
 * @param {number} length
 */
export function drawGenome(y, length) {
  const columns = plotWidth;
  const cells = decays.map((_, scale) =>
    Array.from({ length: columns }, (_, x) => {
      const from = Math.floor((x / columns) * length);
      return cell(y, length, scale, from, Math.floor(((x + 1) / columns) * length));
    }),
  );
  const pixels = pngDataUri(columns, plotHeight, (x, row) => {
    // Wide windows at the top, narrow ones next to the genes; between two scales, in between.
    const at = Math.min(
      Math.max(((plotHeight - 0.5 - row) / plotHeight) * decays.length - 0.5, 0),
      decays.length - 1,
    );
    const scale = Math.min(Math.floor(at), decays.length - 2);
    return shade(cells[scale][x], cells[scale + 1][x], at - scale);
  });
  const parts = [
    text(left, 38, "The beat of the genes", { size: 22, weight: 600 }),
    text(
      left,
      62,
      "Genome of the phage λ, 48,502 bases, one-hot, through 64 filters of 48,502 taps: strength (brightness) and phase (colour) of the period of three bases",
      { size: 13, fill: ink.faint },
    ),
    image(left, plotTop, plotWidth, plotHeight, pixels),
    text(24, plotTop + plotHeight / 2, "window of the filter, bases", {
      anchor: "middle",
      fill: ink.faint,
      size: 12,
      turn: -90,
    }),
    ...decays.map((decay, scale) =>
      text(
        left - 8,
        plotTop + plotHeight * (1 - (scale + 0.5) / decays.length) + 4,
        (2 * decay).toLocaleString("en-US"),
        {
          anchor: "end",
          size: 12,
          fill: ink.faint,
        },
      ),
    ),
  ];
  const geneTop = plotTop + plotHeight + 14;
  for (const gene of genes) parts.push(arrow(gene, length, geneTop));
  parts.push(
    text(left - 8, geneTop + 15, "genes →", { anchor: "end", size: 12, fill: ink.faint }),
    text(left - 8, geneTop + 45, "genes ←", { anchor: "end", size: 12, fill: ink.faint }),
    axisBelow({
      x: left,
      y: geneTop + 66,
      width: plotWidth,
      from: 0,
      to: length,
      step: 5000,
      label: (value) => (value === 0 ? "0" : `${value / 1000} kb`),
    }),
    text(
      left,
      geneTop + 112,
      "Each gene has the colour that its reading frame should give: 30 of the 39 stand under it, to within a sixth of the circle. The tail fibre stf uses the bases in another way, and it shows.",
      { size: 13, fill: ink.faint },
    ),
  );
  return svg(width, geneTop + 134, parts);
}

/**
 * What one pixel shows: the mean square response of the four bases, and the beat of C and G against A and T, whose angle
 * tells the reading frame.
 *
 * @param {Float32Array} y
 * @param {number} length
 * @param {number} scale
 * @param {number} from
 * @param {number} to
 */
function cell(y, length, scale, from, to) {
  let [power, re, im] = [0, 0, 0];
  for (let n = from; n < to; n++) {
    for (let base = 0; base < bases.length; base++) {
      const [x, z] = beat(y, length, base, scale, n);
      const strong = base === 1 || base === 2 ? 1 : -1;
      power += x * x + z * z;
      re += strong * x;
      im += strong * z;
    }
  }
  return { power: power / (to - from), re: re / (to - from), im: im / (to - from) };
}

/** @typedef {ReturnType<typeof cell>} Cell */

/** @param {Cell} a @param {Cell} b @param {number} x 0: a, 1: b */
function shade(a, b, x) {
  const mixed = {
    power: a.power + (b.power - a.power) * x,
    re: a.re + (b.re - a.re) * x,
    im: a.im + (b.im - a.im) * x,
  };
  // 1 is what a shuffled genome would give.
  const loudness = Math.min(1, Math.max(0, (Math.sqrt(mixed.power) - 1) / 3.2));
  return frameColour(Math.atan2(mixed.im, mixed.re), loudness ** 0.8);
}

/**
 * The colour of an angle, equally light all around (OKLCH), on the dark paper.
 *
 * @param {number} angle in radians
 * @param {number} strength 0 … 1
 * @returns {import("./picture.js").Colour}
 */
function frameColour(angle, strength) {
  // 40° puts the three frames on coral, green and blue.
  const hue = angle + (40 * Math.PI) / 180;
  const lightness = 0.76;
  const [a, b] = [0.155 * Math.cos(hue), 0.155 * Math.sin(hue)];
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const colour = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((linear) => {
    const x = Math.min(Math.max(linear, 0), 1);
    return 255 * (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
  });
  return blend([20, 18, 31], /** @type {[number, number, number]} */ (colour), strength);
}

/**
 * A gene as an arrow, in the colour that its frame should give: C and G are common in the third and first base of a
 * codon and rare in the second, which puts the beat at ±73° from the first base.
 *
 * @param {typeof genes[number]} gene
 * @param {number} length
 * @param {number} top
 */
function arrow({ name, from, to, strand }, length, top) {
  const first = (strand === 1 ? from : to) - 1;
  const angle = ((strand * 73 - 120 * (first % 3)) * Math.PI) / 180;
  const colour = frameColour(angle, 1).map(Math.round).join(",");
  const [a, b] = [from - 1, to].map((n) => left + (n / length) * plotWidth);
  const tip = Math.min(6, (b - a) / 2);
  const y = strand === 1 ? top : top + 30;
  const shape =
    strand === 1
      ? `M${a.toFixed(1)} ${y}H${(b - tip).toFixed(1)}L${b.toFixed(1)} ${y + 11}L${(b - tip).toFixed(1)} ${y + 22}H${a.toFixed(1)}Z`
      : `M${b.toFixed(1)} ${y}H${(a + tip).toFixed(1)}L${a.toFixed(1)} ${y + 11}L${(a + tip).toFixed(1)} ${y + 22}H${b.toFixed(1)}Z`;
  const fits = b - a > 4 + 6.5 * name.length;
  const label = fits
    ? text((a + b) / 2, y + 15.5, name, {
        anchor: "middle",
        size: 11,
        fill: ink.paper,
        weight: 600,
      })
    : "";
  return `<path d="${shape}" fill="rgb(${colour})" stroke="${ink.paper}" stroke-width="1"/>${label}`;
}
