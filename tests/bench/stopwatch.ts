/**
 * Time that passes, in seconds.
 */

/** Runs `body` and answers how long it took. */
export async function timeSeconds(body: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await body();
  return (performance.now() - startedAt) / 1000;
}
