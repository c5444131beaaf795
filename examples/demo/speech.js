/**
 * A small formant synthesiser after Klatt (1980): a glottal pulse and aspiration noise through a cascade of five
 * resonators, frication noise through a resonator of its own, nasal sounds through a pole and a zero. It speaks two
 * sentences in two voices, as a dry stereo recording: the input of the demo's long convolution.
 *
 * Formant targets: D. H. Klatt, "Software for a cascade/parallel formant synthesizer", JASA 67 (1980), tables II and III.
 */
import { noiseSource } from "./random.js";

/**
 * One stretch of sound. Formants glide from `from` to `to`; levels are between 0 and 1.
 *
 * @typedef {object} Sound
 * @property {number} seconds
 * @property {readonly number[]} from F1, F2, F3 in Hz
 * @property {readonly number[]} [to] where the formants end; `from` by default
 * @property {number} [voice] level of the glottal pulses
 * @property {number} [breath] level of the aspiration noise
 * @property {number} [hiss] level of the frication noise
 * @property {number} [centre] centre of the frication noise in Hz
 * @property {number} [width] bandwidth of the frication noise in Hz
 * @property {number} [nasal] 1 opens the nose
 */

/** @type {Readonly<Record<string, readonly Sound[]>>} */
const sounds = {
  // Vowels and diphthongs
  iy: [{ seconds: 0.11, from: [310, 2020, 2960], to: [290, 2070, 2980], voice: 1 }],
  ih: [{ seconds: 0.09, from: [400, 1800, 2570], to: [470, 1600, 2600], voice: 1 }],
  eh: [{ seconds: 0.12, from: [530, 1680, 2500], to: [620, 1530, 2530], voice: 1 }],
  ae: [{ seconds: 0.13, from: [620, 1660, 2430], to: [650, 1490, 2470], voice: 1 }],
  aa: [{ seconds: 0.15, from: [700, 1220, 2600], voice: 1 }],
  ao: [{ seconds: 0.19, from: [600, 990, 2570], to: [630, 1040, 2600], voice: 1 }],
  ax: [{ seconds: 0.07, from: [500, 1400, 2400], voice: 0.85 }],
  uw: [{ seconds: 0.16, from: [350, 1250, 2200], to: [320, 900, 2200], voice: 1 }],
  er: [{ seconds: 0.15, from: [470, 1270, 1540], to: [420, 1310, 1540], voice: 1 }],
  aw: [{ seconds: 0.22, from: [640, 1230, 2550], to: [420, 940, 2350], voice: 1 }],
  // Glides, liquids, nasals
  l: [{ seconds: 0.08, from: [310, 1050, 2880], voice: 0.7 }],
  r: [{ seconds: 0.08, from: [310, 1060, 1380], voice: 0.75 }],
  m: [{ seconds: 0.08, from: [480, 1270, 2130], voice: 0.5, nasal: 1 }],
  n: [{ seconds: 0.09, from: [480, 1340, 2470], voice: 0.5, nasal: 1 }],
  ng: [{ seconds: 0.11, from: [480, 2000, 2900], voice: 0.5, nasal: 1 }],
  // Fricatives
  h: [{ seconds: 0.07, from: [500, 1400, 2500], breath: 0.8 }],
  z: [
    { seconds: 0.09, from: [240, 1390, 2530], voice: 0.45, hiss: 0.4, centre: 5400, width: 2200 },
  ],
  sh: [{ seconds: 0.13, from: [300, 1840, 2750], hiss: 0.75, centre: 2900, width: 1400 }],
  v: [{ seconds: 0.07, from: [220, 1100, 2080], voice: 0.5, hiss: 0.1, centre: 5500, width: 6000 }],
  dh: [
    { seconds: 0.05, from: [270, 1290, 2540], voice: 0.5, hiss: 0.08, centre: 5500, width: 5000 },
  ],
  // Stops: closure, burst, and what follows until the voice sets in
  k: [
    { seconds: 0.06, from: [300, 1700, 2400] },
    { seconds: 0.02, from: [300, 1700, 2400], hiss: 0.7, centre: 1800, width: 600 },
    { seconds: 0.04, from: [400, 1500, 2500], breath: 0.6 },
  ],
  b: [
    { seconds: 0.06, from: [200, 1100, 2150], voice: 0.15 },
    { seconds: 0.01, from: [250, 1100, 2150], voice: 0.4, hiss: 0.2, centre: 900, width: 1200 },
  ],
  // Silence
  _: [{ seconds: 0.12, from: [500, 1400, 2500] }],
};

/**
 * @typedef {object} Voice
 * @property {number} pitch mean fundamental frequency in Hz
 * @property {number} tract formant scale: 1 for a man, about 1.15 for a woman
 * @property {number} breathiness aspiration that goes along with the voice
 * @property {number} seed
 */

/**
 * Speak one sentence.
 *
 * @param {string} phonemes names from the table above; a stressed one is marked with an apostrophe
 * @param {readonly number[]} melody pitch factors, spread evenly over the sentence
 * @param {Voice} voice
 * @param {number} rate samples a second
 * @returns {Float32Array} peak 1
 */
export function speak(phonemes, melody, voice, rate) {
  const line = phonemes.split(" ").flatMap((name) => {
    const parts = sounds[name.replace("'", "")];
    if (!parts) throw new Error(`speak: no phoneme ${JSON.stringify(name)}`);
    const stretch = name.endsWith("'") ? 1.35 : 1.05;
    return parts.map((part) => ({ ...part, seconds: part.seconds * stretch }));
  });
  const total = line.reduce((sum, sound) => sum + sound.seconds, 0);
  const tracks = controlTracks(line);
  const out = new Float32Array(Math.ceil((total + 0.05) * rate));
  const source = glottis(rate, voice, (t) => voice.pitch * melodyAt(melody, t / total));
  const noise = noiseSource(voice.seed);
  const cascade = [0, 1, 2, 3, 4].map(() => resonator(rate));
  const nose = resonator(rate);
  const noseZero = antiResonator(rate);
  const hissFilter = bandPass(rate);
  const step = Math.round(rate / 1000); // parameters move once a millisecond
  let p = tracks(0);
  for (let i = 0; i < out.length; i++) {
    const t = i / rate;
    if (i % step === 0) {
      p = tracks(t);
      const f = p.formants.map((x) => x * voice.tract);
      const width = 1 + 0.6 * p.breath + 0.8 * p.nasal;
      cascade[0].tune(f[0], 70 * width);
      cascade[1].tune(f[1], 90 * width);
      cascade[2].tune(f[2], 140);
      cascade[3].tune(3400 * voice.tract, 250);
      cascade[4].tune(4200 * voice.tract, 320);
      // A closed nose has its pole and its zero at one place, where they cancel.
      nose.tune(270, 100);
      noseZero.tune(270 + 180 * p.nasal, 100);
      hissFilter.tune(p.centre, p.width);
    }
    const { flow, open } = source(t);
    const air = noise();
    const excitation =
      p.voice * (flow + (open ? voice.breathiness * air : 0)) + 0.15 * p.breath * air;
    let sample = noseZero.run(nose.run(excitation));
    for (const formant of cascade) sample = formant.run(sample);
    out[i] = sample + 0.6 * p.hiss * hissFilter.run(noise());
  }
  return toPeak(out, 1);
}

/** Scale `samples` in place. @param {Float32Array} samples @param {number} peak */
export function toPeak(samples, peak) {
  const largest = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  for (let i = 0; i < samples.length; i++) samples[i] = samples[i] * (peak / largest);
  return samples;
}

/**
 * The dialogue of the demo, dry, in stereo: a man on the left asks, a woman on the right answers.
 *
 * @param {number} rate samples a second
 * @returns {{ left: Float32Array, right: Float32Array, text: string }} both channels have the same length
 */
export function dialogue(rate) {
  // How long is a long convolution?
  const question = speak(
    "h aw' l ao' ng ih z ax l ao' ng k aa n v ax l uw' sh ax n _",
    [1.05, 1.15, 1.0, 0.95, 1.1, 0.95, 0.9, 1.05, 1.4],
    { pitch: 112, tract: 1, breathiness: 0.02, seed: 7 },
    rate,
  );
  // As long as the hall remembers.
  const answer = speak(
    "ae z l ao' ng ae z dh ax h ao' l r iy m eh' m b er z _",
    [1.0, 1.15, 1.05, 0.98, 1.1, 1.0, 1.05, 0.9, 0.78],
    { pitch: 196, tract: 1.16, breathiness: 0.04, seed: 11 },
    rate,
  );
  const starts = [Math.round(0.25 * rate), Math.round(0.55 * rate) + question.length];
  const length = starts[1] + answer.length;
  const left = new Float32Array(length);
  const right = new Float32Array(length);
  mix(question, left, right, starts[0], -0.6, rate);
  mix(answer, left, right, starts[1], 0.6, rate);
  return {
    left,
    right,
    text: "“How long is a long convolution?” “As long as the hall remembers.”",
  };
}

/**
 * Place a voice between the two microphones: equal power, and up to 0.5 ms later at the farther one.
 *
 * @param {Float32Array} voice
 * @param {Float32Array} left
 * @param {Float32Array} right
 * @param {number} start
 * @param {number} pan −1 left … 1 right
 * @param {number} rate
 */
function mix(voice, left, right, start, pan, rate) {
  const angle = ((pan + 1) * Math.PI) / 4;
  const late = Math.round(0.0005 * pan * rate);
  for (const [channel, gain, delay] of /** @type {const} */ ([
    [left, Math.cos(angle), Math.max(0, late)],
    [right, Math.sin(angle), Math.max(0, -late)],
  ])) {
    for (let i = 0; i < voice.length; i++) {
      const at = start + delay + i;
      if (at < channel.length) channel[at] = channel[at] + 0.5 * gain * voice[i];
    }
  }
}

/** @param {readonly number[]} melody @param {number} x 0 … 1 */
function melodyAt(melody, x) {
  const at = Math.min(Math.max(x, 0), 1) * (melody.length - 1);
  const index = Math.min(Math.floor(at), melody.length - 2);
  const a = melody[index];
  return a + (melody[index + 1] - a) * (at - index);
}

/**
 * Every parameter as a function of time: formants pass through their targets in the middle of each sound and glide
 * between; levels change within a few milliseconds of the boundary.
 *
 * @param {readonly Sound[]} line
 */
function controlTracks(line) {
  /** @type {{ t: number, values: readonly number[] }[]} */
  const shape = [];
  /** @type {{ t: number, values: readonly number[] }[]} */
  const level = [];
  let t = 0;
  line.forEach((sound, i) => {
    const to = sound.to ?? sound.from;
    const ramp = Math.min(0.012, sound.seconds / 4);
    shape.push({ t: t + 0.35 * sound.seconds, values: sound.from });
    shape.push({ t: t + 0.7 * sound.seconds, values: to });
    // A hiss that fades in or out must not sweep: its neighbours have its timbre.
    const near = [sound, line[i + 1], line[i - 1]].find((one) => one?.hiss) ?? sound;
    const values = [
      sound.voice ?? 0,
      sound.breath ?? 0,
      sound.hiss ?? 0,
      near.centre ?? 4000,
      near.width ?? 2000,
      sound.nasal ?? 0,
    ];
    level.push({ t: t + ramp, values }, { t: t + sound.seconds - ramp, values });
    t += sound.seconds;
  });
  return (/** @type {number} */ time) => {
    const [voice = 0, breath = 0, hiss = 0, centre = 4000, width = 2000, nasal = 0] = at(
      level,
      time,
    );
    // Nothing sounds after the last sound.
    const on = time < t ? 1 : 0;
    return {
      formants: at(shape, time),
      voice: on * voice,
      breath: on * breath,
      hiss: on * hiss,
      centre,
      width,
      nasal,
    };
  };
}

/** Straight lines between points. @param {readonly { t: number, values: readonly number[] }[]} points @param {number} t */
function at(points, t) {
  const next = points.findIndex((point) => point.t > t);
  const b = points[next === -1 ? points.length - 1 : next];
  const a = points[next === -1 ? points.length - 1 : Math.max(0, next - 1)];
  if (!a || !b) throw new Error("controlTracks: a sentence needs a sound");
  const x = b.t > a.t ? Math.min(Math.max((t - a.t) / (b.t - a.t), 0), 1) : 0;
  return a.values.map((value, i) => value + (b.values[i] - value) * x);
}

/**
 * The derivative of the airflow through the vocal folds, U(t) = t² − t³ while they are open (60 % of a period).
 *
 * @param {number} rate
 * @param {Voice} voice
 * @param {(t: number) => number} pitch in Hz
 */
function glottis(rate, voice, pitch) {
  const noise = noiseSource(voice.seed + 1);
  let phase = 0;
  let wobble = 1;
  let tilt = 0;
  return (/** @type {number} */ t) => {
    phase += (pitch(t) * wobble) / rate;
    if (phase >= 1) {
      phase -= 1;
      wobble = 1 + 0.008 * noise(); // no voice is perfectly periodic
    }
    const x = phase / 0.6;
    const raw = x < 1 ? 2 * x - 3 * x * x : 0;
    tilt += 0.8 * (raw - tilt);
    return { flow: tilt, open: x < 1 };
  };
}

/** Klatt's resonator: y[n] = A x[n] + B y[n−1] + C y[n−2], unit gain at 0 Hz. @param {number} rate */
function resonator(rate) {
  let [a, b, c, y1, y2] = [1, 0, 0, 0, 0];
  return {
    /** @param {number} frequency @param {number} bandwidth both in Hz */
    tune(frequency, bandwidth) {
      [b, c] = poles(frequency, bandwidth, rate);
      a = 1 - b - c;
    },
    /** @param {number} x */
    run(x) {
      const y = a * x + b * y1 + c * y2;
      y2 = y1;
      y1 = y;
      return y;
    },
  };
}

/** A resonator with zeros at 0 Hz and at half the rate: unit gain at its centre. @param {number} rate */
function bandPass(rate) {
  let [a, b, c, x1, x2, y1, y2] = [1, 0, 0, 0, 0, 0, 0];
  return {
    /** @param {number} frequency @param {number} bandwidth both in Hz */
    tune(frequency, bandwidth) {
      [b, c] = poles(frequency, bandwidth, rate);
      a = (1 + c) / 2;
    },
    /** @param {number} x */
    run(x) {
      const y = a * (x - x2) + b * y1 + c * y2;
      [x2, x1, y2, y1] = [x1, x, y1, y];
      return y;
    },
  };
}

/**
 * Feedback coefficients of a pair of poles.
 *
 * @param {number} frequency in Hz
 * @param {number} bandwidth in Hz
 * @param {number} rate
 * @returns {[number, number]}
 */
function poles(frequency, bandwidth, rate) {
  const radius = Math.exp((-Math.PI * bandwidth) / rate);
  return [2 * radius * Math.cos((2 * Math.PI * frequency) / rate), -radius * radius];
}

/** The inverse of a resonator: a pair of zeros. @param {number} rate */
function antiResonator(rate) {
  let [a, b, c, x1, x2] = [1, 0, 0, 0, 0];
  return {
    /** @param {number} frequency @param {number} bandwidth both in Hz */
    tune(frequency, bandwidth) {
      [b, c] = poles(frequency, bandwidth, rate);
      a = 1 - b - c;
    },
    /** @param {number} x */
    run(x) {
      const y = (x - b * x1 - c * x2) / a;
      x2 = x1;
      x1 = x;
      return y;
    },
  };
}
