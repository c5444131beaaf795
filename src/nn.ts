/**
 * `flashfftconv/nn`: tensors on a tape, operations, programs and training. A model is a function of its parameters and inputs; a
 * program of it is compiled once and run as often as asked, on the CPU or on a GPU (docs/training.md).
 */

export { dnaTokenizer, eitherStrand, reverseComplement } from "./data/dna.ts";
export { openFasta } from "./data/fasta.ts";
export { byteTokenizer, CharacterTokenizer, openBytes, openCharacters } from "./data/text.ts";
export type { Tokenizer, TokenSource } from "./data/tokens.ts";
export { loadTokens, tokensInMemory } from "./data/tokens.ts";
export { orderedWindows, randomWindows } from "./data/windows.ts";
export { openPyTorch } from "./formats/pytorch.ts";
export { openSafetensors, safetensorsBlob, writeSafetensors } from "./formats/safetensors.ts";
export type { ActivationName } from "./math/activation.ts";
export type { ModelMachine as Machine } from "./nn/machine.ts";
export { Model } from "./nn/model.ts";
export type { MachineOptions } from "./nn/open-machine.ts";
export { openMachine } from "./nn/open-machine.ts";
export { activation, add, dropout, glu, multiplied } from "./nn/operations/elementwise.ts";
export { embedding } from "./nn/operations/embedding.ts";
export { hyenaFilter } from "./nn/operations/hyena-filter.ts";
export { linear, mlp } from "./nn/operations/linear.ts";
export { longConv, projections, shortConv } from "./nn/operations/long-convolution.ts";
export { crossEntropy, meanSquaredError } from "./nn/operations/loss.ts";
export { layerNorm, rmsNorm } from "./nn/operations/norm.ts";
export { meanPool } from "./nn/operations/pool.ts";
export { recompute } from "./nn/operations/recompute.ts";
export { Rows, rowsOver } from "./nn/operations/rows.ts";
export type { Mapped, Weight, Weights } from "./nn/parameters.ts";
export type { InputSpecs, Outputs, StepTime } from "./nn/program.ts";
export { ModelProgram as Program } from "./nn/program.ts";
export type { Tape, TapeTensor as Tensor } from "./nn/tape.ts";
export type { AdamWOptions } from "./train/adamw.ts";
export { AdamW } from "./train/adamw.ts";
export { loadCheckpoint, loadWeights, saveCheckpoint, saveWeights } from "./train/checkpoint.ts";
export { lossCurve } from "./train/curve.ts";
export { NotFiniteError } from "./train/diagnose.ts";
export { Evaluation } from "./train/evaluation.ts";
export type { TrainingReport } from "./train/log.ts";
export type { TrainerOptions, TrainingResult } from "./train/options.ts";
export type { RateOptions } from "./train/schedule.ts";
export { rateSchedule } from "./train/schedule.ts";
export { Trainer } from "./train/trainer.ts";
