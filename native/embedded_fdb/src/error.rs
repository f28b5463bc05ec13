//! Error codes of the C API: numbers, names and descriptions.
//!
//! The numbers are FoundationDB's and part of its API: clients compare them.

use std::ffi::CStr;

/// An error code of the C API. Never `0`: success is not an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Error(pub(crate) i32);

/// The result of every fallible function.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// One row for each code: constant, number, description.
macro_rules! errors {
    ($($name:ident $code:literal $text:literal;)*) => {
        #[allow(dead_code)] // the table is complete, whether or not the engine uses a code
        impl Error {
            $(pub(crate) const $name: Error = Error($code);)*
        }

        /// The description that `fdb_get_error` returns for a code.
        pub(crate) fn describe(code: i32) -> &'static CStr {
            match code {
                0 => c"Success",
                // Numbers that no release can use count as unknown errors.
                i32::MIN..0 | 30_001.. => c"An unknown error occurred",
                $($code => $text,)*
                _ => c"UNKNOWN_ERROR",
            }
        }
    };
}

errors! {
    END_OF_STREAM 1 c"End of stream";
    OPERATION_FAILED 1000 c"Operation failed";
    WRONG_SHARD_SERVER 1001 c"Shard is not available from this server";
    OPERATION_OBSOLETE 1002 c"Operation result no longer necessary";
    COLD_CACHE_SERVER 1003 c"Cache server is not warm for this range";
    TIMED_OUT 1004 c"Operation timed out";
    COORDINATED_STATE_CONFLICT 1005 c"Conflict occurred while changing coordination information";
    ALL_ALTERNATIVES_FAILED 1006 c"All alternatives failed";
    TRANSACTION_TOO_OLD 1007 c"Transaction is too old to perform reads or be committed";
    NO_MORE_SERVERS 1008 c"Not enough physical servers available";
    FUTURE_VERSION 1009 c"Request for future version";
    MOVEKEYS_CONFLICT 1010 c"Conflicting attempts to change data distribution";
    TLOG_STOPPED 1011 c"TLog stopped";
    SERVER_REQUEST_QUEUE_FULL 1012 c"Server request queue is full";
    NOT_COMMITTED 1020 c"Transaction not committed due to conflict with another transaction";
    COMMIT_UNKNOWN_RESULT 1021 c"Transaction may or may not have committed";
    COMMIT_UNKNOWN_RESULT_FATAL 1022 c"Idempotency id for transaction may have expired, so the commit status of the transaction cannot be determined";
    TRANSACTION_CANCELLED 1025 c"Operation aborted because the transaction was cancelled";
    CONNECTION_FAILED 1026 c"Network connection failed";
    COORDINATORS_CHANGED 1027 c"Coordination servers have changed";
    NEW_COORDINATORS_TIMED_OUT 1028 c"New coordination servers did not respond in a timely way";
    WATCH_CANCELLED 1029 c"Watch cancelled because storage server watch limit exceeded";
    REQUEST_MAYBE_DELIVERED 1030 c"Request may or may not have been delivered";
    TRANSACTION_TIMED_OUT 1031 c"Operation aborted because the transaction timed out";
    TOO_MANY_WATCHES 1032 c"Too many watches currently set";
    LOCALITY_INFORMATION_UNAVAILABLE 1033 c"Locality information not available";
    WATCHES_DISABLED 1034 c"Watches cannot be set if read your writes is disabled";
    DEFAULT_ERROR_OR 1035 c"Default error for an ErrorOr object";
    ACCESSED_UNREADABLE 1036 c"Read or wrote an unreadable key";
    PROCESS_BEHIND 1037 c"Storage process does not have recent mutations";
    DATABASE_LOCKED 1038 c"Database is locked";
    CLUSTER_VERSION_CHANGED 1039 c"The protocol version of the cluster has changed";
    EXTERNAL_CLIENT_ALREADY_LOADED 1040 c"External client has already been loaded";
    LOOKUP_FAILED 1041 c"DNS lookup failed";
    COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED 1042 c"CommitProxy commit memory limit exceeded";
    SHUTDOWN_IN_PROGRESS 1043 c"Operation no longer supported due to shutdown";
    SERIALIZATION_FAILED 1044 c"Failed to deserialize an object";
    CONNECTION_UNREFERENCED 1048 c"No peer references for connection";
    CONNECTION_IDLE 1049 c"Connection closed after idle timeout";
    DISK_ADAPTER_RESET 1050 c"The disk queue adpater reset";
    BATCH_TRANSACTION_THROTTLED 1051 c"Batch GRV request rate limit exceeded";
    DD_CANCELLED 1052 c"Data distribution components cancelled";
    DD_NOT_FOUND 1053 c"Data distributor not found";
    WRONG_CONNECTION_FILE 1054 c"Connection file mismatch";
    VERSION_ALREADY_COMPACTED 1055 c"The requested changes have been compacted away";
    LOCAL_CONFIG_CHANGED 1056 c"Local configuration file has changed. Restart and apply these changes";
    FAILED_TO_REACH_QUORUM 1057 c"Failed to reach quorum from configuration database nodes. Retry sending these requests";
    UNSUPPORTED_FORMAT_VERSION 1058 c"Format version not supported";
    UNKNOWN_CHANGE_FEED 1059 c"Change feed not found";
    CHANGE_FEED_NOT_REGISTERED 1060 c"Change feed not registered";
    GRANULE_ASSIGNMENT_CONFLICT 1061 c"Conflicting attempts to assign blob granules";
    CHANGE_FEED_CANCELLED 1062 c"Change feed was cancelled";
    BLOB_GRANULE_FILE_LOAD_ERROR 1063 c"Error loading a blob file during granule materialization";
    BLOB_GRANULE_TRANSACTION_TOO_OLD 1064 c"Read version is older than blob granule history supports";
    BLOB_MANAGER_REPLACED 1065 c"This blob manager has been replaced.";
    CHANGE_FEED_POPPED 1066 c"Tried to read a version older than what has been popped from the change feed";
    REMOTE_KVS_CANCELLED 1067 c"The remote key-value store is cancelled";
    PAGE_HEADER_WRONG_PAGE_ID 1068 c"Page header does not match location on disk";
    PAGE_HEADER_CHECKSUM_FAILED 1069 c"Page header checksum failed";
    PAGE_HEADER_VERSION_NOT_SUPPORTED 1070 c"Page header version is not supported";
    PAGE_ENCODING_NOT_SUPPORTED 1071 c"Page encoding type is not supported or not valid";
    PAGE_DECODING_FAILED 1072 c"Page content decoding failed";
    UNEXPECTED_ENCODING_TYPE 1073 c"Page content decoding failed";
    ENCRYPTION_KEY_NOT_FOUND 1074 c"Encryption key not found";
    DATA_MOVE_CANCELLED 1075 c"Data move was cancelled";
    DATA_MOVE_DEST_TEAM_NOT_FOUND 1076 c"Dest team was not found for data move";
    BLOB_WORKER_FULL 1077 c"Blob worker cannot take on more granule assignments";
    GRV_PROXY_MEMORY_LIMIT_EXCEEDED 1078 c"GetReadVersion proxy memory limit exceeded";
    BLOB_GRANULE_REQUEST_FAILED 1079 c"BlobGranule request failed";
    STORAGE_TOO_MANY_FEED_STREAMS 1080 c"Too many feed streams to a single storage server";
    STORAGE_ENGINE_NOT_INITIALIZED 1081 c"Storage engine was never successfully initialized.";
    UNKNOWN_STORAGE_ENGINE 1082 c"Storage engine type is not recognized.";
    DUPLICATE_SNAPSHOT_REQUEST 1083 c"A duplicate snapshot request has been sent, the old request is discarded.";
    DD_CONFIG_CHANGED 1084 c"DataDistribution configuration changed.";
    CONSISTENCY_CHECK_URGENT_TASK_FAILED 1085 c"Consistency check urgent task is failed";
    DATA_MOVE_CONFLICT 1086 c"Data move conflict in SS";
    CONSISTENCY_CHECK_URGENT_DUPLICATE_REQUEST 1087 c"Consistency check urgent got a duplicate request";
    BROKEN_PROMISE 1100 c"Broken promise";
    OPERATION_CANCELLED 1101 c"Asynchronous operation cancelled";
    FUTURE_RELEASED 1102 c"Future has been released";
    CONNECTION_LEAKED 1103 c"Connection object leaked";
    NEVER_REPLY 1104 c"Never reply to the request";
    RETRY 1105 c"Retry operation";
    RECRUITMENT_FAILED 1200 c"Recruitment of a server failed";
    MOVE_TO_REMOVED_SERVER 1201 c"Attempt to move keys to a storage server that was removed";
    WORKER_REMOVED 1202 c"Normal worker shut down";
    CLUSTER_RECOVERY_FAILED 1203 c"Cluster recovery failed";
    MASTER_MAX_VERSIONS_IN_FLIGHT 1204 c"Master hit maximum number of versions in flight";
    TLOG_FAILED 1205 c"Cluster recovery terminating because a TLog failed";
    WORKER_RECOVERY_FAILED 1206 c"Recovery of a worker process failed";
    PLEASE_REBOOT 1207 c"Reboot of server process requested";
    PLEASE_REBOOT_DELETE 1208 c"Reboot of server process requested, with deletion of state";
    COMMIT_PROXY_FAILED 1209 c"Master terminating because a CommitProxy failed";
    RESOLVER_FAILED 1210 c"Cluster recovery terminating because a Resolver failed";
    SERVER_OVERLOADED 1211 c"Server is under too much load and cannot respond";
    BACKUP_WORKER_FAILED 1212 c"Cluster recovery terminating because a backup worker failed";
    TAG_THROTTLED 1213 c"Transaction tag is being throttled";
    GRV_PROXY_FAILED 1214 c"Cluster recovery terminating because a GRVProxy failed";
    DD_TRACKER_CANCELLED 1215 c"The data distribution tracker has been cancelled";
    FAILED_TO_PROGRESS 1216 c"Process has failed to make sufficient progress";
    INVALID_CLUSTER_ID 1217 c"Attempted to join cluster with a different cluster ID";
    RESTART_CLUSTER_CONTROLLER 1218 c"Restart cluster controller process";
    PLEASE_REBOOT_KV_STORE 1219 c"Need to reboot the storage engine";
    INCOMPATIBLE_SOFTWARE_VERSION 1220 c"Current software does not support database format";
    AUDIT_STORAGE_FAILED 1221 c"Validate storage consistency operation failed";
    AUDIT_STORAGE_EXCEEDED_REQUEST_LIMIT 1222 c"Exceeded the max number of allowed concurrent audit storage requests";
    PROXY_TAG_THROTTLED 1223 c"Exceeded maximum proxy tag throttling duration";
    KEY_VALUE_STORE_DEADLINE_EXCEEDED 1224 c"Exceeded maximum time allowed to read or write.";
    STORAGE_QUOTA_EXCEEDED 1225 c"Exceeded the maximum storage quota allocated to the tenant.";
    AUDIT_STORAGE_ERROR 1226 c"Found data corruption";
    MASTER_FAILED 1227 c"Cluster recovery terminating because master has failed";
    TEST_FAILED 1228 c"Test failed";
    RETRY_CLEAN_UP_DATAMOVE_TOMBSTONE_ADDED 1229 c"Need background datamove cleanup";
    PERSIST_NEW_AUDIT_METADATA_ERROR 1230 c"Persist new audit metadata error";
    CANCEL_AUDIT_STORAGE_FAILED 1231 c"Failed to cancel an audit";
    AUDIT_STORAGE_CANCELLED 1232 c"Audit has been cancelled";
    LOCATION_METADATA_CORRUPTION 1233 c"Found location metadata corruption";
    AUDIT_STORAGE_TASK_OUTDATED 1234 c"Audit task is scheduled by an outdated DD";
    FINISH_MOVE_KEYS_TOO_MANY_RETRIES 1235 c"finishMoveKeys exceeded retry limit";
    PLATFORM_ERROR 1500 c"Platform error";
    LARGE_ALLOC_FAILED 1501 c"Large block allocation failed";
    PERFORMANCE_COUNTER_ERROR 1502 c"QueryPerformanceCounter error";
    BAD_ALLOCATOR 1503 c"Null allocator was used to allocate memory";
    IO_ERROR 1510 c"Disk i/o operation failed";
    FILE_NOT_FOUND 1511 c"File not found";
    BIND_FAILED 1512 c"Unable to bind to network";
    FILE_NOT_READABLE 1513 c"File could not be read";
    FILE_NOT_WRITABLE 1514 c"File could not be written";
    NO_CLUSTER_FILE_FOUND 1515 c"No cluster file found in current directory or default location";
    FILE_TOO_LARGE 1516 c"File too large to be read";
    NON_SEQUENTIAL_OP 1517 c"Non sequential file operation not allowed";
    HTTP_BAD_RESPONSE 1518 c"HTTP response was badly formed";
    HTTP_NOT_ACCEPTED 1519 c"HTTP request not accepted";
    CHECKSUM_FAILED 1520 c"A data checksum failed";
    IO_TIMEOUT 1521 c"A disk IO operation failed to complete in a timely manner";
    FILE_CORRUPT 1522 c"A structurally corrupt data file was detected";
    HTTP_REQUEST_FAILED 1523 c"HTTP response code not received or indicated failure";
    HTTP_AUTH_FAILED 1524 c"HTTP request failed due to bad credentials";
    HTTP_BAD_REQUEST_ID 1525 c"HTTP response contained an unexpected X-Request-ID header";
    REST_INVALID_URI 1526 c"Invalid REST URI";
    REST_INVALID_REST_CLIENT_KNOB 1527 c"Invalid RESTClient knob";
    REST_CONNECTPOOL_KEY_NOT_FOUND 1528 c"ConnectKey not found in connection pool";
    LOCK_FILE_FAILURE 1529 c"Unable to lock the file";
    REST_UNSUPPORTED_PROTOCOL 1530 c"Unsupported REST protocol";
    REST_MALFORMED_RESPONSE 1531 c"Malformed REST response";
    REST_MAX_BASE_CIPHER_LEN 1532 c"Max BaseCipher length violation";
    CLIENT_INVALID_OPERATION 2000 c"Invalid API call";
    COMMIT_READ_INCOMPLETE 2002 c"Commit with incomplete read";
    TEST_SPECIFICATION_INVALID 2003 c"Invalid test specification";
    KEY_OUTSIDE_LEGAL_RANGE 2004 c"Key outside legal range";
    INVERTED_RANGE 2005 c"Range begin key larger than end key";
    INVALID_OPTION_VALUE 2006 c"Option set with an invalid value";
    INVALID_OPTION 2007 c"Option not valid in this context";
    NETWORK_NOT_SETUP 2008 c"Action not possible before the network is configured";
    NETWORK_ALREADY_SETUP 2009 c"Network can be configured only once";
    READ_VERSION_ALREADY_SET 2010 c"Transaction already has a read version set";
    VERSION_INVALID 2011 c"Version not valid";
    RANGE_LIMITS_INVALID 2012 c"Range limits not valid";
    INVALID_DATABASE_NAME 2013 c"Database name must be 'DB'";
    ATTRIBUTE_NOT_FOUND 2014 c"Attribute not found";
    FUTURE_NOT_SET 2015 c"Future not ready";
    FUTURE_NOT_ERROR 2016 c"Future not an error";
    USED_DURING_COMMIT 2017 c"Operation issued while a commit was outstanding";
    INVALID_MUTATION_TYPE 2018 c"Unrecognized atomic mutation type";
    ATTRIBUTE_TOO_LARGE 2019 c"Attribute too large for type int";
    TRANSACTION_INVALID_VERSION 2020 c"Transaction does not have a valid commit version";
    NO_COMMIT_VERSION 2021 c"Transaction is read-only and therefore does not have a commit version";
    ENVIRONMENT_VARIABLE_NETWORK_OPTION_FAILED 2022 c"Environment variable network option could not be set";
    TRANSACTION_READ_ONLY 2023 c"Attempted to commit a transaction specified as read-only";
    INVALID_CACHE_EVICTION_POLICY 2024 c"Invalid cache eviction policy, only random and lru are supported";
    NETWORK_CANNOT_BE_RESTARTED 2025 c"Network can only be started once";
    BLOCKED_FROM_NETWORK_THREAD 2026 c"Detected a deadlock in a callback called from the network thread";
    INVALID_CONFIG_DB_RANGE_READ 2027 c"Invalid configuration database range read";
    INVALID_CONFIG_DB_KEY 2028 c"Invalid configuration database key provided";
    INVALID_CONFIG_PATH 2029 c"Invalid configuration path";
    MAPPER_BAD_INDEX 2030 c"The index in K[] or V[] is not a valid number or out of range";
    MAPPER_NO_SUCH_KEY 2031 c"A mapped key is not set in database";
    MAPPER_BAD_RANGE_DECRIPTOR 2032 c"\"{...}\" must be the last element of the mapper tuple";
    QUICK_GET_KEY_VALUES_HAS_MORE 2033 c"One of the mapped range queries is too large";
    QUICK_GET_VALUE_MISS 2034 c"Found a mapped key that is not served in the same SS";
    QUICK_GET_KEY_VALUES_MISS 2035 c"Found a mapped range that is not served in the same SS";
    BLOB_GRANULE_NO_RYW 2036 c"Blob Granule Read Transactions must be specified as ryw-disabled";
    BLOB_GRANULE_NOT_MATERIALIZED 2037 c"Blob Granule Read was not materialized";
    GET_MAPPED_KEY_VALUES_HAS_MORE 2038 c"getMappedRange does not support continuation for now";
    GET_MAPPED_RANGE_READS_YOUR_WRITES 2039 c"getMappedRange tries to read data that were previously written in the transaction";
    CHECKPOINT_NOT_FOUND 2040 c"Checkpoint not found";
    KEY_NOT_TUPLE 2041 c"The key cannot be parsed as a tuple";
    VALUE_NOT_TUPLE 2042 c"The value cannot be parsed as a tuple";
    MAPPER_NOT_TUPLE 2043 c"The mapper cannot be parsed as a tuple";
    INVALID_CHECKPOINT_FORMAT 2044 c"Invalid checkpoint format";
    INVALID_THROTTLE_QUOTA_VALUE 2045 c"Invalid quota value. Note that reserved_throughput cannot exceed total_throughput";
    FAILED_TO_CREATE_CHECKPOINT 2046 c"Failed to create a checkpoint";
    FAILED_TO_RESTORE_CHECKPOINT 2047 c"Failed to restore a checkpoint";
    FAILED_TO_CREATE_CHECKPOINT_SHARD_METADATA 2048 c"Failed to dump shard metadata for a checkpoint to a sst file";
    ADDRESS_PARSE_ERROR 2049 c"Failed to parse address";
    INCOMPATIBLE_PROTOCOL_VERSION 2100 c"Incompatible protocol version";
    TRANSACTION_TOO_LARGE 2101 c"Transaction exceeds byte limit";
    KEY_TOO_LARGE 2102 c"Key length exceeds limit";
    VALUE_TOO_LARGE 2103 c"Value length exceeds limit";
    CONNECTION_STRING_INVALID 2104 c"Connection string invalid";
    ADDRESS_IN_USE 2105 c"Local address in use";
    INVALID_LOCAL_ADDRESS 2106 c"Invalid local address";
    TLS_ERROR 2107 c"TLS error";
    UNSUPPORTED_OPERATION 2108 c"Operation is not supported";
    TOO_MANY_TAGS 2109 c"Too many tags set on transaction";
    TAG_TOO_LONG 2110 c"Tag set on transaction is too long";
    TOO_MANY_TAG_THROTTLES 2111 c"Too many tag throttles have been created";
    SPECIAL_KEYS_CROSS_MODULE_READ 2112 c"Special key space range read crosses modules. Refer to the `special_key_space_relaxed' transaction option for more details.";
    SPECIAL_KEYS_NO_MODULE_FOUND 2113 c"Special key space range read does not intersect a module. Refer to the `special_key_space_relaxed' transaction option for more details.";
    SPECIAL_KEYS_WRITE_DISABLED 2114 c"Special Key space is not allowed to write by default. Refer to the `special_key_space_enable_writes` transaction option for more details.";
    SPECIAL_KEYS_NO_WRITE_MODULE_FOUND 2115 c"Special key space key or keyrange in set or clear does not intersect a module";
    SPECIAL_KEYS_CROSS_MODULE_CLEAR 2116 c"Special key space clear crosses modules";
    SPECIAL_KEYS_API_FAILURE 2117 c"Api call through special keys failed. For more information, call get on special key 0xff0xff/error_message to get a json string of the error message.";
    CLIENT_LIB_INVALID_METADATA 2118 c"Invalid client library metadata.";
    CLIENT_LIB_ALREADY_EXISTS 2119 c"Client library with same identifier already exists on the cluster.";
    CLIENT_LIB_NOT_FOUND 2120 c"Client library for the given identifier not found.";
    CLIENT_LIB_NOT_AVAILABLE 2121 c"Client library exists, but is not available for download.";
    CLIENT_LIB_INVALID_BINARY 2122 c"Invalid client library binary.";
    NO_EXTERNAL_CLIENT_PROVIDED 2123 c"No external client library provided.";
    ALL_EXTERNAL_CLIENTS_FAILED 2124 c"All external clients have failed.";
    INCOMPATIBLE_CLIENT 2125 c"None of the available clients match the protocol version of the cluster.";
    TENANT_NAME_REQUIRED 2130 c"Tenant name must be specified to access data in the cluster";
    TENANT_NOT_FOUND 2131 c"Tenant does not exist";
    TENANT_ALREADY_EXISTS 2132 c"A tenant with the given name already exists";
    TENANT_NOT_EMPTY 2133 c"Cannot delete a non-empty tenant";
    INVALID_TENANT_NAME 2134 c"Tenant name cannot begin with \\xff";
    TENANT_PREFIX_ALLOCATOR_CONFLICT 2135 c"The database already has keys stored at the prefix allocated for the tenant";
    TENANTS_DISABLED 2136 c"Tenants have been disabled in the cluster";
    ILLEGAL_TENANT_ACCESS 2138 c"Illegal tenant access";
    INVALID_TENANT_GROUP_NAME 2139 c"Tenant group name cannot begin with \\xff";
    INVALID_TENANT_CONFIGURATION 2140 c"Tenant configuration is invalid";
    CLUSTER_NO_CAPACITY 2141 c"Cluster does not have capacity to perform the specified operation";
    TENANT_REMOVED 2142 c"The tenant was removed";
    INVALID_TENANT_STATE 2143 c"Operation cannot be applied to tenant in its current state";
    TENANT_LOCKED 2144 c"Tenant is locked";
    INVALID_CLUSTER_NAME 2160 c"Data cluster name cannot begin with \\xff";
    INVALID_METACLUSTER_OPERATION 2161 c"Metacluster operation performed on non-metacluster";
    CLUSTER_ALREADY_EXISTS 2162 c"A data cluster with the given name already exists";
    CLUSTER_NOT_FOUND 2163 c"Data cluster does not exist";
    CLUSTER_NOT_EMPTY 2164 c"Cluster must be empty";
    CLUSTER_ALREADY_REGISTERED 2165 c"Data cluster is already registered with a metacluster";
    METACLUSTER_NO_CAPACITY 2166 c"Metacluster does not have capacity to create new tenants";
    MANAGEMENT_CLUSTER_INVALID_ACCESS 2167 c"Standard transactions cannot be run against the management cluster";
    TENANT_CREATION_PERMANENTLY_FAILED 2168 c"The tenant creation did not complete in a timely manner and has permanently failed";
    CLUSTER_REMOVED 2169 c"The cluster is being removed from the metacluster";
    CLUSTER_RESTORING 2170 c"The cluster is being restored to the metacluster";
    INVALID_DATA_CLUSTER 2171 c"The data cluster being restored has no record of its metacluster";
    METACLUSTER_MISMATCH 2172 c"The cluster does not have the expected name or is associated with a different metacluster";
    CONFLICTING_RESTORE 2173 c"Another restore is running for the same data cluster";
    INVALID_METACLUSTER_CONFIGURATION 2174 c"Metacluster configuration is invalid";
    API_VERSION_UNSET 2200 c"API version is not set";
    API_VERSION_ALREADY_SET 2201 c"API version may be set only once";
    API_VERSION_INVALID 2202 c"API version not valid";
    API_VERSION_NOT_SUPPORTED 2203 c"API version not supported";
    API_FUNCTION_MISSING 2204 c"Failed to load a required FDB API function.";
    EXACT_MODE_WITHOUT_LIMITS 2210 c"EXACT streaming mode requires limits, but none were given";
    INVALID_TUPLE_DATA_TYPE 2250 c"Unrecognized data type in packed tuple";
    INVALID_TUPLE_INDEX 2251 c"Tuple does not have element at specified index";
    KEY_NOT_IN_SUBSPACE 2252 c"Cannot unpack key that is not in subspace";
    MANUAL_PREFIXES_NOT_ENABLED 2253 c"Cannot specify a prefix unless manual prefixes are enabled";
    PREFIX_IN_PARTITION 2254 c"Cannot specify a prefix in a partition";
    CANNOT_OPEN_ROOT_DIRECTORY 2255 c"Root directory cannot be opened";
    DIRECTORY_ALREADY_EXISTS 2256 c"Directory already exists";
    DIRECTORY_DOES_NOT_EXIST 2257 c"Directory does not exist";
    PARENT_DIRECTORY_DOES_NOT_EXIST 2258 c"Directory's parent does not exist";
    MISMATCHED_LAYER 2259 c"Directory has already been created with a different layer string";
    INVALID_DIRECTORY_LAYER_METADATA 2260 c"Invalid directory layer metadata";
    CANNOT_MOVE_DIRECTORY_BETWEEN_PARTITIONS 2261 c"Directory cannot be moved between partitions";
    CANNOT_USE_PARTITION_AS_SUBSPACE 2262 c"Directory partition cannot be used as subspace";
    INCOMPATIBLE_DIRECTORY_VERSION 2263 c"Directory layer was created with an incompatible version";
    DIRECTORY_PREFIX_NOT_EMPTY 2264 c"Database has keys stored at the prefix chosen by the automatic prefix allocator";
    DIRECTORY_PREFIX_IN_USE 2265 c"Directory layer already has a conflicting prefix";
    INVALID_DESTINATION_DIRECTORY 2266 c"Target directory is invalid";
    CANNOT_MODIFY_ROOT_DIRECTORY 2267 c"Root directory cannot be modified";
    INVALID_UUID_SIZE 2268 c"UUID is not sixteen bytes";
    INVALID_VERSIONSTAMP_SIZE 2269 c"Versionstamp is not exactly twelve bytes";
    BACKUP_ERROR 2300 c"Backup error";
    RESTORE_ERROR 2301 c"Restore error";
    BACKUP_DUPLICATE 2311 c"Backup duplicate request";
    BACKUP_UNNEEDED 2312 c"Backup unneeded request";
    BACKUP_BAD_BLOCK_SIZE 2313 c"Backup file block size too small";
    BACKUP_INVALID_URL 2314 c"Backup Container URL invalid";
    BACKUP_INVALID_INFO 2315 c"Backup Container info invalid";
    BACKUP_CANNOT_EXPIRE 2316 c"Cannot expire requested data from backup without violating minimum restorability";
    BACKUP_AUTH_MISSING 2317 c"Cannot find authentication details (such as a password or secret key) for the specified Backup Container URL";
    BACKUP_AUTH_UNREADABLE 2318 c"Cannot read or parse one or more sources of authentication information for Backup Container URLs";
    BACKUP_DOES_NOT_EXIST 2319 c"Backup does not exist";
    BACKUP_NOT_FILTERABLE_WITH_KEY_RANGES 2320 c"Backup before 6.3 cannot be filtered with key ranges";
    BACKUP_NOT_OVERLAPPED_WITH_KEYS_FILTER 2321 c"Backup key ranges doesn't overlap with key ranges filter";
    RESTORE_INVALID_VERSION 2361 c"Invalid restore version";
    RESTORE_CORRUPTED_DATA 2362 c"Corrupted backup data";
    RESTORE_MISSING_DATA 2363 c"Missing backup data";
    RESTORE_DUPLICATE_TAG 2364 c"Restore duplicate request";
    RESTORE_UNKNOWN_TAG 2365 c"Restore tag does not exist";
    RESTORE_UNKNOWN_FILE_TYPE 2366 c"Unknown backup/restore file type";
    RESTORE_UNSUPPORTED_FILE_VERSION 2367 c"Unsupported backup file version";
    RESTORE_BAD_READ 2368 c"Unexpected number of bytes read";
    RESTORE_CORRUPTED_DATA_PADDING 2369 c"Backup file has unexpected padding bytes";
    RESTORE_DESTINATION_NOT_EMPTY 2370 c"Attempted to restore into a non-empty destination database";
    RESTORE_DUPLICATE_UID 2371 c"Attempted to restore using a UID that had been used for an aborted restore";
    TASK_INVALID_VERSION 2381 c"Invalid task version";
    TASK_INTERRUPTED 2382 c"Task execution stopped due to timeout, abort, or completion by another worker";
    INVALID_ENCRYPTION_KEY_FILE 2383 c"The provided encryption key file has invalid contents";
    BLOB_RESTORE_MISSING_LOGS 2384 c"Missing mutation logs";
    BLOB_RESTORE_CORRUPTED_LOGS 2385 c"Corrupted mutation logs";
    BLOB_RESTORE_INVALID_MANIFEST_URL 2386 c"Invalid manifest URL";
    BLOB_RESTORE_CORRUPTED_MANIFEST 2387 c"Corrupted manifest";
    BLOB_RESTORE_MISSING_MANIFEST 2388 c"Missing manifest";
    KEY_NOT_FOUND 2400 c"Expected key is missing";
    JSON_MALFORMED 2401 c"JSON string was malformed";
    JSON_EOF_EXPECTED 2402 c"JSON string did not terminate where expected";
    SNAP_DISABLE_TLOG_POP_FAILED 2500 c"Failed to disable tlog pops";
    SNAP_STORAGE_FAILED 2501 c"Failed to snapshot storage nodes";
    SNAP_TLOG_FAILED 2502 c"Failed to snapshot TLog nodes";
    SNAP_COORD_FAILED 2503 c"Failed to snapshot coordinator nodes";
    SNAP_ENABLE_TLOG_POP_FAILED 2504 c"Failed to enable tlog pops";
    SNAP_PATH_NOT_WHITELISTED 2505 c"Snapshot create binary path not whitelisted";
    SNAP_NOT_FULLY_RECOVERED_UNSUPPORTED 2506 c"Unsupported when the cluster is not fully recovered";
    SNAP_LOG_ANTI_QUORUM_UNSUPPORTED 2507 c"Unsupported when log anti quorum is configured";
    SNAP_WITH_RECOVERY_UNSUPPORTED 2508 c"Cluster recovery during snapshot operation not supported";
    SNAP_INVALID_UID_STRING 2509 c"The given uid string is not a 32-length hex string";
    ENCRYPT_OPS_ERROR 2700 c"Encryption operation error";
    ENCRYPT_HEADER_METADATA_MISMATCH 2701 c"Encryption header metadata mismatch";
    ENCRYPT_KEY_NOT_FOUND 2702 c"Expected encryption key is missing";
    ENCRYPT_KEY_TTL_EXPIRED 2703 c"Expected encryption key TTL has expired";
    ENCRYPT_HEADER_AUTHTOKEN_MISMATCH 2704 c"Encryption header authentication token mismatch";
    ENCRYPT_UPDATE_CIPHER 2705 c"Attempt to update encryption cipher key";
    ENCRYPT_INVALID_ID 2706 c"Invalid encryption cipher details";
    ENCRYPT_KEYS_FETCH_FAILED 2707 c"Encryption keys fetch from external KMS failed";
    ENCRYPT_INVALID_KMS_CONFIG 2708 c"Invalid encryption/kms configuration: discovery-url, validation-token, endpoint etc.";
    ENCRYPT_UNSUPPORTED 2709 c"Encryption not supported";
    ENCRYPT_MODE_MISMATCH 2710 c"Encryption mode mismatch with configuration";
    ENCRYPT_KEY_CHECK_VALUE_MISMATCH 2711 c"Encryption key-check-value mismatch";
    ENCRYPT_MAX_BASE_CIPHER_LEN 2712 c"Max BaseCipher buffer length violation";
    UNKNOWN_ERROR 4000 c"An unknown error occurred";
    INTERNAL_ERROR 4100 c"An internal error occurred";
    NOT_IMPLEMENTED 4200 c"Not implemented yet";
    PERMISSION_DENIED 6000 c"Client tried to access unauthorized data";
    UNAUTHORIZED_ATTEMPT 6001 c"A untrusted client tried to send a message to a private endpoint";
    DIGITAL_SIGNATURE_OPS_ERROR 6002 c"Digital signature operation error";
    AUTHORIZATION_TOKEN_VERIFY_FAILED 6003 c"Failed to verify authorization token";
    PKEY_DECODE_ERROR 6004 c"Failed to decode public/private key";
    PKEY_ENCODE_ERROR 6005 c"Failed to encode public/private key";
}

/// The tests of `fdb_error_predicate`.
#[derive(Clone, Copy)]
enum Predicate {
    Retryable = 50000,
    MaybeCommitted = 50001,
    RetryableNotCommitted = 50002,
}

impl Error {
    /// Whether the transaction may have been committed although this error was reported.
    pub(crate) fn is_maybe_committed(self) -> bool {
        matches!(
            self,
            Error::COMMIT_UNKNOWN_RESULT | Error::CLUSTER_VERSION_CHANGED
        )
    }

    /// Whether the transaction was certainly not committed, and may succeed when run again.
    pub(crate) fn is_retryable_not_committed(self) -> bool {
        matches!(
            self,
            Error::NOT_COMMITTED
                | Error::TRANSACTION_TOO_OLD
                | Error::FUTURE_VERSION
                | Error::DATABASE_LOCKED
                | Error::GRV_PROXY_MEMORY_LIMIT_EXCEEDED
                | Error::COMMIT_PROXY_MEMORY_LIMIT_EXCEEDED
                | Error::BATCH_TRANSACTION_THROTTLED
                | Error::PROCESS_BEHIND
                | Error::TAG_THROTTLED
                | Error::PROXY_TAG_THROTTLED
        )
    }
}

/// `fdb_error_predicate`; an unknown test answers `false`.
pub(crate) fn predicate(test: i32, code: i32) -> bool {
    let error = Error(code);
    const RETRYABLE: i32 = Predicate::Retryable as i32;
    const MAYBE: i32 = Predicate::MaybeCommitted as i32;
    const NOT_COMMITTED: i32 = Predicate::RetryableNotCommitted as i32;
    match test {
        RETRYABLE => error.is_maybe_committed() || error.is_retryable_not_committed(),
        MAYBE => error.is_maybe_committed(),
        NOT_COMMITTED => error.is_retryable_not_committed(),
        _ => false,
    }
}
