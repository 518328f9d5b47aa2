/**
 * Lists by pages: a page is asked for by what it comes after, so that no cursor stays open and a page costs the same
 * wherever it stands.
 */

/** What a list is asked for. */
export interface PageRequest {
  /** The key of the last item of the page before; absent for the first page. */
  readonly after?: string;
  /** At most so many items. */
  readonly itemsMax: number;
}

/** Some items of a list, and the key to ask for more after; absent on the last page. */
export interface Page<T> {
  readonly items: T[];
  readonly next?: string;
}

/** Makes a page of `rows`, which were asked for with one more than `itemsMax`. */
export function toPage<R, T>(
  rows: R[],
  { itemsMax }: PageRequest,
  keyOf: (row: R) => string | number,
  toItem: (row: R) => T,
): Page<T> {
  const shown = rows.slice(0, itemsMax);
  const items = shown.map(toItem);
  return rows.length > itemsMax ? { items, next: String(keyOf(shown[shown.length - 1])) } : { items };
}
