/**
 * Where the demo shows itself: lines that stay, and in a terminal one more below them that is redrawn.
 */

import type { Display } from "./demo_bar.ts";

const CLEAR_LINE = "\r\x1b[K";

export class Screen implements Disposable {
  readonly #live = Deno.stdout.isTerminal();
  #drawn = "";

  /** Whether there is a line that can be redrawn. */
  get live(): boolean {
    return this.#live;
  }

  /** Prints a line that stays. */
  say(line: string): void {
    const drawn = this.#drawn;
    this.#replace("");
    console.log(line);
    this.#replace(drawn);
  }

  /** Redraws the last line; does nothing where no terminal is. */
  draw(render: (display: Display) => string): void {
    if (this.#live) this.#replace(render({ columns: readColumns(), color: !Deno.noColor }));
  }

  /** Takes the redrawn line away. */
  clear(): void {
    this.#replace("");
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  #replace(line: string): void {
    if (line === this.#drawn) return;
    this.#drawn = line;
    Deno.stdout.writeSync(new TextEncoder().encode(CLEAR_LINE + line));
  }
}

/** 0 when the terminal does not tell. */
function readColumns(): number {
  try {
    return Deno.consoleSize().columns;
  } catch {
    return 0;
  }
}
