/**
 * postgres.js counts the rows of an answer, and starts anew only when the answer is complete. Where a connection was lost in the middle of
 * one, the first answer on the connection that takes its place begins with as many holes: one volume of a name would
 * look like two. So the holes are taken out.
 */

import type postgres from "postgres";

type Query = { resolve: (result: unknown[]) => void };

/** Makes every statement of `client`, by template or by text, answer its rows and nothing before them. */
export function withWholeResults<C extends postgres.Sql | postgres.TransactionSql>(client: C): C {
  const { unsafe } = client;
  const carrier = Object.assign(client, {
    unsafe: (...args: Parameters<typeof unsafe>) => whole(unsafe(...args)),
  });
  return new Proxy(carrier, {
    apply: (target, self, args) =>
      whole(Reflect.apply(target as unknown as (...args: unknown[]) => unknown, self, args)),
  });
}

/** Fragments and identifiers of a statement are made by the same call, and answer nothing. */
function whole<Q>(made: Q): Q {
  const query = made as Query;
  const { resolve } = query;
  if (typeof resolve !== "function") return made;
  query.resolve = (result) => resolve(dropHoles(result));
  return made;
}

function dropHoles(result: unknown[]): unknown[] {
  if (Array.isArray(result) && result.length > 0 && !(0 in result)) {
    result.splice(0, result.findIndex((_, index) => index in result));
  }
  return result;
}
