-- When a tenant's certificate at the broker was last asked to be made anew (unix milliseconds, only ever more): every gateway
-- has one of its own, and makes it anew when this moves.
ALTER TABLE tenants ADD COLUMN credentials_rotated BIGINT NOT NULL DEFAULT 0;
