/* A client in C: every kind of handle is made, used and destroyed, in more than one state.
 *
 * It declares the part of fdb_c.h that it uses, so that it can be compiled if FoundationDB's headers
 * are not installed. Exit status 0 if every answer was as expected; checks/c/run looks for leaks. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct future FDBFuture;
typedef struct database FDBDatabase;
typedef struct tenant FDBTenant;
typedef struct transaction FDBTransaction;
typedef int fdb_error_t;
typedef int fdb_bool_t;
#pragma pack(push, 4)
typedef struct {
    const uint8_t *key;
    int key_length;
    const uint8_t *value;
    int value_length;
} FDBKeyValue;
#pragma pack(pop)

const char *fdb_get_error(fdb_error_t);
fdb_error_t fdb_select_api_version_impl(int, int);
fdb_error_t fdb_network_set_option(int, const uint8_t *, int);
fdb_error_t fdb_setup_network(void);
fdb_error_t fdb_run_network(void);
fdb_error_t fdb_stop_network(void);
fdb_error_t fdb_create_database(const char *, FDBDatabase **);
void fdb_database_destroy(FDBDatabase *);
fdb_error_t fdb_future_get_int64(FDBFuture *, int64_t *);
FDBFuture *fdb_database_reboot_worker(FDBDatabase *, const uint8_t *, int, fdb_bool_t, int);
FDBFuture *fdb_database_create_snapshot(FDBDatabase *, const uint8_t *, int, const uint8_t *, int);
fdb_error_t fdb_database_create_transaction(FDBDatabase *, FDBTransaction **);
fdb_error_t fdb_database_open_tenant(FDBDatabase *, const uint8_t *, int, FDBTenant **);
void fdb_tenant_destroy(FDBTenant *);
fdb_error_t fdb_tenant_create_transaction(FDBTenant *, FDBTransaction **);
void fdb_transaction_destroy(FDBTransaction *);
void fdb_transaction_cancel(FDBTransaction *);
void fdb_transaction_reset(FDBTransaction *);
void fdb_transaction_set(FDBTransaction *, const uint8_t *, int, const uint8_t *, int);
fdb_error_t fdb_transaction_set_option(FDBTransaction *, int, const uint8_t *, int);
FDBFuture *fdb_transaction_get(FDBTransaction *, const uint8_t *, int, fdb_bool_t);
FDBFuture *fdb_transaction_get_range(FDBTransaction *, const uint8_t *, int, fdb_bool_t, int,
                                     const uint8_t *, int, fdb_bool_t, int, int, int, int, int,
                                     fdb_bool_t, fdb_bool_t);
FDBFuture *fdb_transaction_watch(FDBTransaction *, const uint8_t *, int);
FDBFuture *fdb_transaction_commit(FDBTransaction *);
FDBFuture *fdb_transaction_on_error(FDBTransaction *, fdb_error_t);
FDBFuture *fdb_transaction_get_versionstamp(FDBTransaction *);
fdb_error_t fdb_future_block_until_ready(FDBFuture *);
fdb_bool_t fdb_future_is_ready(FDBFuture *);
fdb_error_t fdb_future_set_callback(FDBFuture *, void (*)(FDBFuture *, void *), void *);
fdb_error_t fdb_future_get_error(FDBFuture *);
fdb_error_t fdb_future_get_key(FDBFuture *, const uint8_t **, int *);
fdb_error_t fdb_future_get_value(FDBFuture *, fdb_bool_t *, const uint8_t **, int *);
fdb_error_t fdb_future_get_keyvalue_array(FDBFuture *, const FDBKeyValue **, int *, fdb_bool_t *);
void fdb_future_release_memory(FDBFuture *);
void fdb_future_cancel(FDBFuture *);
void fdb_future_destroy(FDBFuture *);

#define TEXT(text) (const uint8_t *)(text), (int)(sizeof(text) - 1)

static void expect(const char *what, long expected, long got) {
    if (expected != got) {
        fprintf(stderr, "%s: expected %ld, got %ld (%s)\n", what, expected, got, fdb_get_error((int)got));
        exit(1);
    }
}

static void *network(void *unused) {
    expect("fdb_run_network", 0, fdb_run_network());
    return unused;
}

/* Waits for a future and destroys it; returns its error. */
static fdb_error_t finish(FDBFuture *future) {
    expect("block_until_ready", 0, fdb_future_block_until_ready(future));
    fdb_error_t error = fdb_future_get_error(future);
    fdb_future_destroy(future);
    return error;
}

static FDBTransaction *begin(FDBDatabase *database) {
    FDBTransaction *transaction;
    expect("create_transaction", 0, fdb_database_create_transaction(database, &transaction));
    return transaction;
}

static void called(FDBFuture *future, void *lock) {
    (void)future;
    pthread_mutex_unlock(lock);
}

static void must_not_run(FDBFuture *future, void *unused) {
    (void)future, (void)unused;
    fputs("a callback was called after fdb_stop_network\n", stderr);
    exit(1);
}

static void recovery(FDBDatabase *database) {
    FDBTransaction *tr = begin(database);
    int64_t rebooted;
    expect("get", 0, finish(fdb_transaction_get(tr, TEXT("key/0001"), 0)));
    fdb_transaction_set(tr, TEXT("key/0001"), TEXT("value"));
    FDBFuture *reboot = fdb_database_reboot_worker(database, TEXT("127.0.0.1:4500"), 0, 0);
    expect("reboot", 0, fdb_future_get_int64(reboot, &rebooted));
    expect("rebooted", 1, rebooted);
    fdb_future_destroy(reboot);
    fdb_error_t error = finish(fdb_transaction_commit(tr));
    expect("commit across a recovery", 1007, error);
    expect("on_error", 0, finish(fdb_transaction_on_error(tr, error)));
    fdb_transaction_set(tr, TEXT("key/0001"), TEXT("value"));
    expect("commit after a recovery", 0, finish(fdb_transaction_commit(tr)));
    fdb_transaction_destroy(tr);
    expect("snapshot", 2509, finish(fdb_database_create_snapshot(database, TEXT("id"), TEXT("command"))));
}

static void reads_and_writes(FDBDatabase *database) {
    FDBTransaction *tr = begin(database);
    char key[16];
    for (int i = 0; i < 1000; i++) {
        int length = snprintf(key, sizeof key, "key/%04d", i);
        fdb_transaction_set(tr, (const uint8_t *)key, length, TEXT("value"));
    }
    FDBFuture *stamp = fdb_transaction_get_versionstamp(tr);
    expect("commit", 0, finish(fdb_transaction_commit(tr)));
    const uint8_t *bytes;
    int length;
    expect("get_key", 0, fdb_future_get_key(stamp, &bytes, &length));
    expect("versionstamp's length", 10, length);
    fdb_future_destroy(stamp);
    fdb_transaction_reset(tr);

    FDBFuture *get = fdb_transaction_get(tr, TEXT("key/0007"), 0);
    expect("block_until_ready", 0, fdb_future_block_until_ready(get));
    fdb_bool_t present;
    expect("get_value", 0, fdb_future_get_value(get, &present, &bytes, &length));
    expect("present", 1, present);
    expect("value", 0, length != 5 || memcmp(bytes, "value", 5));
    expect("get_value", 0, fdb_future_get_value(get, &present, &bytes, &length));
    fdb_future_release_memory(get);
    expect("released once of twice", 0, fdb_future_get_value(get, &present, &bytes, &length));
    fdb_future_release_memory(get);
    fdb_future_release_memory(get);
    expect("error after release", 1102, fdb_future_get_error(get));
    expect("released", 1102, fdb_future_get_value(get, &present, &bytes, &length));
    fdb_future_destroy(get);

    FDBFuture *range = fdb_transaction_get_range(tr, TEXT("key/"), 0, 1, TEXT("key0"), 0, 1, 0, 0, -2, 0, 0, 0);
    const FDBKeyValue *rows;
    int count;
    fdb_bool_t more;
    expect("block_until_ready", 0, fdb_future_block_until_ready(range));
    expect("get_range", 0, fdb_future_get_keyvalue_array(range, &rows, &count, &more));
    expect("rows", 1000, count);
    expect("key", 0, memcmp(rows[999].key, "key/0999", 8));
    fdb_future_destroy(range);
    fdb_transaction_destroy(tr);
}

static void conflicts(FDBDatabase *database) {
    FDBTransaction *one = begin(database), *two = begin(database);
    expect("get", 0, finish(fdb_transaction_get(one, TEXT("n"), 0)));
    expect("get", 0, finish(fdb_transaction_get(two, TEXT("n"), 0)));
    fdb_transaction_set(one, TEXT("n"), TEXT("1"));
    fdb_transaction_set(two, TEXT("n"), TEXT("2"));
    expect("commit", 0, finish(fdb_transaction_commit(one)));
    expect("conflict", 1020, finish(fdb_transaction_commit(two)));
    expect("on_error", 0, finish(fdb_transaction_on_error(two, 1020)));
    fdb_transaction_set(two, TEXT("n"), TEXT("2"));
    /* The commit continues without its future and its transaction. */
    fdb_future_destroy(fdb_transaction_commit(two));
    fdb_transaction_destroy(two);
    fdb_transaction_destroy(one);
}

static void watches(FDBDatabase *database) {
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    FDBTransaction *tr = begin(database);
    FDBFuture *fires = fdb_transaction_watch(tr, TEXT("watched"));
    FDBFuture *cancelled = fdb_transaction_watch(tr, TEXT("watched"));
    FDBFuture *destroyed = fdb_transaction_watch(tr, TEXT("watched"));
    expect("commit", 0, finish(fdb_transaction_commit(tr)));
    expect("pending", 0, fdb_future_is_ready(fires));
    fdb_future_cancel(cancelled);
    expect("cancelled", 1101, finish(cancelled));
    fdb_future_destroy(destroyed);
    pthread_mutex_lock(&lock);
    expect("set_callback", 0, fdb_future_set_callback(fires, called, &lock));
    fdb_transaction_reset(tr);
    fdb_transaction_set(tr, TEXT("watched"), TEXT("now"));
    expect("commit", 0, finish(fdb_transaction_commit(tr)));
    pthread_mutex_lock(&lock); /* Until the callback has been called. */
    expect("fired", 0, finish(fires));
    fdb_transaction_reset(tr);
    FDBFuture *orphan = fdb_transaction_watch(tr, TEXT("watched"));
    fdb_transaction_cancel(tr);
    expect("orphan", 1025, finish(orphan));
    fdb_transaction_destroy(tr);
}

/* Watches whose callbacks make the commit that fires the next watch. Each callback must run by itself: not
 * inside the commit of another one, and not while the engine holds a lock. */
static struct {
    FDBDatabase *database;
    FDBFuture *watches[4];
    int depth, fired;
    pthread_mutex_t done;
} chain = {.done = PTHREAD_MUTEX_INITIALIZER};

static void set_link(int link) {
    char key[] = "chain/0";
    key[6] += (char)link;
    FDBTransaction *tr = begin(chain.database);
    fdb_transaction_set(tr, (const uint8_t *)key, 7, TEXT("fired"));
    expect("commit", 0, finish(fdb_transaction_commit(tr)));
    fdb_transaction_destroy(tr);
}

static void commits_next_link(FDBFuture *future, void *unused) {
    (void)unused;
    expect("depth of callbacks", 1, ++chain.depth);
    expect("fired in order", 1, chain.watches[chain.fired] == future);
    if (++chain.fired < 4)
        set_link(chain.fired);
    else
        pthread_mutex_unlock(&chain.done);
    chain.depth--;
}

static void chain_of_callbacks(FDBDatabase *database, int network_runs) {
    chain.database = database;
    chain.fired = 0;
    pthread_mutex_lock(&chain.done);
    for (int link = 0; link < 4; link++) {
        char key[] = "chain/0";
        key[6] += (char)link;
        FDBTransaction *tr = begin(database);
        fdb_transaction_set(tr, (const uint8_t *)key, 7, TEXT(""));
        chain.watches[link] = fdb_transaction_watch(tr, (const uint8_t *)key, 7);
        expect("commit", 0, finish(fdb_transaction_commit(tr)));
        fdb_transaction_destroy(tr);
        expect("set_callback", 0, fdb_future_set_callback(chain.watches[link], commits_next_link, NULL));
    }
    set_link(0);
    if (!network_runs) {
        /* No thread for callbacks exists yet. */
        expect("fired before the network runs", 0, chain.fired);
        return;
    }
    pthread_mutex_lock(&chain.done); /* Until the last callback. */
    pthread_mutex_unlock(&chain.done);
    for (int link = 0; link < 4; link++)
        expect("chain", 0, finish(chain.watches[link]));
}

static void tenants(FDBDatabase *database) {
    FDBTransaction *tr = begin(database);
    expect("special_key_space_enable_writes", 0, fdb_transaction_set_option(tr, 714, NULL, 0));
    fdb_transaction_set(tr, TEXT("\xff\xff/management/tenant/map/c"), TEXT(""));
    expect("create tenant", 0, finish(fdb_transaction_commit(tr)));
    fdb_transaction_destroy(tr);
    FDBTenant *tenant, *missing;
    expect("open_tenant", 0, fdb_database_open_tenant(database, TEXT("c"), &tenant));
    expect("open_tenant", 0, fdb_database_open_tenant(database, TEXT("missing"), &missing));
    expect("create_transaction", 0, fdb_tenant_create_transaction(tenant, &tr));
    fdb_tenant_destroy(tenant);
    fdb_transaction_set(tr, TEXT("key"), TEXT("value"));
    expect("commit", 0, finish(fdb_transaction_commit(tr)));
    fdb_transaction_destroy(tr);
    expect("create_transaction", 0, fdb_tenant_create_transaction(missing, &tr));
    expect("no tenant", 2131, finish(fdb_transaction_get(tr, TEXT("key"), 0)));
    fdb_transaction_destroy(tr);
    fdb_tenant_destroy(missing);
}

int main(void) {
    pthread_t thread;
    FDBDatabase *database, *none;
    expect("select_api_version", 0, fdb_select_api_version_impl(730, 730));
    expect("callbacks_on_external_threads", 0, fdb_network_set_option(61, NULL, 0));
    expect("setup_network", 0, fdb_setup_network());
    expect("callbacks_on_external_threads, late", 2007, fdb_network_set_option(61, NULL, 0));
    expect("disable_client_bypass, late", 4100, fdb_network_set_option(72, NULL, 0));
    FDBDatabase *early;
    expect("create_database", 0, fdb_create_database("embedded:memory:early", &early));
    chain_of_callbacks(early, 0);
    expect("pthread_create", 0, pthread_create(&thread, NULL, network, NULL));
    pthread_mutex_lock(&chain.done);
    pthread_mutex_unlock(&chain.done);
    for (int link = 0; link < 4; link++)
        expect("chain begun before the network", 0, finish(chain.watches[link]));
    fdb_database_destroy(early);
    expect("create_database", 2104, fdb_create_database("embedded:no such kind", &none));
    expect("create_database", 2000, fdb_create_database("embedded:memory:c", NULL));
    expect("create_database", 0, fdb_create_database("embedded:memory:c", &database));
    expect("create_transaction", 2000, fdb_database_create_transaction(database, NULL));
    expect("open_tenant", 2000, fdb_database_open_tenant(database, TEXT("c"), NULL));
    reads_and_writes(database);
    recovery(database);
    conflicts(database);
    watches(database);
    chain_of_callbacks(database, 1);
    tenants(database);
    FDBTransaction *last = begin(database);
    FDBFuture *late = fdb_transaction_watch(last, TEXT("late"));
    expect("commit", 0, finish(fdb_transaction_commit(last)));
    expect("set_callback", 0, fdb_future_set_callback(late, must_not_run, NULL));
    expect("stop_network", 0, fdb_stop_network());
    expect("pthread_join", 0, pthread_join(thread, NULL));
    /* No callback is called any more. */
    fdb_transaction_reset(last);
    fdb_transaction_set(last, TEXT("late"), TEXT("now"));
    expect("commit", 0, finish(fdb_transaction_commit(last)));
    fdb_transaction_destroy(last);
    fdb_future_destroy(late);
    fdb_database_destroy(database);
    puts("every answer was as expected");
    return 0;
}
