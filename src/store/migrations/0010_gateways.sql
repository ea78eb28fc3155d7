-- The gateways that use this store. Each renews its row while it runs, and deletes it when it ends in order. Times are unix
-- milliseconds; last_seen is by the clock of the database, so that the clocks of gateways need not agree.
CREATE TABLE gateways (
    id TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    grpc_address TEXT NOT NULL,
    started BIGINT NOT NULL,
    last_seen BIGINT NOT NULL
);
