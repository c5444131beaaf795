/** In place of the package `webgpu`, which is Node's alone: bundlers for browsers take this (package.json, imports), and pages never load it. */
export function create(): never {
  throw new Error("the package webgpu belongs to Node");
}
