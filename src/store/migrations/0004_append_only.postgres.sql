CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only';
END $$;
CREATE FUNCTION audit_goes_by_age_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.time >= (SELECT CASE WHEN OLD.outcome = 'refused' THEN refusals_before ELSE acts_before END FROM audit_floor) THEN
        RAISE EXCEPTION 'the audit trail is append-only';
    END IF;
    RETURN OLD;
END $$;
CREATE FUNCTION audit_floor_never_falls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.acts_before < OLD.acts_before OR NEW.refusals_before < OLD.refusals_before THEN
        RAISE EXCEPTION 'what the audit trail may forget only grows';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_never_empties BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();
CREATE TRIGGER audit_goes_by_age_only BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_goes_by_age_only();
CREATE TRIGGER audit_floor_never_falls BEFORE UPDATE ON audit_floor FOR EACH ROW EXECUTE FUNCTION audit_floor_never_falls();
CREATE TRIGGER audit_floor_stays BEFORE DELETE OR TRUNCATE ON audit_floor FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Gateways that listen hear of a change when it is committed; the others ask for the revision.
CREATE FUNCTION tell_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('warrengate_revision', NEW.value::text);
    RETURN NULL;
END $$;
CREATE TRIGGER revision_is_told AFTER UPDATE ON revision FOR EACH ROW EXECUTE FUNCTION tell_revision();
