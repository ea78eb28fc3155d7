-- What else a plan holds. 0 means unlimited, as for the limits of before; a sampling ratio of NULL leaves it to the gateway.
-- Durations are milliseconds, the sampling ratio parts in a million.
ALTER TABLE plans ADD COLUMN max_exchanges BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_bindings BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_clients BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_publish_messages_per_second BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN publish_messages_burst BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_publish_bytes_per_second BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN publish_bytes_burst BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_stored_messages BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_stored_bytes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN max_message_ttl BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN queue_expires BIGINT NOT NULL DEFAULT 0;
ALTER TABLE plans ADD COLUMN sampling_ppm BIGINT;

UPDATE plans SET max_exchanges = 20, max_bindings = 100, max_clients = 10,
    max_publish_messages_per_second = 200, publish_messages_burst = 1000,
    max_publish_bytes_per_second = 1048576, publish_bytes_burst = 4194304,
    max_stored_messages = 100000, max_stored_bytes = 268435456,
    max_message_ttl = 604800000, queue_expires = 1209600000
WHERE name = 'free';

UPDATE plans SET max_exchanges = 1000, max_bindings = 10000, max_clients = 200,
    max_publish_messages_per_second = 50000, publish_messages_burst = 100000,
    max_publish_bytes_per_second = 67108864, publish_bytes_burst = 134217728,
    max_stored_messages = 10000000, max_stored_bytes = 17179869184
WHERE name = 'standard';
