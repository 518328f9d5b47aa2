import { assertEquals, assertThrows } from "@std/assert";
import { bigintLiteral, bigintsLiteral, uuidLiteral, uuidsLiteral } from "../../src/database/literal.ts";

const ID = "01a20573-4b9a-71ce-9029-d1d9944da612";

Deno.test("literals of numbers and UUIDs are typed", () => {
  assertEquals(bigintLiteral(-7), "-7::bigint");
  assertEquals(bigintsLiteral([1, 2]), "'{1,2}'::bigint[]");
  assertEquals(uuidLiteral(ID), `'${ID}'::uuid`);
  assertEquals(uuidsLiteral([ID]), `array['${ID}'::uuid]::uuid[]`);
  assertEquals(uuidsLiteral([]), "array[]::uuid[]");
});

Deno.test("literals refuse whatever is neither", () => {
  for (const wrong of [1.5, NaN, Infinity, 2 ** 53, "1; drop table cache" as unknown as number]) {
    assertThrows(() => bigintLiteral(wrong), TypeError);
    assertThrows(() => bigintsLiteral([1, wrong]), TypeError);
  }
  for (const wrong of ["", `${ID}'`, `${ID}\n`, "'; drop table cache; --"]) {
    assertThrows(() => uuidLiteral(wrong), TypeError);
    assertThrows(() => uuidsLiteral([ID, wrong]), TypeError);
  }
});
