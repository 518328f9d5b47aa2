import { assertEquals } from "@std/assert";
import { OpenMap, type OpenVolume } from "../../src/storage/open_map.ts";

const volume = (volumeId: string): OpenVolume => ({
  volumeId,
  blockCount: 100,
  timelineId: 1,
  epoch: 0,
  segments: new Map(),
  entriesOf: volumeId,
  isWhole: true,
});
const at = (mapVersion: number, life = "one") => ({ life, mapVersion });
const free = [{ segmentId: 9, deviceId: "d", returned: false }];

function createMap(slotsMax = 10): { map: OpenMap; v: OpenVolume } {
  const map = new OpenMap(slotsMax);
  const v = volume("v");
  map.syncTo(at(1));
  map.remember({
    volumes: [v],
    slots: [{ volume: v, slot: 4, segment: { segmentId: 8, deviceId: "d" } }],
    free,
  });
  return { map, v };
}

Deno.test("the open map forgets what was learnt at another map version", () => {
  const { map, v } = createMap();
  map.syncTo(at(1));
  assertEquals([map.getVolume("v"), map.free], [v, free]);
  map.syncTo(at(2));
  assertEquals([map.getVolume("v"), map.free], [undefined, []]);
});

Deno.test("the open map forgets what was learnt in another life of the database", () => {
  const { map } = createMap();
  map.openEpochs(at(1, "other"), at(2, "other"), [{ volumeId: "v", epoch: 1 }]);
  assertEquals(map.getVolume("v")?.epoch, 0);
  map.syncTo(at(1, "other"));
  assertEquals([map.getVolume("v"), map.free], [undefined, []]);
});

Deno.test("the open map keeps what is mapped, and nothing else, when somebody else has appended", () => {
  const { map } = createMap();
  map.distrust();
  assertEquals(map.getVolume("v")?.isWhole, false);
  assertEquals(map.getVolume("v")?.segments.get(4)?.segmentId, 8);
  assertEquals(map.free, []);
});

Deno.test("the open map goes on behind a snapshot, unless it had missed another change", () => {
  const { map } = createMap();
  map.distrust();
  map.openEpochs(at(1), at(2), [{ volumeId: "v", epoch: 1 }, { volumeId: "unknown", epoch: 1 }]);
  map.syncTo(at(2));
  assertEquals(map.getVolume("v"), { ...volume("v"), epoch: 1 });
  map.openEpochs(at(3), at(4), [{ volumeId: "v", epoch: 2 }]);
  assertEquals(map.getVolume("v")?.epoch, 1);
  map.syncTo(at(4));
  assertEquals(map.getVolume("v"), undefined);
});

Deno.test("the open map is bounded: full, it forgets all", () => {
  const { map, v } = createMap(1);
  const slot = { volume: v, slot: 5, segment: { segmentId: 9, deviceId: "d" } };
  map.remember({ volumes: [], slots: [slot], free: [] });
  assertEquals(map.getVolume("v"), undefined);
});
