/**
 * The response of a concert hall, computed: the first echoes are mirror images of the source in the walls (Allen and
 * Berkley, JASA 65, 1979), each a little later, weaker and duller than the last; behind them comes the diffuse tail,
 * noise that dies away in every octave at that octave's own reverberation time.
 */
import { noiseSource } from "./random.js";

/** A hall of 46 × 29 × 19 m, about the size of the Konzerthaus in Berlin with its galleries taken out. */
const size = [46, 29, 19];
/** Seconds in which the sound falls by 60 dB, per octave band; bands lie between these crossovers in Hz. */
const crossovers = [88, 177, 354, 707, 1414, 2828, 5657, 11314];
const reverberation = [6.4, 6.2, 5.8, 5.3, 4.8, 4.0, 2.9, 1.7, 0.9];
const speedOfSound = 343;
/** Mirror images until here, the diffuse tail from here on. */
const mixing = 0.11;
/** Share of the pressure that a wall returns. */
const reflection = 0.88;

/**
 * Responses from the left of the stage to a microphone left in the audience, and from the right to the right.
 *
 * @param {number} seconds length of the response
 * @param {number} rate samples a second, above 22,628: twice the highest crossover
 * @returns {{ left: Float32Array, right: Float32Array }}
 */
export function hallResponse(seconds, rate) {
  const taps = Math.round(seconds * rate);
  return {
    left: response([6, 12.1, 2.2], [19, 13.7, 1.9], taps, rate, 101),
    right: response([6, 16.7, 2.2], [19, 15.2, 1.9], taps, rate, 202),
  };
}

/**
 * @param {readonly number[]} source in metres from a corner
 * @param {readonly number[]} ear
 * @param {number} taps
 * @param {number} rate
 * @param {number} seed
 */
function response(source, ear, taps, rate, seed) {
  const early = mirrorImages(source, ear, taps, rate);
  const late = diffuseTail(taps, rate, seed);
  // The tail sets in where the images stop, at the level that the images have there.
  const [a, b] = [Math.round((mixing - 0.03) * rate), Math.round(mixing * rate)];
  const level = Math.sqrt(energy(early, a, b) / energy(late, a, b));
  const out = new Float32Array(taps);
  const fade = Math.round(0.4 * rate);
  for (let i = 0; i < taps; i++) {
    // Images give way to the tail over 30 ms with constant power; the last 0.4 s fade to nothing.
    const x = Math.min(Math.max((i - a) / (b - a), 0), 1) * (Math.PI / 2);
    const end = Math.min(1, (taps - i) / fade);
    out[i] = end * (Math.cos(x) * early[i] + Math.sin(x) * level * late[i]);
  }
  return out;
}

/** @param {Float64Array} x @param {number} from @param {number} to */
function energy(x, from, to) {
  return x.subarray(from, to).reduce((sum, v) => sum + v * v, 0);
}

/**
 * Sum of the mirror images that arrive before the mixing time. Images with the same number of bounces share a buffer,
 * which is dulled once for each bounce.
 *
 * @param {readonly number[]} source
 * @param {readonly number[]} ear
 * @param {number} taps
 * @param {number} rate
 */
function mirrorImages(source, ear, taps, rate) {
  /** @type {Float64Array[]} */
  const byBounces = [];
  const until = Math.min(taps, Math.ceil((mixing + 0.01) * rate));
  const reach = Math.ceil(((mixing + 0.01) * speedOfSound) / Math.min(...size)) + 1;
  // The direct sound is at time 0: the hall adds no delay of its own.
  const direct = Math.hypot(...source.map((x, axis) => x - ear[axis]));
  for (const [x, nx] of images(source[0], size[0], reach)) {
    for (const [y, ny] of images(source[1], size[1], reach)) {
      for (const [z, nz] of images(source[2], size[2], reach)) {
        const distance = Math.hypot(x - ear[0], y - ear[1], z - ear[2]);
        const at = ((distance - direct) / speedOfSound) * rate;
        if (at > until - 16) continue;
        const bounces = nx + ny + nz;
        byBounces[bounces] ??= new Float64Array(taps);
        addImpulse(byBounces[bounces], at, (reflection ** bounces * direct) / distance);
      }
    }
  }
  const out = new Float64Array(taps);
  byBounces.forEach((buffer, bounces) => {
    for (let pass = 0; pass < bounces; pass++) {
      let y = 0;
      for (let i = 0; i < until; i++) buffer[i] = y += 0.82 * (buffer[i] - y);
    }
    for (let i = 0; i < until; i++) out[i] = out[i] + buffer[i];
  });
  return out;
}

/**
 * Positions of a source and its mirror images along one axis, with the number of bounces each took.
 *
 * @param {number | undefined} position
 * @param {number | undefined} width
 * @param {number} reach
 * @returns {[number, number][]}
 */
function images(position = 0, width = 1, reach = 1) {
  /** @type {[number, number][]} */
  const list = [];
  for (let n = -reach; n <= reach; n++) {
    list.push([2 * n * width + position, Math.abs(2 * n)]);
    list.push([2 * n * width - position, Math.abs(2 * n - 1)]);
  }
  return list;
}

/** Add an impulse between the samples: a sinc under a Hann window. @param {Float64Array} out @param {number} at @param {number} gain */
function addImpulse(out, at, gain) {
  const middle = Math.floor(at);
  for (let i = Math.max(0, middle - 15); i <= middle + 16; i++) {
    const t = i - at;
    const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
    out[i] = out[i] + gain * sinc * (0.5 + 0.5 * Math.cos((Math.PI * t) / 16.5));
  }
}

/**
 * Noise, split into bands whose sum is the noise again (differences of low-passes), each band under its own decay.
 *
 * @param {number} taps
 * @param {number} rate
 * @param {number} seed
 */
function diffuseTail(taps, rate, seed) {
  const random = noiseSource(seed);
  const noise = Float64Array.from({ length: taps }, () => random() + random() + random());
  const out = new Float64Array(taps);
  let below = new Float64Array(taps);
  reverberation.forEach((seconds, band) => {
    const edge = crossovers[band];
    const upTo = edge === undefined ? noise : lowPass(noise, edge, rate);
    const decay = 10 ** (-3 / (seconds * rate)); // −60 dB after `seconds`
    let gain = 1;
    for (let i = 0; i < taps; i++) {
      out[i] = out[i] + gain * (upTo[i] - below[i]);
      gain *= decay;
    }
    below = upTo;
  });
  return out;
}

/** A second-order Butterworth low-pass. @param {Float64Array} x @param {number} edge in Hz @param {number} rate */
function lowPass(x, edge, rate) {
  const k = Math.tan((Math.PI * edge) / rate);
  const norm = 1 / (1 + Math.SQRT2 * k + k * k);
  const b = k * k * norm;
  const a1 = 2 * (k * k - 1) * norm;
  const a2 = (1 - Math.SQRT2 * k + k * k) * norm;
  const y = new Float64Array(x.length);
  let [x1, x2, y1, y2] = [0, 0, 0, 0];
  for (let i = 0; i < x.length; i++) {
    const now = x[i];
    const next = b * (now + 2 * x1 + x2) - a1 * y1 - a2 * y2;
    [x2, x1, y2, y1] = [x1, now, y1, next];
    y[i] = next;
  }
  return y;
}
