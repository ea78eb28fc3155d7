CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;
CREATE TRIGGER audit_goes_by_age_only BEFORE DELETE ON audit
WHEN OLD.time >= (SELECT CASE WHEN OLD.outcome = 'refused' THEN refusals_before ELSE acts_before END FROM audit_floor)
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;
CREATE TRIGGER audit_floor_never_falls BEFORE UPDATE ON audit_floor
WHEN NEW.acts_before < OLD.acts_before OR NEW.refusals_before < OLD.refusals_before
BEGIN
    SELECT RAISE(ABORT, 'what the audit trail may forget only grows');
END;
CREATE TRIGGER audit_floor_stays BEFORE DELETE ON audit_floor
BEGIN
    SELECT RAISE(ABORT, 'the audit trail is append-only');
END;
