/** From a program's text to code, where the page's Content-Security-Policy allows that. */
import { UnsupportedError } from "../../errors.ts";
import type { KernelModule } from "../../kernels/cpu/ir.ts";
import type { Kernels } from "./recipe.ts";

/**
 * A module of bytes that we have printed.
 * @throws UnsupportedError where a policy forbids it: what is valid compiles everywhere else.
 */
export async function compileWasm(bytes: Uint8Array, call: string): Promise<WebAssembly.Module> {
  const binary = bytes as Uint8Array<ArrayBuffer>;
  try {
    return await WebAssembly.compile(binary);
  } catch (cause) {
    if (!(cause instanceof WebAssembly.CompileError && WebAssembly.validate(binary))) throw cause;
    throw new UnsupportedError(
      {
        call,
        requirement: "a page whose Content-Security-Policy lets WebAssembly compile",
        value: "one that forbids it",
        remedy:
          "Add 'wasm-unsafe-eval' to the policy's script-src, or use backend: 'webgpu', which needs no such thing.",
      },
      cause,
    );
  }
}

/** Kernels in plain JavaScript, to be made for a buffer. */
export type KernelFactory = (memory: ArrayBufferLike) => Kernels;

/**
 * Functions of text; the printer is loaded with the first of them.
 * @throws UnsupportedError where a policy forbids them.
 */
export async function compileJavaScript(
  program: KernelModule,
  call: string,
): Promise<KernelFactory> {
  const { printJavaScript } = await import("../../kernels/cpu/print/javascript.ts");
  const text = printJavaScript(program);
  try {
    return new Function("memory", text) as KernelFactory;
  } catch (cause) {
    if (!(cause instanceof EvalError)) throw cause;
    throw new UnsupportedError(
      {
        call,
        requirement:
          "instructions 'javascript' need a page whose Content-Security-Policy lets functions be made of text",
        value: "one that forbids it",
        remedy:
          "Add 'unsafe-eval' to the policy's script-src; or leave instructions at 'auto', for which 'wasm-unsafe-eval' will do; or use backend: 'webgpu', which needs neither.",
      },
      cause,
    );
  }
}
