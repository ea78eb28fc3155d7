-- While a client's secret changes, two of them count. The tag says which one a secret is; it is worth nothing without it.
-- previous_until is unix milliseconds; an empty previous hash is none.
ALTER TABLE clients ADD COLUMN secret_tag TEXT NOT NULL DEFAULT '';
ALTER TABLE clients ADD COLUMN previous_secret_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE clients ADD COLUMN previous_until BIGINT NOT NULL DEFAULT 0;
