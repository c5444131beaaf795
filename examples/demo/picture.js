/**
 * Pictures without dependencies: pixels become a PNG, PNGs and vector shapes become one SVG file.
 */
import { deflateSync } from "node:zlib";

/** @typedef {readonly [red: number, green: number, blue: number]} Colour each 0 … 255 */

/** Ink, hair lines and paper of both pictures. */
export const ink = { text: "#e8e6f0", faint: "#8b88a5", line: "#3a3750", paper: "#14121f" };

/** Black through violet, red and orange to pale yellow; lightness grows evenly. */
const ramp = /** @type {const} */ ([
  [20, 18, 31],
  [59, 22, 95],
  [123, 36, 122],
  [188, 55, 110],
  [237, 105, 76],
  [252, 170, 83],
  [253, 240, 178],
]);

/**
 * @param {number} x 0 … 1; outside is clamped
 * @returns {Colour}
 */
export function heat(x) {
  const at = Math.min(Math.max(x, 0), 1) * (ramp.length - 1);
  const index = Math.min(Math.floor(at), ramp.length - 2);
  return blend(ramp[index], ramp[index + 1], at - index);
}

/** @param {Colour} a @param {Colour} b @param {number} x 0: a, 1: b @returns {Colour} */
export function blend(a, b, x) {
  return [a[0] + (b[0] - a[0]) * x, a[1] + (b[1] - a[1]) * x, a[2] + (b[2] - a[2]) * x];
}

/**
 * A PNG file of `width` × `height` pixels, as a data URI.
 *
 * @param {number} width
 * @param {number} height
 * @param {(x: number, y: number) => Colour} colour of the pixel at column x, row y; row 0 is at the top
 */
export function pngDataUri(width, height, colour) {
  const raw = Buffer.alloc(height * (1 + 3 * width));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [r, g, b] = colour(x, y);
      const at = y * (1 + 3 * width) + 1 + 3 * x;
      raw[at] = Math.round(r);
      raw[at + 1] = Math.round(g);
      raw[at + 2] = Math.round(b);
    }
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8); // 8 bits a channel, RGB
  const file = Buffer.concat([
    Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(raw, { level: 9 })),
    chunk("IEND", Buffer.alloc(0)),
  ]);
  return `data:image/png;base64,${file.toString("base64")}`;
}

/** @param {string} type @param {Buffer} data */
function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  out.set(body, 4);
  out.writeUInt32BE(crc32(body), body.length + 4);
  return out;
}

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/** @param {Buffer} data */
function crc32(data) {
  let crc = 0xffffffff;
  for (const byte of data) crc = crcTable[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * An SVG file around `parts`, on the dark paper of both pictures.
 *
 * @param {number} width
 * @param {number} height
 * @param {readonly string[]} parts
 */
export function svg(width, height, parts) {
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="Inter, 'Helvetica Neue', Arial, sans-serif" font-size="13" fill="${ink.text}">`,
    `<rect width="${width}" height="${height}" fill="${ink.paper}"/>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}

/**
 * @param {number} x
 * @param {number} y base line
 * @param {string} content
 * @param {{ anchor?: "start" | "middle" | "end", size?: number, fill?: string, turn?: number, weight?: number }} [style]
 */
export function text(x, y, content, style = {}) {
  const escaped = content.replace(/&/g, "&amp;").replace(/</g, "&lt;");
  const turn = style.turn ? ` transform="rotate(${style.turn} ${round(x)} ${round(y)})"` : "";
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${style.anchor ?? "start"}" font-size="${style.size ?? 13}" font-weight="${style.weight ?? 400}" fill="${style.fill ?? ink.text}"${turn}>${escaped}</text>`;
}

/** @param {number} x @param {number} y @param {number} width @param {number} height @param {string} href */
export function image(x, y, width, height, href) {
  return `<image x="${x}" y="${y}" width="${width}" height="${height}" preserveAspectRatio="none" style="image-rendering:auto" href="${href}"/>`;
}

/** @param {readonly (readonly [number, number])[]} points @param {string} style attributes */
export function polyline(points, style) {
  return `<path d="M${points.map(([x, y]) => `${round(x)} ${round(y)}`).join("L")}" ${style}/>`;
}

/**
 * A horizontal axis below a panel.
 *
 * @param {{ x: number, y: number, width: number, from: number, to: number, step: number, label: (value: number) => string }} axis
 */
export function axisBelow(axis) {
  const parts = [];
  for (
    let value = Math.ceil(axis.from / axis.step) * axis.step;
    value <= axis.to;
    value += axis.step
  ) {
    const x = axis.x + ((value - axis.from) / (axis.to - axis.from)) * axis.width;
    parts.push(
      `<path d="M${round(x)} ${axis.y}v5" stroke="${ink.faint}"/>`,
      text(x, axis.y + 19, axis.label(value), { anchor: "middle", size: 12, fill: ink.faint }),
    );
  }
  return parts.join("");
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 100) / 100;
}
