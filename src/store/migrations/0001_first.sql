-- The same text runs on SQLite and PostgreSQL. Moments are unix milliseconds, booleans 0 and 1, binary data base64 text:
-- sqlx's Any driver knows no more types than both databases share.

-- One row. Every change to what gateways keep in memory raises it in the same transaction, first of all: on PostgreSQL
-- the row's lock is what lets changes happen one after the other.
CREATE TABLE revision (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    value BIGINT NOT NULL
);
INSERT INTO revision (id, value) VALUES (1, 1);

-- 0 means unlimited.
CREATE TABLE plans (
    name TEXT NOT NULL PRIMARY KEY,
    max_connections BIGINT NOT NULL,
    max_queues BIGINT NOT NULL,
    max_message_bytes BIGINT NOT NULL,
    max_streams BIGINT NOT NULL,
    max_in_flight_messages BIGINT NOT NULL,
    max_in_flight_bytes BIGINT NOT NULL
);
INSERT INTO plans (name, max_connections, max_queues, max_message_bytes, max_streams, max_in_flight_messages, max_in_flight_bytes)
VALUES ('free', 8, 20, 262144, 10, 500, 4194304),
       ('standard', 32, 1000, 4194304, 200, 10000, 67108864),
       ('unlimited', 0, 0, 0, 0, 0, 0);

CREATE TABLE tenants (
    id TEXT NOT NULL PRIMARY KEY,
    display_name TEXT NOT NULL,
    plan TEXT NOT NULL REFERENCES plans (name),
    state TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL
);

-- tenant is NULL for platform administrators. Tokens issued before not_before are refused.
CREATE TABLE clients (
    id TEXT NOT NULL PRIMARY KEY,
    tenant TEXT REFERENCES tenants (id) ON DELETE CASCADE,
    display_name TEXT NOT NULL,
    secret_hash TEXT NOT NULL,
    grants TEXT NOT NULL,
    revoked BIGINT NOT NULL CHECK (revoked IN (0, 1)),
    not_before BIGINT NOT NULL,
    created BIGINT NOT NULL
);
CREATE INDEX clients_by_tenant ON clients ((COALESCE(tenant, '')), id);

-- private is sealed with the store's encryption key.
CREATE TABLE signing_keys (
    kid TEXT NOT NULL PRIMARY KEY,
    algorithm TEXT NOT NULL,
    private TEXT NOT NULL,
    public TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'retiring')),
    created BIGINT NOT NULL,
    retire_after BIGINT
);

-- What a creation answered, so that repeating it is harmless.
CREATE TABLE requests (
    client TEXT NOT NULL,
    method TEXT NOT NULL,
    request_id TEXT NOT NULL,
    result TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (client, method, request_id)
);
CREATE INDEX requests_by_age ON requests (created);

CREATE TABLE audit (
    id TEXT NOT NULL PRIMARY KEY,
    time BIGINT NOT NULL,
    client TEXT NOT NULL,
    peer_address TEXT NOT NULL,
    method TEXT NOT NULL,
    tenant TEXT NOT NULL,
    object TEXT NOT NULL,
    rule TEXT NOT NULL,
    outcome TEXT NOT NULL,
    trace_id TEXT NOT NULL
);
CREATE INDEX audit_by_tenant ON audit (tenant, id);
