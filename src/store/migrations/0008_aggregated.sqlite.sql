-- Events that are counted together when there are many of them (destructive calls of the data plane, issued tokens) have a bound
-- of their own: neither refusals nor administrative acts are pushed out by them.
ALTER TABLE audit ADD COLUMN aggregated BIGINT NOT NULL DEFAULT 0;
ALTER TABLE audit_floor ADD COLUMN aggregated_before BIGINT NOT NULL DEFAULT 0;
CREATE INDEX audit_aggregated_by_time ON audit (time) WHERE aggregated = 1 AND outcome <> 'refused';

DROP TRIGGER audit_goes_by_age_only;
CREATE TRIGGER audit_goes_by_age_only BEFORE DELETE ON audit
WHEN OLD.time >= (SELECT CASE WHEN OLD.outcome = 'refused' THEN refusals_before
                              WHEN OLD.aggregated = 1 THEN aggregated_before
                              ELSE acts_before END FROM audit_floor)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;
DROP TRIGGER audit_floor_never_falls;
CREATE TRIGGER audit_floor_never_falls BEFORE UPDATE ON audit_floor
WHEN NEW.acts_before < OLD.acts_before OR NEW.refusals_before < OLD.refusals_before
    OR NEW.aggregated_before < OLD.aggregated_before
BEGIN
    SELECT RAISE(ABORT, 'what the audit trail may forget only grows');
END;
