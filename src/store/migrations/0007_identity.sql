-- The external issuer whose tokens a client uses (empty: the gateway's own), and the id by which that issuer knows it (empty:
-- the same as here).
ALTER TABLE clients ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
ALTER TABLE clients ADD COLUMN external_id TEXT NOT NULL DEFAULT '';
CREATE UNIQUE INDEX clients_by_external_id ON clients (issuer, (COALESCE(tenant, '')), external_id) WHERE external_id <> '';

-- Signing keys whose tokens are refused although they have not expired. Kept until the last token has.
CREATE TABLE revoked_keys (
    kid TEXT NOT NULL PRIMARY KEY,
    revoked BIGINT NOT NULL
);
