/** A page's program, as a user would write it. The test calls the library through it. */
import { FlashFFTConv } from "flashfftconv";

globalThis.library = { FlashFFTConv };
