/** Web Streams around what takes pieces and gives pieces. */

/** What a stream does with its pieces. */
interface Steps<I, O> {
  /** What a piece of the input completes. */
  process(piece: I): Promise<O>;
  /** What is left when the input has ended. */
  flush(): Promise<O>;
  /** Forget the input: its end will not come. */
  abandon(): Promise<void>;
}

/**
 * A Web Stream of pieces in, results out, none of them empty. It is a TransformStream whose readable end is wrapped, because
 * browsers do not tell a transformer that its reader has cancelled or its writer aborted (`cancel` of the standard), and what
 * has come until then must not stay in the object.
 */
export function webStream<I, O extends { readonly length: number }>(
  steps: Steps<I, O>,
): TransformStream<I, O> {
  let complete = false;
  const pass = (controller: TransformStreamDefaultController<O>, result: O): void => {
    if (result.length > 0) controller.enqueue(result);
  };
  const inner = new TransformStream<I, O>({
    transform: async (piece, controller) => pass(controller, await steps.process(piece)),
    flush: async (controller) => {
      // From here on the object may be at the next sequence, unless this fails.
      complete = true;
      try {
        pass(controller, await steps.flush());
      } catch (error) {
        complete = false;
        throw error;
      }
    },
  });
  const abandon = async (): Promise<void> => {
    if (!complete) await steps.abandon();
  };
  const reader = inner.readable.getReader();
  // Errors of a piece and aborted writers end here, whether anybody reads or not.
  reader.closed.catch(abandon);
  const readable = new ReadableStream<O>(
    {
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel(reason) {
        await reader.cancel(reason);
        await abandon();
      },
    },
    // Nothing is computed before somebody asks for it.
    { highWaterMark: 0 },
  );
  return { readable, writable: inner.writable };
}
