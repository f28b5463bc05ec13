#!/usr/bin/env python3
"""The official Python binding's own layers on the client library that it loads.

    pip install foundationdb==7.3.79
    LD_LIBRARY_PATH=DIR_WITH_LIBFDB_C layers.py

Wipes the user key space ("" to "\\xff") before each test: point it at a scratch database.
"""
import functools
import random
import threading
import unittest
import uuid

import fdb
import fdb.tuple
from fdb import tenant_management

fdb.api_version(730)
db = fdb.open()


class LayerTest(unittest.TestCase):
    def setUp(self):
        db.clear_range(b"", b"\xff")


def random_bytes(rng):
    return bytes(rng.choice([0, 1, 0x7F, 0xFE, 0xFF, rng.randrange(256)]) for _ in range(rng.randrange(6)))


def random_integer(rng):
    magnitude = rng.choice([0, 1, 255, 256, 2**32 - 1, 2**63, 2**64, rng.getrandbits(rng.randrange(1, 200))])
    return rng.choice([-1, 1]) * max(0, magnitude + rng.randrange(-1, 2))


def random_element(rng, depth=0):
    kinds = [
        lambda: None,
        lambda: random_bytes(rng),
        lambda: "".join(rng.choice("\x00aé\uffff\U0010ffff") for _ in range(rng.randrange(5))),
        lambda: random_integer(rng),
        lambda: rng.choice([0.0, -0.0, 1.5, -1e300, float("inf"), float("-inf"), rng.uniform(-10, 10)]),
        lambda: fdb.tuple.SingleFloat(rng.choice([0.0, -2.5, 1e30])),
        lambda: rng.random() < 0.5,
        lambda: uuid.UUID(int=rng.getrandbits(128)),
        lambda: fdb.tuple.Versionstamp(rng.randbytes(10), rng.getrandbits(16)),
        lambda: random_tuple(rng, depth + 1),
    ]
    return rng.choice(kinds if depth < 3 else kinds[:-1])()


def random_tuple(rng, depth=0):
    return tuple(random_element(rng, depth) for _ in range(rng.randrange(5)))


class Tuples(LayerTest):
    def test_the_database_orders_keys_as_tuples_are_ordered(self):
        rng = random.Random(1)
        tuples = [random_tuple(rng) for _ in range(3000)]
        # The tuple itself, found again in the value, whatever its key became.
        for part in range(0, len(tuples), 500):

            @fdb.transactional
            def write(tr):
                for number in range(part, part + 500):
                    tr[fdb.tuple.pack(tuples[number])] = b"%d" % number

            write(db)
        rows = list(db.get_range(b"", b"\xff"))
        # Equal tuples share a key, the last one written has its value.
        self.assertEqual(len(rows), len({fdb.tuple.pack(t) for t in tuples}))
        self.assertGreater(len(rows), 1500)
        found = [tuples[int(row.value)] for row in rows]
        for one, next_one in zip(found, found[1:]):
            self.assertLess(fdb.tuple.compare(one, next_one), 0, (one, next_one))
        # repr, because -0.0 and 0.0 are equal and yet two keys.
        expected = sorted(found, key=functools.cmp_to_key(fdb.tuple.compare))
        self.assertEqual(repr(found), repr(expected))
        for row, written in zip(rows, found):
            self.assertEqual(repr(fdb.tuple.unpack(row.key)), repr(written))

    def test_a_range_holds_the_children_of_a_prefix(self):
        users = fdb.Subspace(("users",))

        @fdb.transactional
        def write(tr):
            for user in range(-5, 300):
                tr[users[user]["name"]] = b"%d" % user
            tr[users.key()] = b"the prefix itself"
            tr[fdb.tuple.pack(("users2",))] = b"outside"

        write(db)
        found = [users.unpack(row.key) for row in db[users.range()]]
        self.assertEqual(found, [(user, "name") for user in range(-5, 300)])
        found = [users.unpack(row.key)[1] for row in db[users.range((7,))]]
        self.assertEqual(found, ["name"])
        reverse = db.get_range(users.range().start, users.range().stop, limit=2, reverse=True)
        self.assertEqual([users.unpack(row.key)[0] for row in reverse], [299, 298])

    def test_versionstamped_keys_are_in_the_order_of_commits(self):
        log = fdb.Subspace(("log",))
        stamps = []
        for number in range(10):
            tr = db.create_transaction()
            key = log.pack_with_versionstamp((fdb.tuple.Versionstamp(user_version=number), number))
            tr.set_versionstamped_key(key, b"")
            stamp = tr.get_versionstamp()
            tr.commit().wait()
            stamps.append(fdb.tuple.Versionstamp(stamp.wait().value, number))
        found = [log.unpack(row.key) for row in db[log.range()]]
        self.assertEqual(found, list(zip(stamps, range(10))))


class Directories(LayerTest):
    def test_create_open_list_move_remove(self):
        users = fdb.directory.create(db, ("app", "users"), layer=b"table")
        db[users.pack(("u1",))] = b"Ada"
        self.assertEqual(fdb.directory.open(db, ("app", "users")).key(), users.key())
        self.assertEqual(fdb.directory.create_or_open(db, ("app", "users"), layer=b"table").key(), users.key())
        with self.assertRaisesRegex(ValueError, "already exists"):
            fdb.directory.create(db, ("app", "users"))
        with self.assertRaisesRegex(ValueError, "incompatible layer"):
            fdb.directory.open(db, ("app", "users"), layer=b"queue")
        with self.assertRaisesRegex(ValueError, "does not exist"):
            fdb.directory.open(db, ("app", "posts"))

        fdb.directory.create(db, ("app", "posts", "drafts"))
        self.assertEqual(fdb.directory.list(db, ("app",)), ["posts", "users"])
        moved = fdb.directory.move(db, ("app", "users"), ("app", "posts", "people"))
        self.assertEqual(moved.key(), users.key())
        self.assertEqual(db[moved.pack(("u1",))], b"Ada")
        self.assertFalse(fdb.directory.exists(db, ("app", "users")))
        with self.assertRaisesRegex(ValueError, "subdirectory"):
            fdb.directory.move(db, ("app",), ("app", "posts", "below"))

        fdb.directory.remove(db, ("app", "posts"))
        self.assertEqual(fdb.directory.list(db, ("app",)), [])
        self.assertEqual(list(db[users.range()]), [])
        self.assertFalse(fdb.directory.remove_if_exists(db, ("app", "posts")))

    def test_a_transaction_that_is_not_committed_makes_no_directory(self):
        tr = db.create_transaction()
        fdb.directory.create(tr, ("ghost",))
        self.assertTrue(fdb.directory.exists(tr, ("ghost",)))
        self.assertFalse(fdb.directory.exists(db, ("ghost",)))

    def test_partitions_are_trees_of_their_own(self):
        partition = fdb.directory.create(db, ("tenant",), layer=b"partition")
        inside = partition.create(db, ("data",))
        self.assertTrue(inside.key().startswith(fdb.directory.open(db, ("tenant", "data")).key()))
        with self.assertRaises(Exception):
            partition.key()
        with self.assertRaisesRegex(ValueError, "partition"):
            fdb.directory.move(db, ("tenant", "data"), ("outside",))
        db[inside.pack((1,))] = b"x"
        fdb.directory.remove(db, ("tenant",))
        self.assertIsNone(db[inside.pack((1,))])

    def test_prefixes_by_hand_and_layers_elsewhere(self):
        layer = fdb.DirectoryLayer(
            node_subspace=fdb.Subspace(rawPrefix=b"nodes"),
            content_subspace=fdb.Subspace(rawPrefix=b"content"),
            allow_manual_prefixes=True,
        )
        self.assertEqual(layer.create(db, ("manual",), prefix=b"mine").key(), b"mine")
        with self.assertRaisesRegex(ValueError, "already in use"):
            layer.create(db, ("other",), prefix=b"mine\x01")
        self.assertTrue(layer.create(db, ("automatic",)).key().startswith(b"content"))
        self.assertEqual(layer.list(db), ["automatic", "manual"])
        self.assertEqual(fdb.directory.list(db), [])
        with self.assertRaises(ValueError):
            fdb.directory.create(db, ("manual",), prefix=b"mine")

    def test_prefixes_made_by_many_threads_are_different(self):
        keys, errors = [], []

        def work(thread):
            try:
                for number in range(10):
                    keys.append(fdb.directory.create(db, ("t%d" % thread, "d%d" % number)).key())
            except Exception as error:  # The test's own thread reports it.
                errors.append(error)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        self.assertEqual(len(set(keys)), 60)
        # None is the beginning of another one.
        keys.sort()
        for one, next_one in zip(keys, keys[1:]):
            self.assertFalse(next_one.startswith(one), (one, next_one))


class Tenants(LayerTest):
    def test_tenants_have_their_own_keys(self):
        names = [b"layers-a", b"layers-b"]
        for name in names:
            tenant_management.create_tenant(db, name)
        self.addCleanup(lambda: [tenant_management.delete_tenant(db, name) for name in names])
        with self.assertRaises(fdb.FDBError) as exists:
            tenant_management.create_tenant(db, names[0])
        self.assertEqual(exists.exception.code, 2132)
        listed = [row.key for row in tenant_management.list_tenants(db, b"layers-", b"layers.", 10)]
        self.assertEqual(listed, names)
        tenants = [db.open_tenant(name) for name in names]
        for name, tenant in zip(names, tenants):
            tenant[b"name"] = name
        self.assertEqual([tenant[b"name"] for tenant in tenants], names)
        self.assertIsNone(db[b"name"])
        with self.assertRaises(fdb.FDBError) as not_empty:
            tenant_management.delete_tenant(db, names[0])
        self.assertEqual(not_empty.exception.code, 2133)
        for tenant in tenants:
            tenant.clear_range(b"", b"\xff")


class Watches(LayerTest):
    def test_a_watch_calls_back_when_the_value_changes(self):
        watch = db.clear_and_watch(b"watched")
        called = threading.Event()
        watch.on_ready(lambda _future: called.set())
        self.assertFalse(called.is_set())
        db[b"watched"] = b"now"
        self.assertTrue(called.wait(60))
        value, watch = db.get_and_watch(b"watched")
        self.assertEqual(value, b"now")
        del db[b"watched"]
        watch.wait()

    def test_callbacks_commit_what_fires_other_watches(self):
        keys = [b"chain/%d" % i for i in range(5)]
        watches = [db.clear_and_watch(key) for key in keys]
        running, fired, done = [], [], threading.Event()

        def callback(link):
            def called(_future):
                running.append(link)
                nested = len(running) > 1
                if link + 1 < len(keys):
                    tr = db.create_transaction()
                    tr[keys[link + 1]] = b"fired"
                    # Waiting is not allowed here: the commit ends without.
                    tr.commit().on_ready(lambda _commit: None)
                fired.append((link, nested))
                running.remove(link)
                if link + 1 == len(keys):
                    done.set()

            return called

        for link, watch in enumerate(watches):
            watch.on_ready(callback(link))
        db[keys[0]] = b"fired"
        self.assertTrue(done.wait(60))
        self.assertEqual(fired, [(link, False) for link in range(len(keys))])


if __name__ == "__main__":
    unittest.main()
