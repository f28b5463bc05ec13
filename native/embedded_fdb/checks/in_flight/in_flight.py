#!/usr/bin/env python3
"""Random transactions whose reads are all in flight together, on the client library that the binding loads.

    pip install foundationdb==7.3.79
    LD_LIBRARY_PATH=DIR_WITH_LIBFDB_C in_flight.py check RECORDING [CLUSTER_FILE]
    LD_LIBRARY_PATH=DIR_WITH_LIBFDB_C in_flight.py record RECORDING CLUSTER_FILE

A script is made from its number. It fills a small key space, sends up to eight reads between writes, and only
then waits for them, in their order. What they answer tells what the client knew when it sent each request, and
in which order the answers came.

`record` runs each script several times on a real cluster, whose answers depend on its timing now and then, and
keeps those that are the same each time. `check` runs what was recorded, and prints what differs.

Both wipe the user key space ("" to "\\xff"): point them at a scratch database.
"""
import gzip
import json
import random
import sys

import fdb

fdb.api_version(730)
capi = fdb.impl._capi

PREFIX = b"fl/"
SCRIPTS = 1500
TIMES = 4
# A range read in reverse whose end lies beyond the last user key: there the engine's system keys differ from a
# cluster's, and its answer comes at a different time.
KNOWN_DIFFERENCES = {147, 1207}
STREAMING_MODES = [-2, -1, 0, 1, 2, 3, 4]
EXACT = 0


def random_key(rng):
    return PREFIX + bytes(rng.choice(b"abcde") for _ in range(rng.randrange(3)))


def two_keys(rng):
    return sorted([random_key(rng), random_key(rng)])


def get_range(tr, begin, end, limit, target_bytes, mode, iteration, snapshot, reverse):
    """One page: the binding itself would ask for the next ones."""
    future = capi.fdb_transaction_get_range(
        tr.tpointer, begin[0], len(begin[0]), begin[1], begin[2], end[0], len(end[0]), end[1], end[2],
        limit, target_bytes, mode, iteration, snapshot, reverse,
    )
    return fdb.impl.FutureKeyValueArray(future)


def random_range(rng, tr, snapshot):
    if rng.random() < 0.3:
        begin, end = PREFIX, PREFIX + b"\xff"
    elif rng.random() < 0.85:
        begin, end = two_keys(rng)
    else:
        begin, end = random_key(rng), random_key(rng)
    selectors = [[key, 0, 1] for key in (begin, end)]
    if rng.random() < 0.3:
        for selector in selectors:
            selector[1:] = rng.randrange(2), rng.randrange(-2, 4)
    mode = rng.choice(STREAMING_MODES)
    limit = rng.choice([1, 2, 3] if mode == EXACT else [0, 0, 0, 1, 2, 5])
    target_bytes = rng.choice([0, 0, 1, 30, 300])
    return get_range(
        tr, *selectors, limit, target_bytes, mode, rng.choice([1, 1, 2, 3]), snapshot, rng.random() < 0.4
    )


def text(value):
    return bytes(value).decode("latin1")


def answer(kind, future):
    try:
        value = future.wait()
        if kind == "range":
            rows, _count, more = value
            return [[text(row.key), text(row.value)] for row in rows], bool(more)
        if kind == "get":
            return text(value) if value.present() else None
        return text(value)
    except fdb.FDBError as error:
        return error.code


def run(db, number):
    """The results of a script's reads, and the size of its transaction."""
    rng = random.Random(number)
    tr = db.create_transaction()
    tr.clear_range(b"", b"\xff")
    for _ in range(rng.randrange(1, 14)):
        tr.set(random_key(rng), b"v" * rng.choice([1, 1, 1, 10, 200]))
    tr.commit().wait()

    tr = db.create_transaction()
    if rng.random() < 0.5:
        tr.get_read_version().wait()
    if rng.random() < 0.3:
        # Some data are known before.
        begin, end = two_keys(rng)
        answer("range", get_range(tr, [begin, 0, 1], [end, 0, 1], rng.choice([0, 1, 2]), 0, -2, 1, 0, 0))
    reads = []
    for _ in range(rng.randrange(2, 9)):
        choice, snapshot = rng.random(), rng.random() < 0.3
        reader = tr.snapshot if snapshot else tr
        if choice < 0.5:
            reads.append(("range", random_range(rng, tr, snapshot)))
        elif choice < 0.7:
            reads.append(("get", reader.get(random_key(rng))))
        elif choice < 0.8:
            selector = fdb.KeySelector(random_key(rng), rng.randrange(2) == 1, rng.randrange(-2, 4))
            reads.append(("key", reader.get_key(selector)))
        elif choice < 0.9:
            tr.set(random_key(rng), b"w")
        elif choice < 0.95:
            tr.clear_range(*two_keys(rng))
        else:
            tr.add(random_key(rng), b"\1")
    answers = [[kind, answer(kind, future)] for kind, future in reads]
    return answers + [["size", tr.get_approximate_size().wait()]]


def plain(value):
    return json.loads(json.dumps(value))


def record(path, cluster_file):
    db = fdb.open(cluster_file)
    runs = [[plain(run(db, number)) for number in range(SCRIPTS)] for _ in range(TIMES)]
    kept = 0
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        for number, first in enumerate(runs[0]):
            if all(other[number] == first for other in runs):
                kept += 1
                file.write(json.dumps([number, first]).encode() + b"\n")
    print(f"{kept} of {SCRIPTS} scripts were the same {TIMES} times, and are recorded")


def check(path, cluster_file=None):
    db = fdb.open(cluster_file)
    passed = known = failed = 0
    with gzip.open(path, "rt") as file:
        for line in file:
            number, expected = json.loads(line)
            got = plain(run(db, number))
            if got == expected:
                passed += 1
                continue
            if number in KNOWN_DIFFERENCES:
                known += 1
                continue
            failed += 1
            for place, (wanted, found) in enumerate(zip(expected, got)):
                if wanted != found:
                    print(f"script {number}, answer {place}: expected {wanted}, got {found}")
    print(f"{passed} passed, {failed} failed, {known} differ as is known")
    return failed == 0 and passed > 0


if __name__ == "__main__":
    command, *arguments = sys.argv[1:] or ["help"]
    if command == "record" and len(arguments) == 2:
        record(*arguments)
    elif command == "check" and len(arguments) in (1, 2):
        sys.exit(0 if check(*arguments) else 1)
    else:
        sys.exit(__doc__)
