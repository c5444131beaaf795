/** The picture of the speech: spectrograms of what was said, of the hall, and of what is heard in the hall. */
import Fft from "fft.js";
import { axisBelow, heat, image, ink, pngDataUri, svg, text } from "./picture.js";

const width = 1280;
const left = 68;
const panelHeight = 216;
const highest = 8000; // Hz
const gap = 64;

/**
 * @param {Float32Array} dry one channel
 * @param {Float32Array} response one channel
 * @param {Float32Array} wet one channel of dry ∗ response
 * @param {number} rate samples a second
 * @param {string} spoken
 */
export function drawSpeech(dry, response, wet, rate, spoken) {
  // The lengths add: the two panels above are together as wide as the one below, up to the gap.
  const perSample = (width - left - 32 - gap) / (dry.length + response.length);
  const top = 96;
  const below = top + panelHeight + 78;
  const hall = left + dry.length * perSample + gap;
  return svg(width, below + panelHeight + 46, [
    text(left, 38, "A voice in a hall", { size: 22, weight: 600 }),
    text(left, 62, spoken, { size: 13, fill: ink.faint }),
    panel("dry", dry, { x: left, y: top, width: dry.length * perSample, rate }),
    text(hall - gap / 2 - 8, top + panelHeight / 2 + 10, "∗", {
      anchor: "middle",
      size: 30,
      fill: ink.faint,
    }),
    panel("response of the hall, left channel", response, {
      x: hall,
      y: top,
      width: response.length * perSample,
      rate,
    }),
    panel("what is heard: dry ∗ response, mode full", wet, {
      x: left,
      y: below,
      width: wet.length * perSample,
      rate,
    }),
  ]);
}

/**
 * @param {string} title
 * @param {Float32Array} samples
 * @param {{ x: number, y: number, width: number, rate: number }} place
 */
function panel(title, samples, { x, y, width: panelWidth, rate }) {
  const kilohertz = [0, 2, 4, 6, 8].map((value) =>
    text(
      x - 8,
      y + panelHeight * (1 - (1000 * value) / highest) + 4,
      value === 8 ? "8 kHz" : `${value}`,
      {
        anchor: "end",
        size: 12,
        fill: ink.faint,
      },
    ),
  );
  return [
    text(x, y - 9, title, { size: 13 }),
    image(
      x,
      y,
      Math.round(panelWidth),
      panelHeight,
      spectrogram(samples, Math.round(panelWidth), rate),
    ),
    ...kilohertz,
    axisBelow({
      x,
      y: y + panelHeight,
      width: panelWidth,
      from: 0,
      to: samples.length / rate,
      step: 1,
      label: (value) => `${value} s`,
    }),
  ].join("");
}

/**
 * Levels from −75 dB to the loudest moment as colours, one column of pixels for each moment.
 *
 * @param {Float32Array} samples
 * @param {number} columns
 * @param {number} rate
 */
function spectrogram(samples, columns, rate) {
  const size = 2048;
  const span = 1400; // samples under the window, 29 ms at 48 kHz: harmonics and syllables both show
  const fft = new Fft(size);
  const spectrum = fft.createComplexArray();
  const frames = Array.from({ length: columns }, (_, column) => {
    const start = Math.round(((column + 0.5) / columns) * samples.length - span / 2);
    const frame = Array.from({ length: size }, (_, i) =>
      i < span ? (samples[start + i] ?? 0) * (0.5 - 0.5 * Math.cos((2 * Math.PI * i) / span)) : 0,
    );
    fft.realTransform(spectrum, frame);
    return Float64Array.from({ length: panelHeight }, (_, row) => {
      const bin = (((panelHeight - row - 0.5) / panelHeight) * highest * size) / rate;
      const a = Math.floor(bin);
      return power(spectrum, a) + (power(spectrum, a + 1) - power(spectrum, a)) * (bin - a);
    });
  });
  const loudest = Math.max(
    ...frames.map((frame) => frame.reduce((most, x) => Math.max(most, x), 0)),
  );
  return pngDataUri(columns, panelHeight, (x, row) =>
    heat(1 + Math.log10(frames[x][row] / loudest + 1e-12) / 7.5),
  );
}

/** @param {number[]} spectrum interleaved @param {number} bin */
function power(spectrum, bin) {
  return spectrum[2 * bin] ** 2 + spectrum[2 * bin + 1] ** 2;
}
