/** Pauses of a long computation on the calling thread, so that a page or a server goes on while it works. */

/** The thread is given to others at least so often, in milliseconds: half of a frame. */
const slice = 8;

/** When others last had the thread. */
let since = 0;
/** Whether the caller waits for the answer on this thread: then there are no pauses. */
let waited = false;

/** Milliseconds. An AudioWorklet has no clock, and nobody to pause for. */
const now = (): number => (typeof performance === "undefined" ? 0 : performance.now());

/** A turn begins: its time counts from here. */
export function begin(): void {
  since = now();
}

/** Whether it is time for a pause. */
export function isDue(): boolean {
  return !waited && now() - since >= slice;
}

/** Do `work` without pauses. */
export function withoutPauses<T>(work: () => T): T {
  const before = waited;
  waited = true;
  try {
    return work();
  } finally {
    waited = before;
  }
}

/** Let the event loop do what waits. In a page by a message: timers wait 4 ms there. */
function nextTask(): Promise<void> {
  const { setImmediate } = globalThis as { setImmediate?: (task: () => void) => unknown };
  if (setImmediate) return new Promise((resolve) => void setImmediate(resolve));
  if (typeof MessageChannel === "undefined") return Promise.resolve();
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}

/** Let others have the thread. */
export async function pause(): Promise<void> {
  await nextTask();
  begin();
}
