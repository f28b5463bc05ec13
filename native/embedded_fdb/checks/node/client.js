// The npm package `foundationdb` on the client library that it loads.
//
//     npm install foundationdb@2.0.1
//     LD_LIBRARY_PATH=DIR_WITH_LIBFDB_C node --test client.js
//
// Wipes the user key space before each test: point it at a scratch database.
"use strict";
const assert = require("node:assert");
const { after, beforeEach, test } = require("node:test");
const fdb = require("foundationdb");

fdb.setAPIVersion(720);
const db = fdb.open();
const tuples = db.withKeyEncoding(fdb.encoders.tuple);

beforeEach(() => db.clearRange("", Buffer.from([0xff])));
after(() => {
  db.close();
  fdb.stopNetworkSync();
});

test("concurrent read-modify-write transactions are retried until each had its turn", async () => {
  let attempts = 0;
  const increment = () =>
    db.doTn(async (tn) => {
      attempts += 1;
      const value = await tn.get("counter");
      tn.set("counter", String(Number(value ?? 0) + 1));
    });
  await Promise.all(Array.from({ length: 50 }, increment));
  assert.strictEqual(String(await db.get("counter")), "50");
  assert.ok(attempts > 50, "nothing conflicted");
});

test("ranges are read in batches, in both directions", async () => {
  await tuples.doTn(async (tn) => {
    for (let i = -500; i < 500; i++) tn.set(["n", i], "x".repeat(100));
  });
  const numbers = [];
  await tuples.doTn(async (tn) => {
    numbers.length = 0;
    for await (const [[, number]] of tn.getRange(["n"])) numbers.push(number);
  });
  assert.deepStrictEqual(numbers, Array.from({ length: 1000 }, (_, i) => i - 500));
  const last = await tuples.doTn((tn) => tn.getRangeAll(["n"], undefined, { limit: 2, reverse: true }));
  assert.deepStrictEqual(last.map(([key]) => key[1]), [499, 498]);
});

test("atomic operations and snapshot reads do not conflict", async () => {
  const one = Buffer.from([1, 0, 0, 0]);
  await db.doTn(async (tn) => {
    await tn.snapshot().get("n");
    await db.add("n", one);
    tn.add("n", one);
  }, { retry_limit: 0 });
  assert.deepStrictEqual(await db.get("n"), Buffer.from([2, 0, 0, 0]));
});

test("versionstamps are in the order of commits", async () => {
  for (let i = 0; i < 5; i++) {
    await tuples.doTn(async (tn) => tn.setVersionstampedKey(["log", fdb.tuple.unboundVersionstamp()], String(i)));
  }
  const rows = await tuples.doTn((tn) => tn.getRangeAll(["log"]));
  assert.deepStrictEqual(rows.map(([, value]) => String(value)), ["0", "1", "2", "3", "4"]);
});

test("watches fire when the value changes, and can be cancelled", async () => {
  // A buffer: the package aborts on a watch of a string.
  const key = Buffer.from("watched");
  const watch = await db.getAndWatch(key);
  assert.strictEqual(watch.value, undefined);
  await db.set(key, "now");
  assert.strictEqual(await watch.promise, true);
  const cancelled = await db.getAndWatch(key);
  cancelled.cancel();
  assert.strictEqual(await cancelled.promise, false);
});

test("the package's directory layer", async () => {
  const { directory } = fdb;
  const users = await directory.create(db, ["app", "users"]);
  await db.at(users).set("u1", "Ada");
  await assert.rejects(directory.create(db, ["app", "users"]), /already exists/);
  await directory.create(db, ["app", "posts"]);
  assert.deepStrictEqual((await directory.listAll(db, ["app"])).map(String), ["posts", "users"]);
  const people = await directory.move(db, ["app", "users"], ["app", "people"]);
  assert.strictEqual(String(await db.at(people).get("u1")), "Ada");
  assert.strictEqual(await directory.exists(db, ["app", "users"]), false);
  await directory.remove(db, ["app"]);
  assert.strictEqual(await db.at(people).get("u1"), undefined);
});

test("errors arrive with their codes", async () => {
  await assert.rejects(db.set(Buffer.alloc(10_001, 1), ""), (error) => error.code === 2102);
  await assert.rejects(db.get(Buffer.from([0xff, 0xff, 0xff])), (error) => error.code === 2004);
});
