/**
 * What a step of a run may take, and that it ends when the run is stopped.
 */

/**
 * What `work` resolves to. Work that is left behind may fail unheard.
 *
 * @throws when it takes longer than `ms`, and the signal's reason when that is aborted.
 */
export async function within<T>(work: PromiseLike<T>, ms: number, signal?: AbortSignal): Promise<T> {
  const ended = Promise.withResolvers<never>();
  const timer = setTimeout(() => ended.reject(new Error(`Cannot wait longer than ${ms} ms`)), ms);
  const stop = () => ended.reject(signal?.reason);
  if (signal?.aborted) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await Promise.race([work, ended.promise]);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
    Promise.resolve(work).catch(() => {});
  }
}
