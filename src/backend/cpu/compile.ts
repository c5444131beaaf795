/** From a program's text to code, at once or while others have the thread, where the page's Content-Security-Policy allows that. */
import type { ErrorParts } from "../../errors.ts";
import { UnsupportedError } from "../../errors.ts";
import type { KernelModule } from "../../kernels/cpu/ir.ts";
import type { Kernels } from "./recipe.ts";

/** What stands for a failure to compile bytes that we have printed: a policy's or the main thread's, since they are valid. */
function wasmRefusal(cause: unknown, binary: Uint8Array<ArrayBuffer>, call: string): unknown {
  const refuse = (parts: Omit<ErrorParts, "call">): UnsupportedError =>
    new UnsupportedError({ call, ...parts }, cause);
  if (cause instanceof RangeError) {
    return refuse({
      requirement: "a thread on which WebAssembly compiles at once (pages: modules up to 8 MB)",
      value: `a module of ${binary.length} bytes: ${cause.message}`,
      remedy: "Await conv.warmUp(), which compiles beforehand, or the call that returns a promise.",
    });
  }
  if (!(cause instanceof WebAssembly.CompileError && WebAssembly.validate(binary))) return cause;
  return refuse({
    requirement: "a page whose Content-Security-Policy lets WebAssembly compile",
    value: "one that forbids it",
    remedy:
      "Add 'wasm-unsafe-eval' to the policy's script-src, or use backend: 'webgpu', which needs no such thing.",
  });
}

/**
 * A module of bytes that we have printed.
 * @throws UnsupportedError where a policy forbids it: what is valid compiles everywhere else.
 */
export async function compileWasm(bytes: Uint8Array, call: string): Promise<WebAssembly.Module> {
  const binary = bytes as Uint8Array<ArrayBuffer>;
  try {
    return await WebAssembly.compile(binary);
  } catch (cause) {
    throw wasmRefusal(cause, binary, call);
  }
}

/**
 * The same at once.
 * @throws UnsupportedError where a policy forbids it, or a page's main thread for its size.
 */
export function compileWasmNow(bytes: Uint8Array, call: string): WebAssembly.Module {
  const binary = bytes as Uint8Array<ArrayBuffer>;
  try {
    return new WebAssembly.Module(binary);
  } catch (cause) {
    throw wasmRefusal(cause, binary, call);
  }
}

/** Kernels in plain JavaScript, to be made for a buffer. */
export type KernelFactory = (memory: ArrayBufferLike) => Kernels;

type Printer = typeof import("../../kernels/cpu/print/javascript.ts");

/** The printer of plain JavaScript, once it is loaded. */
let printer: Printer | undefined;

/** Load what `compileJavaScript` needs. */
export async function loadPrinter(): Promise<void> {
  printer ??= await import("../../kernels/cpu/print/javascript.ts");
}

/** Hand over what it needs, for who cannot wait. */
export function usePrinter(loaded: Printer): void {
  printer = loaded;
}

/**
 * Functions of text.
 * @throws UnsupportedError where a policy forbids them, or the printer is not loaded.
 */
export function compileJavaScript(program: KernelModule, call: string): KernelFactory {
  if (!printer) {
    throw new UnsupportedError({
      call,
      requirement: "code for instructions 'javascript', which is loaded by a promise",
      value: "a call that returns none, before any object was created",
      remedy: "Await FlashFFTConv.create() first, or use the call that returns a promise.",
    });
  }
  const text = printer.printJavaScript(program);
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
