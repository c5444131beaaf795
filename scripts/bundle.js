/** After `tsc`: files of the package that stand alone, for whoever cannot follow the imports of its modules. */
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

/** By the name in dist/: the module that each is made from. */
const files = {
  // A worker thread's program, for pages that name it in `workerUrl`.
  worker: "backend/cpu/worker.js",
  // Streams on the CPU, for the modules of an AudioWorklet: it has no GPU.
  "audio-worklet": "stream/audio-worklet.js",
};

/** Puts a module that fails in the place of code for GPUs: an import that is left would stop whoever bundles the file again. */
const withoutGpu = {
  name: "without-gpu",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^\.\/gpu(-timing)?\.js$/ }, () => ({ path: "gpu", namespace: "absent" }));
    const contents = 'throw new Error("this file has no code for GPUs")';
    onLoad({ filter: /./, namespace: "absent" }, () => ({ contents }));
  },
};

await build({
  absWorkingDir: fileURLToPath(new URL("../dist", import.meta.url)),
  entryPoints: Object.entries(files).map(([out, module]) => ({ in: module, out })),
  bundle: true,
  plugins: [withoutGpu],
  minify: true,
  format: "esm",
  target: "es2022",
  outdir: ".",
});
