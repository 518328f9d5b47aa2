/** How the tests of the HTTP door read a list by its pages. */

import { assertEquals } from "@std/assert";
import type { TestDoor } from "../support/door.ts";

/** Far above what any test lists; a token that leads nowhere must not keep a test for ever. */
const PAGES_MAX = 100;

/** The pages of the list at `path`, each what `toItem` makes of the items under `key`. */
export async function readPages<T>(
  { call }: Pick<TestDoor, "call">,
  path: string,
  key: string,
  maxResults: number,
  // deno-lint-ignore no-explicit-any -- an item as it was answered
  toItem: (item: any) => T,
): Promise<T[][]> {
  const pages: T[][] = [];
  let token: string | undefined;
  do {
    const query = new URLSearchParams({ maxResults: String(maxResults) });
    if (token !== undefined) query.set("pageToken", token);
    const { status, body } = await call("GET", `${path}${path.includes("?") ? "&" : "?"}${query}`);
    assertEquals(status, 200, JSON.stringify(body));
    pages.push(body[key].map(toItem));
    token = body.nextPageToken;
  } while (token !== undefined && pages.length < PAGES_MAX);
  return pages;
}
