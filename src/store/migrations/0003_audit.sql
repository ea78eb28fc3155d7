-- The audit trail with counts and retention. Append-only: 0004 makes the database refuse anything else.

-- How many refusals a row stands for.
ALTER TABLE audit ADD COLUMN times BIGINT NOT NULL DEFAULT 1;
CREATE INDEX audit_acts_by_time ON audit (time) WHERE outcome <> 'refused';
CREATE INDEX audit_refusals_by_time ON audit (time) WHERE outcome = 'refused';
CREATE INDEX audit_by_client ON audit (client, id);

-- One row. Nothing younger than these moments may be deleted; they only rise.
CREATE TABLE audit_floor (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    acts_before BIGINT NOT NULL,
    refusals_before BIGINT NOT NULL
);
INSERT INTO audit_floor (id, acts_before, refusals_before) VALUES (1, 0, 0);

-- Administrative acts that have begun and not ended: what a gateway that dies in the middle leaves behind.
CREATE TABLE begun_acts (
    id TEXT NOT NULL PRIMARY KEY,
    time BIGINT NOT NULL,
    client TEXT NOT NULL,
    peer_address TEXT NOT NULL,
    method TEXT NOT NULL,
    tenant TEXT NOT NULL,
    object TEXT NOT NULL,
    rule TEXT NOT NULL,
    trace_id TEXT NOT NULL
);
