-- Who may do what. The schema `fluxai` is for its owner, and for the service role where there is one;
-- `fluxai_api` is what a REST server in front of the database shows of it.

CREATE SCHEMA IF NOT EXISTS fluxai_api;

CREATE FUNCTION fluxai.schema_version() RETURNS integer
LANGUAGE sql STABLE SET search_path = ''
RETURN (SELECT max(m.version) FROM fluxai.migrations AS m);

-- The tenant that a signed token speaks for. Only `app_metadata` counts: users can edit the other.
CREATE FUNCTION fluxai.tenant_of_token() RETURNS text
LANGUAGE sql STABLE SET search_path = ''
RETURN nullif(current_setting('request.jwt.claims', true), '')::jsonb
    #>> '{app_metadata,tenant_id}';

ALTER TABLE fluxai.migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.records ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.buckets ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.plans ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.reservations_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.approvals ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.events_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.labels_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.days ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.alerts ENABLE ROW LEVEL SECURITY;
ALTER TABLE fluxai.horizon ENABLE ROW LEVEL SECURITY;

-- What a tenant may read of its own. The rights are those of the reader.
CREATE VIEW fluxai_api.events WITH (security_invoker = true) AS
    SELECT seq, tenant, id, reservation_id, at_us, counted_us, "user", tool, model, cost, tokens,
        requests, usage, labels, decision, flags, price_version, corrects, note
    FROM fluxai.events;
CREATE VIEW fluxai_api.reservations WITH (security_invoker = true) AS
    SELECT id, tenant, "user", labels, requested_tool, tool, model, decision, state, counted_us,
        expires_us, resolved_us, cost, tokens, requests, output_tokens
    FROM fluxai.reservations;
CREATE VIEW fluxai_api.approvals WITH (security_invoker = true) AS
    SELECT tenant, id, state, requested_us, expires_us, decided_us, decided_by, reason
    FROM fluxai.approvals;
CREATE VIEW fluxai_api.counters WITH (security_invoker = true) AS
    SELECT tenant, scope, value, measure, kind, start_us, end_us, settled, reserved
    FROM fluxai.counters;
CREATE VIEW fluxai_api.days WITH (security_invoker = true) AS
    SELECT tenant, day, "user", tool, model, cost, tokens, requests, events FROM fluxai.days;
CREATE VIEW fluxai_api.alerts WITH (security_invoker = true) AS
    SELECT seq, tenant, scope, value, measure, kind, start_us, policy_id, share, "limit", committed,
        at_us
    FROM fluxai.alerts;

-- The verbs under the same names and arguments. Whoever calls them needs the rights to all that they
-- touch, so they open nothing. Without jit: before version 18 a plan that may not read whole tables looks
-- dear enough to be compiled, which takes far longer than it does.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT p.oid, p.proname, p.provolatile,
            coalesce((SELECT string_agg(quote_ident(a), ', ') FROM unnest(p.proargnames) AS a), '')
                AS names
        FROM pg_catalog.pg_proc AS p
        WHERE p.pronamespace = 'fluxai'::regnamespace AND (p.proname LIKE 'read\_%' OR p.proname IN (
            'carry_out', 'expire', 'announce', 'apply', 'drop_ended', 'verify', 'make_months',
            'prune', 'rebuild', 'schema_version'))
    LOOP
        EXECUTE format(
            'CREATE FUNCTION fluxai_api.%1$I(%2$s) RETURNS %3$s LANGUAGE sql %4$s '
            'SET search_path = '''' SET jit = off AS %5$L',
            f.proname, pg_get_function_arguments(f.oid), pg_get_function_result(f.oid),
            CASE f.provolatile WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
            format('SELECT fluxai.%I(%s)', f.proname, f.names));
    END LOOP;
END
$$;

-- Making and dropping months takes the owner's rights; nothing but that can be done with these.
ALTER FUNCTION fluxai.make_months(bigint) SECURITY DEFINER;
ALTER FUNCTION fluxai.prune(bigint) SECURITY DEFINER;

-- Give the roles of a REST server their rights, where they exist; to be called again should they be
-- made later. The service role governs; an authenticated user reads the rows of its own tenant; an
-- anonymous one has nothing; and nobody else may call anything.
CREATE FUNCTION fluxai.grant_access() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    shown text;
BEGIN
    REVOKE ALL ON SCHEMA fluxai, fluxai_api FROM PUBLIC;
    REVOKE ALL ON ALL TABLES IN SCHEMA fluxai, fluxai_api FROM PUBLIC;
    REVOKE ALL ON ALL SEQUENCES IN SCHEMA fluxai FROM PUBLIC;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fluxai, fluxai_api FROM PUBLIC;
    -- A role that others have granted rights by default keeps none of them here.
    FOR shown IN SELECT r.rolname FROM pg_catalog.pg_roles AS r
        WHERE r.rolname IN ('anon', 'authenticated')
    LOOP
        EXECUTE format('REVOKE ALL ON SCHEMA fluxai, fluxai_api FROM %I', shown);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA fluxai, fluxai_api FROM %I', shown);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA fluxai FROM %I', shown);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA fluxai, fluxai_api FROM %I', shown);
    END LOOP;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = 'service_role') THEN
        GRANT USAGE ON SCHEMA fluxai, fluxai_api TO service_role;
        -- Not ALL: with TRIGGER it could let the owner run code of its own, when months are pruned.
        REVOKE ALL ON ALL TABLES IN SCHEMA fluxai, fluxai_api FROM service_role;
        REVOKE ALL ON ALL SEQUENCES IN SCHEMA fluxai FROM service_role;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA fluxai TO service_role;
        REVOKE INSERT, UPDATE, DELETE ON fluxai.migrations FROM service_role;
        GRANT SELECT ON ALL TABLES IN SCHEMA fluxai_api TO service_role;
        GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA fluxai TO service_role;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA fluxai, fluxai_api TO service_role;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.rolname = 'authenticated') THEN
        GRANT USAGE ON SCHEMA fluxai_api TO authenticated;
        GRANT SELECT ON ALL TABLES IN SCHEMA fluxai_api TO authenticated;
        -- Views know their tables without a name, so the schema `fluxai` itself stays closed.
        GRANT EXECUTE ON FUNCTION fluxai.tenant_of_token() TO authenticated;
        FOREACH shown IN ARRAY ARRAY[
            'events', 'reservations', 'approvals', 'counters', 'days', 'alerts']
        LOOP
            EXECUTE format('GRANT SELECT ON fluxai.%I TO authenticated', shown);
            EXECUTE format('DROP POLICY IF EXISTS own_tenant ON fluxai.%I', shown);
            EXECUTE format(
                'CREATE POLICY own_tenant ON fluxai.%I FOR SELECT TO authenticated '
                'USING (tenant = (SELECT fluxai.tenant_of_token()))', shown);
        END LOOP;
    END IF;
END
$$;
SELECT fluxai.grant_access();
