-- The ledger of FluxAI for a Supabase project, or any PostgreSQL database of version 15 or newer.
--
-- How to use it on Supabase:
--   1. Open the project's SQL editor, paste this file, and run it once. It makes the schemas `fluxai`
--      (the ledger) and `fluxai_api` (what its REST server shows of it).
--   2. Project settings, Data API, exposed schemas: add `fluxai_api`, and leave out `fluxai`.
--   3. Set SUPABASE_URL and SUPABASE_SERVICE_ROLE_KEY where your program runs, and open supabase://.
--
-- It is for a project WITHOUT a ledger: where there is one it stops, and nothing has changed. To
-- upgrade, run only what is newer:  python -m fluxai.storage.schema --after VERSION
-- where VERSION is what this says:  SELECT max(version) FROM fluxai.migrations;
--
-- Generated from fluxai/storage/migrations/postgres by `python -m fluxai.storage.schema`: change those.

BEGIN;

DO $$
BEGIN
    IF to_regclass('fluxai.migrations') IS NOT NULL THEN
        RAISE EXCEPTION 'this database has a ledger already'
            USING HINT = 'To upgrade it: python -m fluxai.storage.schema --after VERSION, where '
                'VERSION is the largest in fluxai.migrations.';
    END IF;
END
$$;

-- =================================================================================================
-- Version 1
-- =================================================================================================

-- The ledger of one PostgreSQL database, version 15 or newer, in the schema `fluxai`.
--
-- Amounts are bigint: nano-USD in `cost`, counts elsewhere. Times are bigint microseconds since the
-- epoch, UTC (`_us`). Whoever changes anything of a tenant holds the lock of its row in `versions`,
-- so a tenant's counters, reservations and events need no locks of their own.

CREATE SCHEMA IF NOT EXISTS fluxai;

CREATE TABLE fluxai.migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- How often the rules of a tenant changed; '*' stands for those that concern every tenant.
CREATE TABLE fluxai.versions (
    tenant text PRIMARY KEY,
    version bigint NOT NULL
);

-- Tenants, users, tools, models, policies and grants, as the governor wrote them.
CREATE TABLE fluxai.records (
    kind text NOT NULL,
    scope text NOT NULL,
    id text NOT NULL,
    body jsonb NOT NULL,
    place bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (kind, scope, id)
);

-- Running accounts. An open reservation refers to its counters by id, so ids are never used again.
CREATE SEQUENCE fluxai.counter_ids;
CREATE TABLE fluxai.counters (
    id bigint PRIMARY KEY,
    tenant text NOT NULL,
    scope text NOT NULL,
    value text NOT NULL,
    measure text NOT NULL,
    kind text NOT NULL,
    start_us bigint NOT NULL,
    end_us bigint NOT NULL,
    settled bigint NOT NULL,
    reserved bigint NOT NULL,
    carried bigint NOT NULL DEFAULT 0,
    head bigint, -- the newest bucket of a rolling window
    UNIQUE (tenant, scope, value, measure, kind, start_us)
) WITH (fillfactor = 50);
CREATE INDEX counters_by_end ON fluxai.counters (end_us);

-- What was settled in each live bucket of a rolling window.
CREATE TABLE fluxai.buckets (
    counter bigint NOT NULL,
    bucket bigint NOT NULL,
    amount bigint NOT NULL,
    PRIMARY KEY (counter, bucket)
) WITH (fillfactor = 50);

-- What reservations were judged by: limits and prices of a tool for one subject, each plan once.
CREATE TABLE fluxai.plans (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest text NOT NULL UNIQUE,
    candidates text NOT NULL
);

-- By month of the id, which is a UUIDv7 and so begins with its time.
CREATE TABLE fluxai.reservations (
    id uuid NOT NULL,
    tenant text NOT NULL,
    "user" text,
    labels jsonb NOT NULL,
    requested_tool text NOT NULL,
    tool text NOT NULL,
    model text,
    decision text NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'reserved', 'settled', 'released', 'expired')),
    counted_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    resolved_us bigint,
    cost bigint NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    concurrent bigint NOT NULL,
    output_tokens bigint NOT NULL,
    need jsonb NOT NULL,
    method text NOT NULL,
    key text,    -- idempotency key
    digest text, -- of the arguments that came with the key
    exact text,  -- the event that corrected an estimated settlement
    counters bigint[] NOT NULL,
    plan bigint, -- what it was judged by
    judged text NOT NULL, -- and the numbers of that moment, JSON
    PRIMARY KEY (id, tenant)
) PARTITION BY RANGE (id);
CREATE INDEX reservations_by_key ON fluxai.reservations (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX reservations_open ON fluxai.reservations (tenant, expires_us)
    WHERE state IN ('pending', 'reserved');
CREATE TABLE fluxai.reservations_other PARTITION OF fluxai.reservations DEFAULT;

CREATE TABLE fluxai.approvals (
    tenant text NOT NULL,
    id uuid NOT NULL,
    state text NOT NULL,
    requested_us bigint NOT NULL,
    expires_us bigint NOT NULL,
    decided_us bigint,
    decided_by text,
    reason text,
    claim text,
    PRIMARY KEY (tenant, id)
);

-- What was spent: append-only, the truth from which every sum can be made again. By month of the
-- time that it counts in. An id names one event of its tenant: the lock of the tenant sees to that
-- across months, the index within one.
-- Begins below the first number, so that what was given last is always before what is given next.
CREATE SEQUENCE fluxai.event_seq MINVALUE 0 START 0;
SELECT nextval('fluxai.event_seq');
CREATE TABLE fluxai.events (
    seq bigint NOT NULL,
    tenant text NOT NULL,
    id text NOT NULL,
    reservation_id uuid,
    at_us bigint NOT NULL,
    counted_us bigint NOT NULL,
    "user" text,
    tool text NOT NULL,
    model text,
    cost bigint NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    usage jsonb,
    labels jsonb NOT NULL,
    decision text NOT NULL,
    flags jsonb NOT NULL,
    price_version text,
    outcome text NOT NULL,
    corrects text,
    note text,
    PRIMARY KEY (tenant, id, counted_us)
) PARTITION BY RANGE (counted_us);
CREATE INDEX events_by_seq ON fluxai.events (seq);
CREATE INDEX events_by_tenant ON fluxai.events (tenant, seq);
CREATE INDEX events_by_time ON fluxai.events (tenant, counted_us);
CREATE INDEX events_by_user ON fluxai.events (tenant, "user", counted_us) WHERE "user" IS NOT NULL;
CREATE TABLE fluxai.events_other PARTITION OF fluxai.events DEFAULT;

-- Which events carry a label, as 'key=value'.
CREATE TABLE fluxai.labels (
    tenant text NOT NULL,
    label text NOT NULL,
    counted_us bigint NOT NULL,
    seq bigint NOT NULL,
    cost bigint NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (tenant, label, counted_us, seq)
) PARTITION BY RANGE (counted_us);
CREATE TABLE fluxai.labels_other PARTITION OF fluxai.labels DEFAULT;

-- Sums of events per UTC day, as days since the epoch.
CREATE TABLE fluxai.days (
    tenant text NOT NULL,
    day bigint NOT NULL,
    "user" text,
    tool text NOT NULL,
    model text,
    cost bigint NOT NULL,
    tokens bigint NOT NULL,
    requests bigint NOT NULL,
    events bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX days_by_what ON fluxai.days (tenant, day, "user", tool, model)
    NULLS NOT DISTINCT;
CREATE INDEX days_by_user ON fluxai.days (tenant, "user", day) WHERE "user" IS NOT NULL;

-- Alerts that were raised: once per window, policy and share.
CREATE TABLE fluxai.alerts (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL,
    scope text NOT NULL,
    value text NOT NULL,
    measure text NOT NULL,
    kind text NOT NULL,
    start_us bigint NOT NULL,
    policy_id text NOT NULL,
    share text NOT NULL,
    "limit" bigint NOT NULL,
    committed bigint NOT NULL,
    at_us bigint NOT NULL,
    UNIQUE (tenant, scope, value, measure, kind, start_us, policy_id, share)
);

-- What was pruned: ids and times up to here may have been used, and are remembered no more.
CREATE TABLE fluxai.horizon (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    counted_us bigint NOT NULL
);
INSERT INTO fluxai.horizon (counted_us) VALUES (-62104060800000000);

INSERT INTO fluxai.migrations (version) VALUES (1);

-- =================================================================================================
-- Version 2
-- =================================================================================================

-- The ledger's verbs. `carry_out` takes a batch of items of many callers, whole or not at all, in one
-- call; what most calls need, reserve and settle, is worked out in arrays and written once a batch,
-- and everything else item by item on the tables.
--
-- What a batch holds, and what is answered, is described in `batches.py`, which writes and reads it.

-- -- arithmetic ---------------------------------------------------------------------------------

CREATE FUNCTION fluxai.floor_div(a bigint, b bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN a >= 0 THEN a / b ELSE -((b - 1 - a) / b) END;

-- How long a bucket of a rolling window is; NULL for windows of other kinds.
CREATE FUNCTION fluxai.bucket_us(kind text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN kind LIKE 'rolling:%' THEN (split_part(kind, ':', 2)::bigint + 59) / 60 END;

-- Which of (cost, tokens, requests, open holds) a counter counts, from 1.
CREATE FUNCTION fluxai.measure_of(measure text, kind text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN kind = 'concurrent' THEN 4 WHEN measure = 'cost' THEN 1 WHEN measure = 'tokens' THEN 2
    ELSE 3
END;

-- When a UUIDv7 was made, to the millisecond.
CREATE FUNCTION fluxai.made_us(id uuid) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint * 1000;

-- What a need costs with so many output tokens: nano-USD, rounded up once.
CREATE FUNCTION fluxai.cost_of(fixed numeric, per_output numeric, output_tokens bigint)
RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN div(fixed + per_output * output_tokens + 999999, 1000000)::bigint;


-- -- sums of what there is ----------------------------------------------------------------------

-- Sum the events of one scope, in buckets of a width, or all in one where there is none.
-- (`prune` calls it with the owner's rights, hence its path; see there.)
CREATE FUNCTION fluxai.sums(
    of_tenant text, of_scope text, of_value text, of_measure text, from_us bigint, to_us bigint,
    width_us bigint
) RETURNS TABLE (bucket bigint, amount bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF from_us >= to_us THEN
        RETURN;
    ELSIF of_scope = 'label' THEN
        RETURN QUERY SELECT fluxai.floor_div(e.counted_us, width_us), sum(
            CASE of_measure WHEN 'cost' THEN cost WHEN 'tokens' THEN tokens ELSE requests END
        )::bigint FROM fluxai.labels AS e
        WHERE tenant = of_tenant AND label = of_value
            AND counted_us >= from_us AND counted_us < to_us GROUP BY 1;
    ELSIF of_scope = 'user' THEN
        RETURN QUERY SELECT fluxai.floor_div(e.counted_us, width_us), sum(
            CASE of_measure WHEN 'cost' THEN cost WHEN 'tokens' THEN tokens ELSE requests END
        )::bigint FROM fluxai.events AS e
        WHERE tenant = of_tenant AND "user" = of_value
            AND counted_us >= from_us AND counted_us < to_us GROUP BY 1;
    ELSE
        RETURN QUERY SELECT fluxai.floor_div(e.counted_us, width_us), sum(
            CASE of_measure WHEN 'cost' THEN cost WHEN 'tokens' THEN tokens ELSE requests END
        )::bigint FROM fluxai.events AS e
        WHERE tenant = of_tenant AND (of_scope = 'tenant' OR tool = of_value)
            AND counted_us >= from_us AND counted_us < to_us GROUP BY 1;
    END IF;
END
$$;

-- Sum whole UTC days from the daily sums.
CREATE FUNCTION fluxai.sum_of_days(
    of_tenant text, of_scope text, of_value text, of_measure text, first_day bigint, end_day bigint
) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found bigint;
BEGIN
    IF of_scope = 'user' THEN
        SELECT sum(
            CASE of_measure WHEN 'cost' THEN cost WHEN 'tokens' THEN tokens ELSE requests END
        ) INTO found FROM fluxai.days
        WHERE tenant = of_tenant AND "user" = of_value AND day >= first_day AND day < end_day;
    ELSE
        SELECT sum(
            CASE of_measure WHEN 'cost' THEN cost WHEN 'tokens' THEN tokens ELSE requests END
        ) INTO found FROM fluxai.days
        WHERE tenant = of_tenant AND day >= first_day AND day < end_day
            AND (of_scope = 'tenant' OR tool = of_value);
    END IF;
    RETURN coalesce(found, 0);
END
$$;

-- With which day the whole days of a window end: with one that it cuts only where that was pruned.
CREATE FUNCTION fluxai.end_day(to_us bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = ''
RETURN (
    SELECT CASE WHEN to_us <= h.counted_us THEN -fluxai.floor_div(-to_us, 86400000000)
        ELSE fluxai.floor_div(to_us, 86400000000) END
    FROM fluxai.horizon AS h);

-- Sum the events of one scope in a window: whole days from the daily sums, the edges event by event.
-- Of what was pruned only whole days are left: they count where they begin.
CREATE FUNCTION fluxai.sum_of_window(
    of_tenant text, of_scope text, of_value text, of_measure text, from_us bigint, to_us bigint
) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_day bigint := -fluxai.floor_div(-from_us, 86400000000);
    end_day bigint := fluxai.end_day(to_us);
BEGIN
    IF of_scope = 'label' OR first_day >= end_day THEN
        RETURN coalesce(
            (SELECT sum(amount) FROM fluxai.sums(
                of_tenant, of_scope, of_value, of_measure, from_us, to_us, 1000000000000000000
            )), 0);
    END IF;
    RETURN fluxai.sum_of_days(of_tenant, of_scope, of_value, of_measure, first_day, end_day)
        + coalesce((SELECT sum(amount) FROM fluxai.sums(
            of_tenant, of_scope, of_value, of_measure, from_us, first_day * 86400000000,
            1000000000000000000
        )), 0)
        + coalesce((SELECT sum(amount) FROM fluxai.sums(
            of_tenant, of_scope, of_value, of_measure, end_day * 86400000000, to_us,
            1000000000000000000
        )), 0);
END
$$;

-- The open reservations that count in one window of one scope, with what each holds there.
CREATE FUNCTION fluxai.holds(
    of_tenant text, of_scope text, of_value text, of_measure text, of_kind text, from_us bigint,
    to_us bigint
) RETURNS TABLE (id uuid, amount bigint)
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT r.id, (ARRAY[r.cost, r.tokens, r.requests, r.concurrent])[
        fluxai.measure_of(of_measure, of_kind)]
    FROM fluxai.reservations AS r
    WHERE r.tenant = of_tenant AND r.state IN ('pending', 'reserved')
        AND (fluxai.bucket_us(of_kind) IS NOT NULL
            OR r.counted_us >= from_us AND r.counted_us < to_us)
        AND CASE of_scope
            WHEN 'tenant' THEN true
            WHEN 'user' THEN r."user" = of_value
            WHEN 'tool' THEN r.tool = of_value
            ELSE EXISTS (
                SELECT FROM jsonb_each_text(r.labels) AS l WHERE l.key || '=' || l.value = of_value)
        END
$$;

-- What was pruned of a window, and so is in the daily sums but in no event any more.
CREATE FUNCTION fluxai.pruned_sum(
    of_tenant text, of_scope text, of_value text, of_measure text, from_us bigint, to_us bigint
) RETURNS bigint
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT CASE WHEN of_scope = 'label' OR h.counted_us <= from_us THEN 0 ELSE
        fluxai.sum_of_days(
            of_tenant, of_scope, of_value, of_measure,
            -fluxai.floor_div(-from_us, 86400000000),
            -fluxai.floor_div(-least(h.counted_us + 1, to_us), 86400000000))
    END FROM fluxai.horizon AS h
$$;


-- -- counters -----------------------------------------------------------------------------------

-- Open a counter with what the events and open reservations that match it add up to. One in which
-- nothing is gets its row only if it is to be kept.
CREATE FUNCTION fluxai.open_counter(
    of_tenant text, of_scope text, of_value text, of_measure text, of_kind text, from_us bigint,
    to_us bigint, now_us bigint, keep boolean,
    OUT id bigint, OUT settled bigint, OUT reserved bigint, OUT head bigint, OUT stored boolean
)
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    width bigint := fluxai.bucket_us(of_kind);
    carried bigint := 0;
    held record;
BEGIN
    id := nextval('fluxai.counter_ids');
    settled := 0;
    reserved := 0;
    stored := keep;
    IF width IS NOT NULL THEN
        head := fluxai.floor_div(now_us, width);
        INSERT INTO fluxai.buckets
            SELECT id, s.bucket, s.amount FROM fluxai.sums(
                of_tenant, of_scope, of_value, of_measure, (head - 60) * width, to_us, width) AS s;
        IF FOUND THEN
            stored := true;
            SELECT sum(b.amount) INTO settled FROM fluxai.buckets AS b WHERE b.counter = id;
        END IF;
    ELSIF of_kind <> 'concurrent' THEN
        settled := fluxai.sum_of_window(
            of_tenant, of_scope, of_value, of_measure, from_us, to_us);
        carried := fluxai.pruned_sum(of_tenant, of_scope, of_value, of_measure, from_us, to_us);
        stored := stored OR settled <> 0 OR carried <> 0;
    END IF;
    FOR held IN SELECT * FROM fluxai.holds(
        of_tenant, of_scope, of_value, of_measure, of_kind, from_us, to_us)
    LOOP
        reserved := reserved + held.amount;
        stored := true;
        UPDATE fluxai.reservations AS r SET counters = r.counters || open_counter.id
        WHERE r.id = held.id AND r.tenant = of_tenant;
    END LOOP;
    IF stored THEN
        INSERT INTO fluxai.counters VALUES (
            id, of_tenant, of_scope, of_value, of_measure, of_kind, from_us, to_us, settled, reserved,
            carried, head);
    END IF;
END
$$;

-- Let what has left a rolling window go, never turning back; say how much that was.
CREATE FUNCTION fluxai.turn(
    of_counter bigint, IN OUT head bigint, width bigint, now_us bigint, OUT gone bigint
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    gone := 0;
    IF fluxai.floor_div(now_us, width) > head THEN
        head := fluxai.floor_div(now_us, width);
        WITH old AS (
            DELETE FROM fluxai.buckets AS b
            WHERE b.counter = of_counter AND b.bucket < turn.head - 60 RETURNING b.amount
        )
        SELECT coalesce(sum(amount), 0) INTO gone FROM old;
    END IF;
END
$$;

-- Hold an amount of each measure in counters; a sign of -1 gives it back.
CREATE FUNCTION fluxai.hold(ids bigint[], amounts bigint[], sign integer) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
    UPDATE fluxai.counters AS c
    SET reserved = c.reserved + sign * amounts[fluxai.measure_of(c.measure, c.kind)]
    WHERE c.id = ANY (ids)
$$;

-- Add settled amounts to counters, in the bucket of `counted` where a window rolls.
CREATE FUNCTION fluxai.post(ids bigint[], amounts bigint[], counted bigint, now_us bigint)
RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    c record;
    turned record;
    width bigint;
    amount bigint;
BEGIN
    UPDATE fluxai.counters AS k
    SET settled = k.settled + amounts[fluxai.measure_of(k.measure, k.kind)]
    WHERE k.id = ANY (ids) AND k.head IS NULL AND k.kind <> 'concurrent';
    FOR c IN SELECT * FROM fluxai.counters AS k WHERE k.id = ANY (ids) AND k.head IS NOT NULL LOOP
        width := fluxai.bucket_us(c.kind);
        turned := fluxai.turn(c.id, c.head, width, now_us);
        amount := amounts[fluxai.measure_of(c.measure, c.kind)];
        IF fluxai.floor_div(counted, width) >= turned.head - 60 THEN
            INSERT INTO fluxai.buckets AS b VALUES (c.id, fluxai.floor_div(counted, width), amount)
            ON CONFLICT (counter, bucket) DO UPDATE SET amount = b.amount + excluded.amount;
        ELSE
            amount := 0;
        END IF;
        UPDATE fluxai.counters AS k
        SET settled = k.settled + amount - turned.gone, head = turned.head WHERE k.id = c.id;
    END LOOP;
END
$$;

-- Return the counters of a plan's keys, turned to now. One that does not exist is opened; where its
-- window has ended only if `ended` says so, else its place in the list is NULL.
CREATE FUNCTION fluxai.counters_for(of_tenant text, keys jsonb, now_us bigint, ended boolean)
RETURNS bigint[]
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    k jsonb;
    c record;
    turned record;
    ids bigint[] := '{}';
BEGIN
    FOR k IN SELECT * FROM jsonb_array_elements(keys) LOOP
        SELECT * INTO c FROM fluxai.counters AS f
        WHERE f.tenant = of_tenant AND f.scope = k->>0 AND f.value = k->>1 AND f.measure = k->>2
            AND f.kind = k->>3 AND f.start_us = (k->>4)::bigint;
        IF FOUND THEN
            IF c.head IS NOT NULL THEN
                turned := fluxai.turn(c.id, c.head, fluxai.bucket_us(c.kind), now_us);
                UPDATE fluxai.counters AS f
                SET settled = f.settled - turned.gone, head = turned.head WHERE f.id = c.id;
            END IF;
            ids := ids || c.id;
        ELSIF ended OR (k->>5)::bigint > now_us THEN
            ids := ids || (fluxai.open_counter(
                of_tenant, k->>0, k->>1, k->>2, k->>3, (k->>4)::bigint, (k->>5)::bigint, now_us,
                true)).id;
        ELSE
            ids := ids || NULL::bigint;
        END IF;
    END LOOP;
    RETURN ids;
END
$$;

-- What is settled and reserved together in each counter, in the order of the list.
CREATE FUNCTION fluxai.committed(ids bigint[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(c.settled + c.reserved ORDER BY w.place), '[]')
    FROM unnest(ids) WITH ORDINALITY AS w (id, place) LEFT JOIN fluxai.counters AS c ON c.id = w.id
$$;


-- -- events -------------------------------------------------------------------------------------

-- Number the events of this transaction. Until it ends, whoever reads events by number sees where
-- the numbers begin that may still be missing; see `readable_seq`.
CREATE FUNCTION fluxai.announce_events() RETURNS void
LANGUAGE sql SET search_path = '' AS $$
    SELECT pg_advisory_xact_lock_shared(1089412608::bigint << 32 | last_value)
    FROM fluxai.event_seq
$$;

-- Append an event, fold it into the daily sums, and return its number.
CREATE FUNCTION fluxai.add_event(e fluxai.events) RETURNS bigint
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM fluxai.announce_events();
    e.seq := nextval('fluxai.event_seq');
    INSERT INTO fluxai.events VALUES (e.*);
    INSERT INTO fluxai.days AS d VALUES (
        e.tenant, fluxai.floor_div(e.counted_us, 86400000000), e."user", e.tool, e.model, e.cost,
        e.tokens, e.requests, 1)
    ON CONFLICT (tenant, day, "user", tool, model) DO UPDATE SET
        cost = d.cost + excluded.cost, tokens = d.tokens + excluded.tokens,
        requests = d.requests + excluded.requests, events = d.events + excluded.events;
    INSERT INTO fluxai.labels
        SELECT e.tenant, l.key || '=' || l.value, e.counted_us, e.seq, e.cost, e.tokens, e.requests
        FROM jsonb_each_text(e.labels) AS l;
    RETURN e.seq;
END
$$;


-- -- reservations -------------------------------------------------------------------------------

CREATE FUNCTION fluxai.find(of_tenant text, of_id uuid) RETURNS SETOF fluxai.reservations
LANGUAGE sql STABLE ROWS 1 SET search_path = '' AS $$
    SELECT * FROM fluxai.reservations AS r WHERE r.id = of_id AND r.tenant = of_tenant
$$;

-- A reservation as it is read, with its events, its approval and what it was judged by.
CREATE FUNCTION fluxai.reservation_json(r fluxai.reservations) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT to_jsonb(r) || jsonb_build_object(
        'candidates', (SELECT p.candidates FROM fluxai.plans AS p WHERE p.id = r.plan),
        'approval', (SELECT to_jsonb(a) FROM fluxai.approvals AS a
            WHERE a.tenant = r.tenant AND a.id = r.id),
        'event', CASE WHEN r.state = 'settled' THEN (SELECT to_jsonb(e) FROM fluxai.events AS e
            WHERE e.tenant = r.tenant AND e.id = r.id::text AND e.counted_us = r.counted_us) END,
        'exact_event', CASE WHEN r.exact IS NOT NULL THEN (SELECT to_jsonb(e)
            FROM fluxai.events AS e WHERE e.tenant = r.tenant AND e.id = r.exact
                AND e.counted_us = r.counted_us) END)
$$;

CREATE FUNCTION fluxai.found_json(of_tenant text, of_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT fluxai.reservation_json(r) FROM fluxai.find(of_tenant, of_id) AS r
$$;

-- End a reservation. There is nothing left to say yes to: an answer would hold the money again.
CREATE FUNCTION fluxai.finish(of_tenant text, of_id uuid, new_state text, now_us bigint)
RETURNS void
LANGUAGE sql SET search_path = '' AS $$
    UPDATE fluxai.reservations AS r SET state = new_state, resolved_us = now_us
    WHERE r.id = of_id AND r.tenant = of_tenant;
    UPDATE fluxai.approvals AS a
    SET state = CASE WHEN new_state = 'settled' THEN 'used' ELSE 'expired' END
    WHERE a.tenant = of_tenant AND a.id = of_id AND a.state IN ('pending', 'approved');
$$;

-- End an overdue reservation: give its money back, or charge what it was expected to cost. One that
-- waits for an approval, or for the run that was approved, was surely not charged.
CREATE FUNCTION fluxai.end_overdue(r fluxai.reservations, now_us bigint, settle boolean)
RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    e fluxai.events;
BEGIN
    PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], -1);
    IF settle AND r.state = 'reserved' AND r.method <> 'lease' AND NOT EXISTS (
        SELECT FROM fluxai.approvals AS a
        WHERE a.tenant = r.tenant AND a.id = r.id AND a.state IN ('pending', 'approved'))
    THEN
        e.tenant := r.tenant;
        e.id := r.id::text;
        e.reservation_id := r.id;
        e.at_us := now_us;
        e.counted_us := r.counted_us;
        e."user" := r."user";
        e.tool := r.tool;
        e.model := r.model;
        -- Need: fixed, per output, input, expected input, cap, most output, requests, expected fixed.
        e.cost := CASE WHEN (r.need->>7)::numeric = 0 THEN r.cost ELSE least(r.cost, fluxai.cost_of(
            (r.need->>7)::numeric, (r.need->>1)::numeric, r.output_tokens)) END;
        e.tokens := (r.need->>3)::bigint + r.output_tokens;
        e.requests := r.requests;
        e.labels := r.labels;
        e.decision := r.decision;
        e.flags := '["estimated", "expired"]';
        e.outcome := '"expired"';
        PERFORM fluxai.post(r.counters, ARRAY[e.cost, e.tokens, e.requests, 0], r.counted_us, now_us);
        PERFORM fluxai.finish(r.tenant, r.id, 'settled', now_us);
        PERFORM fluxai.add_event(e);
        RETURN true;
    END IF;
    PERFORM fluxai.finish(r.tenant, r.id, 'expired', now_us);
    RETURN false;
END
$$;

-- Let an approval that nobody answered, or used, in time expire now.
CREATE FUNCTION fluxai.lapse(r fluxai.reservations, now_us bigint) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF r.state IN ('pending', 'reserved') AND now_us >= r.expires_us THEN
        PERFORM fluxai.end_overdue(r, now_us, false);
    END IF;
END
$$;

-- End overdue reservations of a tenant, those that are held in some counters first; say how many.
-- Those in `ended` have ended in this very batch.
CREATE FUNCTION fluxai.expire_some(
    of_tenant text, now_us bigint, touched bigint[], ended uuid[], settle boolean
) RETURNS integer
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    r fluxai.reservations;
    done integer := 0;
BEGIN
    FOR r IN
        SELECT late.* FROM (
            SELECT * FROM fluxai.reservations AS o
            WHERE o.tenant = of_tenant AND o.state IN ('pending', 'reserved')
                AND o.expires_us <= now_us AND o.id <> ALL (ended)
            ORDER BY o.expires_us, o.id LIMIT 256
        ) AS late
        ORDER BY NOT late.counters && touched, late.expires_us, late.id LIMIT 64
    LOOP
        PERFORM fluxai.end_overdue(r, now_us, settle);
        done := done + 1;
    END LOOP;
    RETURN done;
END
$$;


-- -- locks --------------------------------------------------------------------------------------

-- Lock tenants until the transaction ends, always in the same order, and return their versions.
-- (`prune` calls it with the owner's rights, hence its path; see there.)
CREATE FUNCTION fluxai.lock_tenants(names text[]) RETURNS TABLE (tenant text, version bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT count(*) FROM fluxai.versions AS v WHERE v.tenant = ANY (names)) < cardinality(names)
    THEN
        INSERT INTO fluxai.versions SELECT n, 0 FROM unnest(names) AS n ORDER BY n
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN QUERY SELECT v.tenant, v.version FROM fluxai.versions AS v
    WHERE v.tenant = ANY (names) ORDER BY v.tenant FOR NO KEY UPDATE;
END
$$;

CREATE FUNCTION fluxai.version(of_tenant text) RETURNS bigint
LANGUAGE sql STABLE SET search_path = ''
RETURN coalesce((SELECT v.version FROM fluxai.versions AS v WHERE v.tenant = of_tenant), 0);


-- -- one item at a time -------------------------------------------------------------------------

CREATE FUNCTION fluxai.event_json(of_tenant text, of_id text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT to_jsonb(e) FROM fluxai.events AS e WHERE e.tenant = of_tenant AND e.id = of_id
    ORDER BY e.seq LIMIT 1
$$;

-- Say what is missing to find the counters of something spent before: a plan, or a fresh one.
CREATE FUNCTION fluxai.unplanned(item jsonb, source jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = ''
RETURN CASE
    WHEN jsonb_typeof(item->'plan') IS DISTINCT FROM 'object'
        THEN jsonb_build_array('need_plan', source)
    WHEN (item #>> '{plan,version,0}')::bigint <> fluxai.version('*')
        OR (item #>> '{plan,version,1}')::bigint <> fluxai.version(item->>'tenant')
        THEN jsonb_build_array('stale', fluxai.version('*'), fluxai.version(item->>'tenant'))
END;

-- Return the keys of a plan's candidate for a tool, of its first one if none is.
CREATE FUNCTION fluxai.planned(item jsonb, of_tool text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = ''
RETURN coalesce(
    (SELECT c FROM jsonb_array_elements(item #> '{plan,candidates}') AS c
        WHERE c->>'tool' = of_tool LIMIT 1),
    item #> '{plan,candidates,0}');

-- Append an event to every counter that counts it, and to the events. Returns its number, and what
-- is now committed in each counter of the plan.
CREATE FUNCTION fluxai.post_by_plan(item jsonb, e fluxai.events, OUT seq bigint, OUT sums jsonb)
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    ids bigint[] := fluxai.counters_for(
        e.tenant, fluxai.planned(item, e.tool)->'keys', e.at_us, false);
BEGIN
    PERFORM fluxai.post(ids, ARRAY[e.cost, e.tokens, e.requests, 0], e.counted_us, e.at_us);
    seq := fluxai.add_event(e);
    sums := fluxai.committed(ids);
END
$$;

-- Make the event that an item reports of a reservation.
CREATE FUNCTION fluxai.event_of(item jsonb, r fluxai.reservations, more_flags jsonb)
RETURNS fluxai.events
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    e fluxai.events;
BEGIN
    e.tenant := r.tenant;
    e.id := r.id::text;
    e.reservation_id := r.id;
    e.at_us := item->'at_us';
    e.counted_us := r.counted_us;
    e."user" := r."user";
    e.tool := r.tool;
    e.model := item->>'model';
    e.cost := item->'cost';
    e.tokens := item->'tokens';
    e.requests := item->'requests';
    e.usage := nullif(item->'usage', 'null');
    e.labels := r.labels;
    e.decision := r.decision;
    e.flags := (item->'flags') || more_flags
        || CASE WHEN e.cost > r.cost THEN '["overrun"]'::jsonb ELSE '[]' END;
    e.price_version := item->>'price_version';
    e.outcome := item->>'outcome';
    RETURN e;
END
$$;

-- Settle a reservation that is not simply reserved: pending, ended, settled before, or lost.
CREATE FUNCTION fluxai.settle(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    r fluxai.reservations;
    e fluxai.events;
    sums jsonb;
    first jsonb;
    latest jsonb;
    refusal jsonb;
    estimated boolean := item->'flags' ? 'estimated';
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    IF NOT FOUND THEN
        IF jsonb_typeof(item->'source') IS DISTINCT FROM 'object' THEN
            RETURN '["lost"]';
        END IF;
        r := jsonb_populate_record(NULL::fluxai.reservations, item->'source');
        IF least(r.counted_us, fluxai.made_us(r.id))
            <= (SELECT h.counted_us FROM fluxai.horizon AS h)
        THEN
            RETURN '["unknown", "reservation"]';
        END IF;
        first := fluxai.event_json(r.tenant, r.id::text);
        IF first IS NOT NULL THEN -- by record(), under the reservation's id
            RETURN jsonb_build_array('settled_otherwise', first);
        END IF;
        refusal := fluxai.unplanned(item, NULL);
        IF refusal IS NOT NULL THEN
            RETURN refusal;
        END IF;
        e := fluxai.event_of(item, r, '["late"]');
        sums := (fluxai.post_by_plan(item, e)).sums;
        r.state := 'settled';
        r.resolved_us := e.at_us;
        r.counters := '{}';
        INSERT INTO fluxai.reservations VALUES (r.*);
        RETURN jsonb_build_array('settled', fluxai.found_json(r.tenant, r.id), sums);
    END IF;
    IF r.state = 'settled' THEN
        first := fluxai.event_json(r.tenant, r.id::text);
        IF first IS NULL THEN -- pruned: it was counted just before its id's month began
            RETURN '["unknown", "reservation"]';
        END IF;
        latest := coalesce(fluxai.event_json(r.tenant, r.exact), first);
        IF latest->>'outcome' = item->>'outcome' OR estimated AND first->'flags' ? 'estimated' THEN
            RETURN jsonb_build_array('settled', fluxai.reservation_json(r), NULL);
        END IF;
        IF r.exact IS NOT NULL OR NOT first->'flags' ? 'estimated' THEN
            RETURN jsonb_build_array('settled_otherwise', latest);
        END IF;
        refusal := fluxai.unplanned(item, fluxai.reservation_json(r));
        IF refusal IS NOT NULL THEN
            RETURN refusal;
        END IF;
        e := fluxai.event_of(item, r, '["correction"]');
        e.id := item->>'correction';
        e.cost := e.cost - (first->'cost')::bigint;
        e.tokens := e.tokens - (first->'tokens')::bigint;
        e.requests := e.requests - (first->'requests')::bigint;
        e.corrects := first->>'id';
        sums := (fluxai.post_by_plan(item, e)).sums;
        UPDATE fluxai.reservations AS o SET exact = e.id WHERE o.id = r.id AND o.tenant = r.tenant;
    ELSIF r.state IN ('pending', 'reserved') THEN
        e := fluxai.event_of(
            item, r, CASE r.state WHEN 'pending' THEN '["late"]'::jsonb ELSE '[]' END);
        PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], -1);
        PERFORM fluxai.post(
            r.counters, ARRAY[e.cost, e.tokens, e.requests, 0], r.counted_us, e.at_us);
        PERFORM fluxai.finish(r.tenant, r.id, 'settled', e.at_us);
        PERFORM fluxai.add_event(e);
    ELSE
        refusal := fluxai.unplanned(item, fluxai.reservation_json(r));
        IF refusal IS NOT NULL THEN
            RETURN refusal;
        END IF;
        e := fluxai.event_of(item, r, '["late"]');
        sums := (fluxai.post_by_plan(item, e)).sums;
        PERFORM fluxai.finish(r.tenant, r.id, 'settled', e.at_us);
    END IF;
    RETURN jsonb_build_array('settled', fluxai.found_json(r.tenant, r.id), sums);
END
$$;

CREATE FUNCTION fluxai.release(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    r fluxai.reservations;
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    IF NOT FOUND THEN
        RETURN '["unknown", "reservation"]';
    ELSIF r.state = 'settled' THEN
        RETURN '["already_settled"]';
    ELSIF r.state IN ('pending', 'reserved') THEN
        PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], -1);
        PERFORM fluxai.finish(r.tenant, r.id, 'released', (item->'at_us')::bigint);
    END IF;
    RETURN jsonb_build_array('reservation', fluxai.found_json(r.tenant, r.id));
END
$$;

CREATE FUNCTION fluxai.extend(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    r fluxai.reservations;
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    IF NOT FOUND THEN
        RETURN '["unknown", "reservation"]';
    ELSIF r.state <> 'reserved' THEN
        RETURN jsonb_build_array('not_reserved', r.state);
    END IF;
    UPDATE fluxai.reservations AS o
    SET expires_us = greatest(o.expires_us, (item->'expires_us')::bigint)
    WHERE o.id = r.id AND o.tenant = r.tenant;
    RETURN jsonb_build_array('reservation', fluxai.found_json(r.tenant, r.id));
END
$$;

-- Say what an id stands for that a new event would have: the event itself, or a conflict.
CREATE FUNCTION fluxai.entered(item jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    known jsonb := fluxai.event_json(item->>'tenant', item->>'key');
BEGIN
    IF known IS NOT NULL THEN
        IF known->>'outcome' = item->>'outcome' THEN
            RETURN jsonb_build_array('event', known, NULL);
        END IF;
        RETURN '["id_used"]';
    ELSIF (item->'by_uuid')::boolean
        AND EXISTS (SELECT FROM fluxai.find(item->>'tenant', (item->>'key')::uuid))
    THEN
        RETURN '["id_of_reservation"]';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION fluxai.record(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    e fluxai.events;
    sums jsonb;
    refusal jsonb := fluxai.entered(item);
BEGIN
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    -- A UUIDv7 says when it was made, so one that may have been pruned is known by that.
    IF least((item->'counted_us')::bigint, CASE WHEN (item->'by_uuid')::boolean
            AND substr(item->>'key', 15, 1) = '7' THEN fluxai.made_us((item->>'key')::uuid) END)
        <= (SELECT h.counted_us FROM fluxai.horizon AS h)
    THEN
        RETURN '["pruned"]';
    END IF;
    refusal := fluxai.unplanned(item, NULL);
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    e := jsonb_populate_record(NULL::fluxai.events, item);
    e.id := item->>'key';
    e.usage := nullif(e.usage, 'null');
    sums := (fluxai.post_by_plan(item, e)).sums;
    RETURN jsonb_build_array('event', fluxai.event_json(e.tenant, e.id), sums);
END
$$;

CREATE FUNCTION fluxai.adjust(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    e fluxai.events;
    sums jsonb;
    refusal jsonb := fluxai.entered(item);
BEGIN
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    SELECT * INTO e FROM fluxai.events AS o
    WHERE o.tenant = item->>'tenant' AND o.id = item->>'event' ORDER BY o.seq LIMIT 1;
    IF NOT FOUND THEN
        RETURN '["unknown", "event"]';
    END IF;
    refusal := fluxai.unplanned(item, to_jsonb(e));
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    e.corrects := e.id;
    e.id := item->>'key';
    e.at_us := item->'at_us';
    e.cost := item->'cost';
    e.tokens := 0;
    e.requests := 0;
    e.usage := NULL;
    e.flags := '["correction"]';
    e.outcome := item->>'outcome';
    e.note := item->>'note';
    sums := (fluxai.post_by_plan(item, e)).sums;
    RETURN jsonb_build_array('event', fluxai.event_json(e.tenant, e.id), sums);
END
$$;

-- Say yes to a pending reservation: judge the `deny` limits again, now, and move the hold there.
CREATE FUNCTION fluxai.approve(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    now_us bigint := item->'at_us';
    r fluxai.reservations;
    a fluxai.approvals;
    refusal jsonb;
    candidate jsonb;
    amounts bigint[];
    ids bigint[];
    sums jsonb;
    k jsonb;
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF NOT FOUND THEN
        RETURN '["unknown", "approval"]';
    END IF;
    PERFORM fluxai.lapse(r, now_us);
    SELECT * INTO r FROM fluxai.find(r.tenant, r.id);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF a.state = 'approved' THEN
        RETURN jsonb_build_array('approval', fluxai.reservation_json(r), NULL);
    ELSIF a.state <> 'pending' THEN
        RETURN jsonb_build_array('answered', a.state);
    END IF;
    refusal := fluxai.unplanned(item, fluxai.reservation_json(r));
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    candidate := fluxai.planned(item, r.tool);
    amounts := ARRAY[r.cost, r.tokens, r.requests, 1];
    ids := fluxai.counters_for(r.tenant, candidate->'keys', now_us, true);
    -- Opening a counter may have held this reservation in it.
    SELECT * INTO r FROM fluxai.find(r.tenant, r.id);
    PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], -1);
    sums := fluxai.committed(ids);
    FOR k IN SELECT * FROM jsonb_array_elements(candidate->'checks') LOOP
        -- A check: place among the keys or -1, measure from 1, limit, what it does, whose it is.
        IF k->>3 = 'deny' AND coalesce((sums->>(k->>0)::integer)::bigint, 0)
            * ((k->>0)::integer >= 0)::integer + amounts[(k->>1)::integer] > (k->>2)::bigint
        THEN
            PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], 1);
            RETURN jsonb_build_array('denied_still', k->4);
        END IF;
    END LOOP;
    PERFORM fluxai.hold(ids, amounts, 1);
    UPDATE fluxai.reservations AS o
    SET state = 'reserved', concurrent = 1, counted_us = now_us, counters = ids,
        expires_us = greatest(o.expires_us, (item->'expires_us')::bigint)
    WHERE o.id = r.id AND o.tenant = r.tenant RETURNING * INTO r;
    UPDATE fluxai.approvals AS o
    SET state = 'approved', decided_by = item->>'by', decided_us = now_us, expires_us = r.expires_us
    WHERE o.tenant = r.tenant AND o.id = r.id;
    RETURN jsonb_build_array('approval', fluxai.reservation_json(r), fluxai.committed(ids));
END
$$;

CREATE FUNCTION fluxai.reject(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    now_us bigint := item->'at_us';
    r fluxai.reservations;
    a fluxai.approvals;
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF NOT FOUND THEN
        RETURN '["unknown", "approval"]';
    END IF;
    PERFORM fluxai.lapse(r, now_us);
    SELECT * INTO r FROM fluxai.find(r.tenant, r.id);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF a.state NOT IN ('pending', 'approved', 'rejected') THEN
        RETURN jsonb_build_array('answered', a.state);
    ELSIF a.state <> 'rejected' THEN
        UPDATE fluxai.approvals AS o
        SET state = 'rejected', decided_by = item->>'by', reason = item->>'reason',
            decided_us = now_us
        WHERE o.tenant = r.tenant AND o.id = r.id;
        IF r.state IN ('pending', 'reserved') THEN
            PERFORM fluxai.hold(r.counters, ARRAY[r.cost, r.tokens, r.requests, r.concurrent], -1);
            PERFORM fluxai.finish(r.tenant, r.id, 'released', now_us);
        END IF;
    END IF;
    RETURN jsonb_build_array('approval', fluxai.found_json(r.tenant, r.id), NULL);
END
$$;

-- Take an approved reservation for its one run, or go on with that run after another claim.
CREATE FUNCTION fluxai.claim(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    now_us bigint := item->'at_us';
    r fluxai.reservations;
    a fluxai.approvals;
BEGIN
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF NOT FOUND THEN
        RETURN '["unknown", "approval"]';
    END IF;
    PERFORM fluxai.lapse(r, now_us);
    SELECT * INTO r FROM fluxai.find(r.tenant, r.id);
    SELECT * INTO a FROM fluxai.approvals AS o WHERE o.tenant = r.tenant AND o.id = r.id;
    IF r.digest IS DISTINCT FROM item->>'digest' THEN
        RETURN '["another_call"]';
    ELSIF r.state = 'reserved'
        AND (item->>'after' IS NULL AND a.state = 'approved' OR a.claim = item->>'after')
    THEN
        UPDATE fluxai.approvals AS o SET state = 'used', claim = item->>'claim'
        WHERE o.tenant = r.tenant AND o.id = r.id;
        UPDATE fluxai.reservations AS o
        SET expires_us = (item->'expires_us')::bigint,
            decision = CASE WHEN o.tool <> o.requested_tool THEN 'downgraded' ELSE 'allowed' END
        WHERE o.id = r.id AND o.tenant = r.tenant;
    ELSIF (a.state <> 'pending' OR item->>'after' IS NOT NULL)
        AND (a.state <> 'used' OR a.claim IS DISTINCT FROM item->>'claim')
    THEN
        RETURN jsonb_build_array('answered', a.state);
    END IF;
    RETURN jsonb_build_array('reservation', fluxai.found_json(r.tenant, r.id));
END
$$;

-- Enter what was spent out of a lease, once, and hold no more of it than is to be kept.
CREATE FUNCTION fluxai.report(item jsonb) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    r fluxai.reservations;
    spent jsonb := (
        SELECT coalesce(jsonb_agg(e), '[]') FROM jsonb_array_elements(item->'events') AS e
        WHERE NOT EXISTS (
            SELECT FROM fluxai.events AS f WHERE f.tenant = item->>'tenant' AND f.id = e->>'id'));
    one jsonb;
    e fluxai.events;
    keep bigint[];
BEGIN
    -- What is known already must say the same, as in fluxai.settle.
    SELECT to_jsonb(latest) INTO one
    FROM jsonb_array_elements(item->'events') AS s
    JOIN fluxai.events AS f ON f.tenant = item->>'tenant' AND f.id = s->>'id'
    LEFT JOIN fluxai.reservations AS o ON o.tenant = f.tenant AND o.id = f.reservation_id
    JOIN fluxai.events AS latest
        ON latest.tenant = f.tenant AND latest.id = coalesce(o.exact, f.id)
        AND latest.counted_us = f.counted_us
    WHERE latest.outcome <> s->>'outcome'
        AND NOT (s->'flags' ? 'estimated' AND f.flags ? 'estimated')
    LIMIT 1;
    IF FOUND THEN
        RETURN jsonb_build_array('settled_otherwise', one);
    END IF;
    SELECT * INTO r FROM fluxai.find(item->>'tenant', (item->>'id')::uuid);
    IF NOT FOUND OR r.state NOT IN ('pending', 'reserved') AND spent <> '[]' THEN
        RETURN '["unknown", "reservation"]';
    ELSIF r.state NOT IN ('pending', 'reserved') THEN
        RETURN jsonb_build_array('reservation', fluxai.reservation_json(r));
    ELSIF spent <> '[]' AND ((item #>> '{version,0}')::bigint <> fluxai.version('*')
        OR (item #>> '{version,1}')::bigint <> fluxai.version(r.tenant))
    THEN
        RETURN jsonb_build_array('stale', fluxai.version('*'), fluxai.version(r.tenant));
    END IF;
    FOR one IN SELECT * FROM jsonb_array_elements(spent) LOOP
        e := jsonb_populate_record(NULL::fluxai.events, one);
        PERFORM fluxai.post(
            r.counters, ARRAY[e.cost, e.tokens, e.requests, 0], e.counted_us, e.at_us);
        PERFORM fluxai.add_event(e);
        INSERT INTO fluxai.reservations
            SELECT * FROM jsonb_populate_record(NULL::fluxai.reservations, one->'source');
    END LOOP;
    keep := ARRAY[
        least(r.cost, (item #>> '{keep,0}')::bigint), least(r.tokens, (item #>> '{keep,1}')::bigint),
        least(r.requests, (item #>> '{keep,2}')::bigint),
        least(r.concurrent, (item #>> '{keep,3}')::bigint)];
    PERFORM fluxai.hold(r.counters, ARRAY[
        keep[1] - r.cost, keep[2] - r.tokens, keep[3] - r.requests, keep[4] - r.concurrent], 1);
    UPDATE fluxai.reservations AS o
    SET cost = keep[1], tokens = keep[2], requests = keep[3], concurrent = keep[4]
    WHERE o.id = r.id AND o.tenant = r.tenant;
    IF keep[1] = 0 AND keep[2] = 0 AND keep[3] = 0 THEN
        PERFORM fluxai.finish(r.tenant, r.id, 'released', (item->'at_us')::bigint);
    END IF;
    RETURN jsonb_build_array('reservation', fluxai.found_json(r.tenant, r.id));
END
$$;

INSERT INTO fluxai.migrations (version) VALUES (2);

-- =================================================================================================
-- Version 3
-- =================================================================================================

-- Write what a batch changed in its counters.
CREATE FUNCTION fluxai.write_counters(
    keys jsonb, all_id bigint[], all_settled bigint[], all_reserved bigint[], all_head bigint[],
    all_dirty boolean[], all_stored boolean[]
) RETURNS void
LANGUAGE sql SET search_path = '' AS $$
    INSERT INTO fluxai.counters
        SELECT all_id[e.n], e.k->>0, e.k->>1, e.k->>2, e.k->>3, e.k->>4, (e.k->>5)::bigint,
            (e.k->>6)::bigint, all_settled[e.n], all_reserved[e.n], 0, all_head[e.n]
        FROM jsonb_array_elements(keys) WITH ORDINALITY AS e (k, n)
        WHERE all_dirty[e.n] AND NOT all_stored[e.n];
    UPDATE fluxai.counters AS c
    SET settled = u.settled, reserved = u.reserved, head = u.head
    FROM unnest(all_id, all_settled, all_reserved, all_head, all_dirty, all_stored)
        AS u (id, settled, reserved, head, dirty, stored)
    WHERE c.id = u.id AND u.dirty AND u.stored;
$$;

-- Carry out a batch of items of many callers in one transaction. No item of a batch may build on
-- another one of it. Returns an answer per item: its number, what became of it, and the rest.
CREATE FUNCTION fluxai.carry_out(batch jsonb) RETURNS json
LANGUAGE plpgsql SET search_path = ''
-- Everything is found by its key: a plan that was made while a table was small must not stay with
-- reading it whole.
-- And making one costs more than running it.
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    -- Texts of JSON: of what the most calls need, no value is built that is only to be written.
    answers text[] := '{}';
    now_us bigint := batch->'now_us';
    settle_on_expiry boolean := batch->'settle_on_expiry';
    horizon_us bigint;
    pruned boolean;
    every bigint;
    versions jsonb;
    -- Lists that stand side by side have their places from the start: one whose first place is left
    -- out would begin at the second, and `unnest` would put it beside the wrong items.
    key_places CONSTANT integer[] := ARRAY[jsonb_array_length(batch->'keys')];
    settle_places CONSTANT integer[] := ARRAY[jsonb_array_length(batch->'settles')];
    ask_places CONSTANT integer[] := ARRAY[jsonb_array_length(batch->'asks')];
    -- Counters, side by side: those of the batch's keys first, then others that are held in.
    n integer;
    c record;
    turned record;
    c_id bigint[] := array_fill(NULL::bigint, key_places);
    c_measure integer[] := array_fill(NULL::integer, key_places);
    c_width bigint[] := array_fill(NULL::bigint, key_places);
    c_head bigint[] := array_fill(NULL::bigint, key_places);
    c_settled bigint[] := array_fill(NULL::bigint, key_places);
    c_reserved bigint[] := array_fill(NULL::bigint, key_places);
    c_dirty boolean[] := array_fill(NULL::boolean, key_places);
    c_stored boolean[] := array_fill(NULL::boolean, key_places);
    -- What is posted to buckets of rolling windows.
    p_counter bigint[] := '{}';
    p_bucket bigint[] := '{}';
    p_amount bigint[] := '{}';
    bucket bigint;
    -- Plans, their candidates, and the candidates' keys and checks; a candidate has those from one
    -- number to another.
    plan_first integer[] := '{}';
    plan_stale boolean[];
    plan_id bigint[];
    idle integer[] := '{}';
    key_from integer[] := '{}';
    key_to integer[] := '{}';
    key_counter integer[] := '{}';
    windows text[] := '{}';
    run_tool text[] := '{}';
    run_model text[] := '{}';
    check_from integer[] := '{}';
    check_to integer[] := '{}';
    check_counter integer[] := '{}';
    check_measure integer[] := '{}';
    check_limit bigint[] := '{}';
    check_code integer[] := '{}';
    check_fallback integer[] := '{}';
    held_in text[] := '{}';
    -- What is settled, in the order of the batch.
    s record;
    held_id bigint;
    seq bigint;
    s_place integer := 0;
    s_seq bigint[] := array_fill(NULL::bigint, settle_places);
    s_user text[] := array_fill(NULL::text, settle_places);
    s_tool text[] := array_fill(NULL::text, settle_places);
    s_labels jsonb[] := array_fill(NULL::jsonb, settle_places);
    s_decision text[] := array_fill(NULL::text, settle_places);
    s_counted bigint[] := array_fill(NULL::bigint, settle_places);
    s_over boolean[] := array_fill(NULL::boolean, settle_places);
    announced boolean := false;
    labelled boolean := false;
    ended uuid[] := '{}';
    others jsonb := '[]';
    -- What is asked for, in the order of the batch.
    a record;
    known fluxai.reservations;
    a_place integer := 0;
    a_decision text[] := array_fill(NULL::text, ask_places);
    a_candidate integer[] := array_fill(NULL::integer, ask_places);
    a_cost bigint[] := array_fill(NULL::bigint, ask_places);
    a_tokens bigint[] := array_fill(NULL::bigint, ask_places);
    a_requests bigint[] := array_fill(NULL::bigint, ask_places);
    a_output bigint[] := array_fill(NULL::bigint, ask_places);
    a_need jsonb[] := array_fill(NULL::jsonb, ask_places);
    a_judged text[] := array_fill(NULL::text, ask_places);
    waiting text[] := '{}';
    none_overdue text[] := '{}';
    -- One candidate at a time.
    tried boolean;
    k integer;
    g integer;
    j integer;
    need jsonb;
    cost bigint;
    input bigint;
    output bigint;
    requests bigint;
    amounts bigint[];
    acted integer;
    denies boolean;
    firm boolean;
    shrunk boolean;
    decision text;
    note text;
    steps text;
    committed bigint[];
    settled bigint[];
    headroom numeric;
    most numeric;
    least_output bigint;
BEGIN
    SELECT jsonb_object_agg(l.tenant, l.version) INTO versions FROM fluxai.lock_tenants(
        ARRAY(SELECT jsonb_array_elements_text(batch->'tenants'))) AS l;
    every := fluxai.version('*');
    -- Not before the locks: whoever prunes has them all.
    SELECT h.counted_us, h.counted_us > -62104060800000000 INTO horizon_us, pruned
    FROM fluxai.horizon AS h;

    IF batch->'asks' <> '[]' THEN
        SELECT ARRAY(SELECT jsonb_array_elements_text(batch->'plan_first')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'key_from')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'key_to')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'key_counter')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'windows')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'tool')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'model')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_from')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_to')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_counter')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_measure')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_limit')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_code')),
            ARRAY(SELECT jsonb_array_elements_text(batch->'check_fallback'))
        INTO plan_first, key_from, key_to, key_counter, windows, run_tool, run_model, check_from,
            check_to, check_counter, check_measure, check_limit, check_code, check_fallback;

        -- Plans: those that were compiled from other rules are stale.
        IF batch ? 'texts' THEN
            INSERT INTO fluxai.plans (digest, candidates)
                SELECT t.key, t.value FROM jsonb_each_text(batch->'texts') AS t ORDER BY 1
                ON CONFLICT DO NOTHING;
        END IF;
        plan_stale := ARRAY(
            SELECT (p->>1)::bigint <> every OR (p->>2)::bigint <> (versions->>(p->>0))::bigint
            FROM jsonb_array_elements(batch->'plans') AS p);
        plan_id := ARRAY(
            SELECT (SELECT f.id FROM fluxai.plans AS f WHERE f.digest = p->>3)
            FROM jsonb_array_elements(batch->'plans') AS p);

        -- What only stale plans name is not opened: nothing may feed it any more.
        IF true = ANY (plan_stale) THEN
            idle := ARRAY(
                SELECT f.counter FROM (
                    SELECT key_counter[m] AS counter, plan_stale[(
                        SELECT max(p.n) FROM unnest(plan_first) WITH ORDINALITY AS p (first, n)
                        WHERE p.first <= f.candidate)] AS stale
                    FROM unnest(key_from, key_to) WITH ORDINALITY AS f (low, high, candidate),
                        generate_series(f.low, f.high) AS m
                ) AS f
                GROUP BY 1 HAVING bool_and(f.stale));
        END IF;

        -- Counters of the keys. (Tenant, scope, value, measure, kind, start, end.)
        SELECT array_agg(f.id ORDER BY e.n), array_agg(f.settled ORDER BY e.n),
            array_agg(f.reserved ORDER BY e.n), array_agg(f.head ORDER BY e.n),
            array_agg(fluxai.measure_of(e.k->>3, e.k->>4) ORDER BY e.n),
            array_agg(fluxai.bucket_us(e.k->>4) ORDER BY e.n),
            array_agg(false), array_agg(true)
        INTO c_id, c_settled, c_reserved, c_head, c_measure, c_width, c_dirty, c_stored
        FROM jsonb_array_elements(batch->'keys') WITH ORDINALITY AS e (k, n)
        LEFT JOIN fluxai.counters AS f ON f.tenant = e.k->>0 AND f.scope = e.k->>1
            AND f.value = e.k->>2 AND f.measure = e.k->>3 AND f.kind = e.k->>4
            AND f.start_us = (e.k->>5)::bigint;
        -- Without any key these are NULL, which no array may be.
        c_id := coalesce(c_id, '{}');
        FOR n IN 1 .. cardinality(c_id) LOOP
            IF c_id[n] IS NULL AND n <> ALL (idle) THEN
                need := batch->'keys'->(n - 1);
                SELECT * INTO c FROM fluxai.open_counter(
                    need->>0, need->>1, need->>2, need->>3, need->>4, (need->>5)::bigint,
                    (need->>6)::bigint, now_us, false);
                c_id[n] := c.id;
                c_settled[n] := c.settled;
                c_reserved[n] := c.reserved;
                c_head[n] := c.head;
                c_stored[n] := c.stored;
            ELSIF c_id[n] IS NULL THEN
                c_id[n] := 0; -- no counter's; a NULL here would hide all others from `<> ALL`
            ELSIF c_head[n] IS NOT NULL THEN
                turned := fluxai.turn(c_id[n], c_head[n], c_width[n], now_us);
                c_settled[n] := c_settled[n] - turned.gone;
                c_dirty[n] := turned.head > c_head[n];
                c_head[n] := turned.head;
            END IF;
        END LOOP;
        FOR g IN 1 .. cardinality(key_from) LOOP
            held_in[g] := '{' || array_to_string(ARRAY(
                SELECT c_id[key_counter[m]] FROM generate_series(key_from[g], key_to[g]) AS m
                ORDER BY m), ',') || '}';
        END LOOP;
    END IF;

    -- Settle.
    FOR s IN
        SELECT x.i, x.tenant, x.id, x.cost, x.tokens, x.requests, x.at_us, r.state, r.decision,
            r."user", r.labels, r.tool, r.counted_us, r.counters,
            ARRAY[r.cost, r.tokens, r.requests, r.concurrent] AS held, (
                SELECT p.state FROM fluxai.approvals AS p
                WHERE r.decision = 'pending_approval' AND p.tenant = r.tenant AND p.id = r.id
            ) AS approval
        FROM jsonb_to_recordset(batch->'settles') AS x (
            i integer, tenant text, id uuid, cost bigint, tokens bigint, requests bigint,
            at_us bigint)
        LEFT JOIN LATERAL (
            SELECT * FROM fluxai.reservations AS r WHERE r.id = x.id AND r.tenant = x.tenant OFFSET 0
        ) AS r ON true
    LOOP
        s_place := s_place + 1;
        IF s.state IS DISTINCT FROM 'reserved' OR s.approval IS NOT NULL THEN
            others := others || (batch->'settles'->(s_place - 1));
            CONTINUE;
        END IF;
        IF NOT announced THEN
            PERFORM fluxai.announce_events();
            announced := true;
        END IF;
        amounts := ARRAY[s.cost, s.tokens, s.requests, 0];
        IF NOT s.counters <@ c_id THEN
            FOR c IN SELECT f.*, fluxai.measure_of(f.measure, f.kind) AS counts,
                    fluxai.bucket_us(f.kind) AS width
                FROM fluxai.counters AS f
                WHERE f.id = ANY (s.counters) AND f.id <> ALL (c_id)
            LOOP
                n := cardinality(c_id) + 1;
                c_id[n] := c.id;
                c_measure[n] := c.counts;
                c_width[n] := c.width;
                c_settled[n] := c.settled;
                c_reserved[n] := c.reserved;
                c_head[n] := c.head;
                c_dirty[n] := false;
                c_stored[n] := true;
            END LOOP;
        END IF;
        FOREACH held_id IN ARRAY s.counters LOOP
            n := array_position(c_id, held_id);
            -- One that was dropped since counts nothing any more.
            CONTINUE WHEN n IS NULL;
            j := c_measure[n];
            c_reserved[n] := c_reserved[n] - s.held[j];
            c_dirty[n] := true;
            IF c_width[n] IS NOT NULL THEN
                turned := fluxai.turn(held_id, c_head[n], c_width[n], s.at_us);
                c_head[n] := turned.head;
                c_settled[n] := c_settled[n] - turned.gone;
                bucket := fluxai.floor_div(s.counted_us, c_width[n]);
                CONTINUE WHEN bucket < c_head[n] - 60;
                p_counter := p_counter || held_id;
                p_bucket := p_bucket || bucket;
                p_amount := p_amount || amounts[j];
            END IF;
            c_settled[n] := c_settled[n] + amounts[j];
        END LOOP;
        seq := nextval('fluxai.event_seq');
        s_seq[s_place] := seq;
        s_user[s_place] := s."user";
        s_tool[s_place] := s.tool;
        s_labels[s_place] := s.labels;
        s_decision[s_place] := s.decision;
        s_counted[s_place] := s.counted_us;
        s_over[s_place] := s.cost > s.held[1];
        labelled := labelled OR s.labels <> '{}';
        ended := ended || s.id;
        IF s.cost > s.held[1] OR s.tokens > s.held[2] OR s.requests > s.held[3] THEN
            -- More than was held: the shares of limits have to be looked at.
            answers := answers || jsonb_build_array(s.i, 'over', seq, s.decision, s_over[s_place], (
                SELECT jsonb_agg(jsonb_build_array(
                    f.scope, f.value, f.measure, f.kind, f.start_us,
                    c_settled[array_position(c_id, f.id)] + c_reserved[array_position(c_id, f.id)]))
                FROM fluxai.counters AS f WHERE f.id = ANY (s.counters)),
                fluxai.found_json(s.tenant, s.id))::text;
        ELSE
            answers := answers || ('[' || s.i || ',"done",' || seq || ',"' || s.decision || '"]');
        END IF;
    END LOOP;

    -- Reserve.
    FOR a IN
        SELECT * FROM jsonb_to_recordset(batch->'asks') AS x (
            i integer, tenant text, id uuid, plan integer, counted_us bigint, key text, digest text,
            cost bigint, output bigint, input bigint, requests bigint, need jsonb, more jsonb)
        LEFT JOIN LATERAL (
            SELECT true AS known FROM fluxai.reservations AS r
            WHERE r.id = x.id AND r.tenant = x.tenant OFFSET 0
        ) AS r ON true
    LOOP
        a_place := a_place + 1;
        IF a.known OR a.key IS NOT NULL THEN
            known := NULL;
            IF a.known THEN
                SELECT * INTO known FROM fluxai.find(a.tenant, a.id);
            ELSE
                SELECT * INTO known FROM fluxai.reservations AS r
                WHERE r.tenant = a.tenant AND r.key = a.key ORDER BY r.id DESC LIMIT 1;
                IF known.resolved_us IS NOT NULL
                    AND a.counted_us - known.resolved_us > 86400000000
                THEN
                    known := NULL;
                END IF;
            END IF;
            IF known.id IS NOT NULL THEN
                answers := answers || (CASE WHEN known.digest IS DISTINCT FROM a.digest
                    THEN jsonb_build_array(a.i, 'key_used', known.id)
                    ELSE jsonb_build_array(a.i, 'reservation', fluxai.reservation_json(known))
                    END)::text;
                CONTINUE;
            END IF;
        END IF;
        IF plan_stale[a.plan] THEN
            answers := answers || jsonb_build_array(
                a.i, 'stale', every, (versions->>a.tenant)::bigint)::text;
            CONTINUE;
        END IF;
        IF pruned AND fluxai.made_us(a.id) < horizon_us THEN
            answers := answers || jsonb_build_array(a.i, 'pruned')::text;
            CONTINUE;
        END IF;
        tried := false;
        note := NULL;
        <<judging>>
        LOOP
            k := 0;
            steps := '';
            LOOP
                g := plan_first[a.plan] + k;
                IF k = 0 AND a.cost IS NOT NULL THEN
                    need := a.need;
                    cost := a.cost;
                    output := a.output;
                    input := a.input;
                    requests := a.requests;
                ELSE
                    -- Fixed, per output, input, expected input, cap, most output, requests.
                    need := CASE k WHEN 0 THEN a.need ELSE a.more->(k - 1) END;
                    input := need->2;
                    requests := need->6;
                    output := (need->>4)::bigint;
                    IF output IS NULL THEN
                        -- A fair share of what the limits have room for.
                        least_output := least(256, (need->5)::bigint);
                        most := (need->5)::bigint;
                        headroom := 4611686018427387904;
                        FOR j IN check_from[g] .. check_to[g] LOOP
                            CONTINUE WHEN check_measure[j] > 2;
                            n := check_counter[j];
                            headroom := least(headroom, fluxai.room(
                                check_limit[j] - CASE n WHEN 0 THEN 0
                                    ELSE c_settled[n] + c_reserved[n] END,
                                check_measure[j], (need->>0)::numeric, (need->>1)::numeric, input));
                        END LOOP;
                        output := least_output + greatest(0, least(
                            most - least_output, div(headroom - least_output, 4)))::bigint;
                    END IF;
                    cost := fluxai.cost_of((need->>0)::numeric, (need->>1)::numeric, output);
                END IF;
                shrunk := false;
                LOOP
                    amounts := ARRAY[cost, input + output, requests, 1];
                    acted := 0;
                    denies := false;
                    firm := false;
                    FOR j IN check_from[g] .. check_to[g] LOOP
                        n := check_counter[j];
                        IF n = 0 THEN
                            CONTINUE WHEN amounts[check_measure[j]] <= check_limit[j];
                        ELSE
                            CONTINUE WHEN c_settled[n] + c_reserved[n] + amounts[check_measure[j]]
                                <= check_limit[j];
                        END IF;
                        IF acted = 0 THEN
                            acted := j;
                        END IF;
                        denies := denies OR check_code[j] IN (1, 4);
                        firm := check_code[j] = 1;
                        EXIT WHEN firm;
                    END LOOP;
                    -- What denies may all allow a smaller output than the caller's cap.
                    EXIT WHEN shrunk OR firm OR NOT denies OR need->>4 IS NULL;
                    headroom := 4611686018427387904;
                    FOR j IN check_from[g] .. check_to[g] LOOP
                        CONTINUE WHEN check_code[j] <> 4;
                        n := check_counter[j];
                        headroom := least(headroom, fluxai.room(
                            check_limit[j] - CASE n WHEN 0 THEN 0
                                ELSE c_settled[n] + c_reserved[n] END,
                            check_measure[j], (need->>0)::numeric, (need->>1)::numeric, input));
                    END LOOP;
                    EXIT WHEN headroom < least(256, ((need->>4)::bigint + 3) / 4);
                    output := headroom;
                    cost := fluxai.cost_of((need->>0)::numeric, (need->>1)::numeric, output);
                    shrunk := true;
                END LOOP;
                committed := '{}';
                settled := '{}';
                FOR j IN key_from[g] .. key_to[g] LOOP
                    n := key_counter[j];
                    committed := committed || (c_settled[n] + c_reserved[n]);
                    settled := settled || c_settled[n];
                END LOOP;
                steps := steps || CASE WHEN k > 0 THEN ',[' ELSE '[' END || k || ',' || output || ',['
                    || array_to_string(amounts, ',') || '],['
                    || array_to_string(committed, ',') || '],['
                    || array_to_string(settled, ',') || '],' || windows[g] || ']';
                EXIT WHEN acted = 0 OR check_code[acted] <> 3 OR k > 0 OR check_fallback[acted] <= 0
                    OR jsonb_typeof(a.more->(check_fallback[acted] - 1)) <> 'array';
                k := check_fallback[acted];
            END LOOP;
            EXIT WHEN (acted = 0 AND NOT shrunk) OR tried OR a.tenant = ANY (none_overdue);
            -- Before a refusal, and before less is granted: what is overdue gives way.
            tried := true;
            IF NOT EXISTS (
                SELECT FROM fluxai.reservations AS r
                WHERE r.tenant = a.tenant AND r.state IN ('pending', 'reserved')
                    AND r.expires_us <= a.counted_us AND r.id <> ALL (ended))
            THEN
                none_overdue := none_overdue || a.tenant;
                EXIT;
            END IF;
            PERFORM fluxai.write_counters(
                batch->'keys', c_id, c_settled, c_reserved, c_head, c_dirty, c_stored);
            FOR n IN 1 .. cardinality(c_id) LOOP
                c_stored[n] := c_stored[n] OR c_dirty[n];
                c_dirty[n] := false;
            END LOOP;
            PERFORM fluxai.expire_some(
                a.tenant, a.counted_us, ARRAY(
                    SELECT c_id[key_counter[m]]
                    FROM generate_series(key_from[plan_first[a.plan]], key_to[g]) AS m),
                ended, settle_on_expiry);
            FOR c IN SELECT f.*, array_position(c_id, f.id) AS n FROM fluxai.counters AS f
                WHERE f.id = ANY (c_id)
            LOOP
                c_settled[c.n] := c.settled;
                c_reserved[c.n] := c.reserved;
                c_head[c.n] := c.head;
            END LOOP;
        END LOOP;
        decision := CASE
            WHEN acted = 0 AND k > 0 THEN 'downgraded'
            WHEN acted = 0 THEN 'allowed'
            WHEN check_code[acted] = 2 AND NOT denies THEN 'pending_approval'
            ELSE 'denied' END;
        IF decision = 'pending_approval' THEN
            IF cardinality(array_positions(waiting, a.tenant)) + (
                SELECT count(*) FROM fluxai.reservations AS r
                WHERE r.tenant = a.tenant AND r.state = 'pending') >= 100
            THEN
                decision := 'denied';
                note := 'too_many_pending';
            ELSE
                waiting := waiting || a.tenant;
                amounts[4] := 0;
            END IF;
        END IF;
        IF decision <> 'denied' THEN
            FOR j IN key_from[g] .. key_to[g] LOOP
                n := key_counter[j];
                c_reserved[n] := c_reserved[n] + amounts[c_measure[n]];
                c_dirty[n] := true;
            END LOOP;
            a_decision[a_place] := decision;
            a_candidate[a_place] := g;
            a_cost[a_place] := amounts[1];
            a_tokens[a_place] := amounts[2];
            a_requests[a_place] := amounts[3];
            a_output[a_place] := output;
            a_need[a_place] := need;
            a_judged[a_place] := '[' || steps || ']';
        END IF;
        answers := answers || ('[' || a.i || ',"decided","' || decision || '",[' || steps
            || CASE WHEN note IS NULL THEN '],null]' ELSE '],"' || note || '"]' END);
    END LOOP;

    -- Write it.
    IF true = ANY (c_dirty) THEN
        PERFORM fluxai.write_counters(
            batch->'keys', c_id, c_settled, c_reserved, c_head, c_dirty, c_stored);
    END IF;
    IF p_counter <> '{}' THEN
        INSERT INTO fluxai.buckets AS b
            SELECT p.counter, p.bucket, sum(p.amount)
            FROM unnest(p_counter, p_bucket, p_amount) AS p (counter, bucket, amount)
            GROUP BY 1, 2 ORDER BY 1, 2
            ON CONFLICT ON CONSTRAINT buckets_pkey DO UPDATE SET amount = b.amount + excluded.amount;
    END IF;
    IF announced THEN
        UPDATE fluxai.reservations AS r SET state = 'settled', resolved_us = x.at_us
        FROM ROWS FROM (
            jsonb_to_recordset(batch->'settles') AS (id uuid, tenant text, at_us bigint),
            unnest(s_seq)
        ) AS x (id, tenant, at_us, seq)
        WHERE x.seq IS NOT NULL AND r.id = x.id AND r.tenant = x.tenant;
        INSERT INTO fluxai.events
            SELECT x.seq, x.tenant, x.id, x.id::uuid, x.at_us, x.counted_us, x."user", x.tool,
                x.model, x.cost, x.tokens, x.requests, x.usage, x.labels, x.decision,
                CASE WHEN x.over THEN x.flags || '["overrun"]' ELSE x.flags END, x.price_version,
                x.outcome
            FROM ROWS FROM (
                jsonb_to_recordset(batch->'settles') AS (
                    tenant text, id text, model text, cost bigint, tokens bigint, requests bigint,
                    usage jsonb, at_us bigint, flags jsonb, price_version text, outcome text),
                unnest(s_seq, s_user, s_tool, s_labels, s_decision, s_counted, s_over)
            ) AS x (
                tenant, id, model, cost, tokens, requests, usage, at_us, flags, price_version,
                outcome, seq, "user", tool, labels, decision, counted_us, over)
            WHERE x.seq IS NOT NULL;
        INSERT INTO fluxai.days AS d
            SELECT x.tenant, fluxai.floor_div(x.counted_us, 86400000000), x."user", x.tool, x.model,
                sum(x.cost), sum(x.tokens), sum(x.requests), count(*)
            FROM ROWS FROM (
                jsonb_to_recordset(batch->'settles') AS (
                    tenant text, model text, cost bigint, tokens bigint, requests bigint),
                unnest(s_seq, s_user, s_tool, s_counted)
            ) AS x (tenant, model, cost, tokens, requests, seq, "user", tool, counted_us)
            WHERE x.seq IS NOT NULL
            GROUP BY 1, 2, 3, 4, 5
            ON CONFLICT (tenant, day, "user", tool, model) DO UPDATE SET
                cost = d.cost + excluded.cost, tokens = d.tokens + excluded.tokens,
                requests = d.requests + excluded.requests, events = d.events + excluded.events;
        IF labelled THEN
            INSERT INTO fluxai.labels
                SELECT x.tenant, l.key || '=' || l.value, x.counted_us, x.seq, x.cost, x.tokens,
                    x.requests
                FROM ROWS FROM (
                    jsonb_to_recordset(batch->'settles') AS (
                        tenant text, cost bigint, tokens bigint, requests bigint),
                    unnest(s_seq, s_labels, s_counted)
                ) AS x (tenant, cost, tokens, requests, seq, labels, counted_us),
                LATERAL jsonb_each_text(x.labels) AS l
                WHERE x.seq IS NOT NULL;
        END IF;
    END IF;
    IF num_nonnulls(VARIADIC a_decision) > 0 THEN
        INSERT INTO fluxai.reservations
            SELECT x.id, x.tenant, x."user", x.labels, x.requested_tool, run_tool[x.candidate],
                run_model[x.candidate], x.decision,
                CASE x.decision WHEN 'pending_approval' THEN 'pending' ELSE 'reserved' END,
                x.counted_us,
                CASE x.decision WHEN 'pending_approval' THEN x.approval_expires_us
                    ELSE x.expires_us END,
                NULL, x.cost, x.tokens, x.requests,
                CASE x.decision WHEN 'pending_approval' THEN 0 ELSE 1 END,
                x.output, x.need, x.method, x.key, x.digest, NULL, held_in[x.candidate]::bigint[],
                plan_id[x.plan], x.judged
            FROM ROWS FROM (
                jsonb_to_recordset(batch->'asks') AS (
                    id uuid, tenant text, "user" text, labels jsonb, requested_tool text,
                    plan integer, counted_us bigint, expires_us bigint, approval_expires_us bigint,
                    method text, key text, digest text),
                unnest(a_decision, a_candidate, a_cost, a_tokens, a_requests, a_output, a_need,
                    a_judged)
            ) AS x (
                id, tenant, "user", labels, requested_tool, plan, counted_us, expires_us,
                approval_expires_us, method, key, digest, decision, candidate, cost, tokens,
                requests, output, need, judged)
            WHERE x.decision IS NOT NULL;
        IF waiting <> '{}' THEN
            INSERT INTO fluxai.approvals (tenant, id, state, requested_us, expires_us)
                SELECT x.tenant, x.id, 'pending', x.counted_us, x.approval_expires_us
                FROM ROWS FROM (
                    jsonb_to_recordset(batch->'asks') AS (
                        id uuid, tenant text, counted_us bigint, approval_expires_us bigint),
                    unnest(a_decision)
                ) AS x (id, tenant, counted_us, approval_expires_us, decision)
                WHERE x.decision = 'pending_approval';
        END IF;
    END IF;

    -- And what goes item by item.
    FOR s IN SELECT o.item FROM jsonb_array_elements(others || (batch->'others')) AS o (item) LOOP
        answers := answers || (jsonb_build_array(s.item->'i') || CASE s.item->>'verb'
            WHEN 'settle' THEN fluxai.settle(s.item)
            WHEN 'release' THEN fluxai.release(s.item)
            WHEN 'extend' THEN fluxai.extend(s.item)
            WHEN 'record' THEN fluxai.record(s.item)
            WHEN 'adjust' THEN fluxai.adjust(s.item)
            WHEN 'approve' THEN fluxai.approve(s.item)
            WHEN 'reject' THEN fluxai.reject(s.item)
            WHEN 'claim' THEN fluxai.claim(s.item)
            WHEN 'report' THEN fluxai.report(s.item)
        END)::text;
    END LOOP;
    RETURN '[' || array_to_string(answers, ',') || ']';
END
$$;

-- How many output tokens fit into what a limit has left; negative when none do.
CREATE FUNCTION fluxai.room(
    headroom bigint, measure integer, fixed numeric, per_output numeric, input bigint
) RETURNS numeric
LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN measure = 2 THEN headroom - input
    WHEN per_output > 0 THEN div(headroom::numeric * 1000000 - fixed, per_output)
    WHEN headroom::numeric * 1000000 >= fixed THEN 4611686018427387904
    ELSE -1
END;

-- End overdue reservations of every tenant, oldest first.
CREATE FUNCTION fluxai.expire(now_us bigint, most integer, settle boolean) RETURNS jsonb
LANGUAGE plpgsql SET search_path = '' SET enable_seqscan = off AS $$
DECLARE
    late jsonb;
    r fluxai.reservations;
    released integer := 0;
    settled integer := 0;
BEGIN
    SELECT jsonb_agg(jsonb_build_array(o.tenant, o.id)) INTO late FROM (
        SELECT f.tenant, f.id FROM fluxai.reservations AS f
        WHERE f.state IN ('pending', 'reserved') AND f.expires_us <= now_us
        ORDER BY f.expires_us, f.id LIMIT most
    ) AS o;
    PERFORM fluxai.lock_tenants(
        ARRAY(SELECT DISTINCT o->>0 FROM jsonb_array_elements(late) AS o ORDER BY 1));
    FOR r IN
        SELECT f.* FROM jsonb_array_elements(late) AS o,
            LATERAL fluxai.find(o->>0, (o->>1)::uuid) AS f
        -- Somebody may have resolved or extended it before its tenant was locked.
        WHERE f.state IN ('pending', 'reserved') AND f.expires_us <= now_us
        ORDER BY f.expires_us, f.id
    LOOP
        IF fluxai.end_overdue(r, now_us, settle) THEN
            settled := settled + 1;
        ELSE
            released := released + 1;
        END IF;
    END LOOP;
    RETURN jsonb_build_array(released, settled);
END
$$;

-- Say which alerts are new: a share is announced once per window and policy. (Tenant, scope, value,
-- measure, kind, start, policy, share, limit, committed, at.)
CREATE FUNCTION fluxai.announce(raised jsonb) RETURNS jsonb
LANGUAGE sql SET search_path = '' AS $$
    -- One at a time, so that alerts can be read in the order of their numbers, and none is skipped.
    SELECT pg_advisory_xact_lock(1089478144::bigint << 32 | 1);
    WITH fresh AS (
        INSERT INTO fluxai.alerts (
            tenant, scope, value, measure, kind, start_us, policy_id, share, "limit", committed,
            at_us)
        SELECT a->>0, a->>1, a->>2, a->>3, a->>4, (a->>5)::bigint, a->>6, a->>7, (a->>8)::bigint,
            (a->>9)::bigint, (a->>10)::bigint
        FROM jsonb_array_elements(raised) AS a
        ON CONFLICT DO NOTHING
        RETURNING *
    )
    SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.seq), '[]') FROM fresh AS f
$$;

-- Whether a filter means a counter: each field that it gives has to fit.
CREATE FUNCTION fluxai.fits(filter jsonb, c fluxai.counters) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = ''
RETURN (filter->>'tenant' IS NULL OR filter->>'tenant' = c.tenant)
    AND (filter->>'scope' IS NULL OR filter->>'scope' = c.scope)
    AND (filter->>'value' IS NULL OR filter->>'value' = c.value)
    AND (filter->>'label' IS NULL OR starts_with(c.value, filter->>'label' || '='))
    AND (filter->>'measure' IS NULL OR filter->>'measure' = c.measure)
    AND (filter->'kinds' = '[]' OR filter->'kinds' ? c.kind);

-- Change records, raise the versions they concern, and drop the counters that nothing feeds any more
-- because of that. An expected version that no longer holds changes nothing, and answers false.
CREATE FUNCTION fluxai.apply(changes jsonb, expected jsonb, unfed jsonb) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    scopes text[] := ARRAY(
        SELECT DISTINCT c->>'scope' FROM jsonb_array_elements(changes) AS c ORDER BY 1);
    concerned text[] := scopes;
    change jsonb;
BEGIN
    -- One at a time.
    PERFORM pg_advisory_xact_lock(1089478144::bigint << 32 | 2);
    IF '*' = ANY (scopes) AND unfed <> '[]' THEN
        -- A tenant that is just beginning may be opening counters by the old rules: it comes first,
        -- or after this.
        LOCK TABLE fluxai.versions IN SHARE ROW EXCLUSIVE MODE;
        concerned := ARRAY(SELECT v.tenant FROM fluxai.versions AS v UNION SELECT unnest(scopes));
    END IF;
    PERFORM fluxai.lock_tenants(concerned);
    IF jsonb_typeof(expected) = 'array' AND EXISTS (
        SELECT FROM unnest(scopes) AS s WHERE s <> '*' AND (
            (expected->>0)::bigint <> fluxai.version('*')
            OR (expected->>1)::bigint <> fluxai.version(s)))
    THEN
        -- Or it is these very changes that raised it, and the answer to that was lost.
        RETURN NOT EXISTS (
            SELECT FROM unnest(scopes) AS s WHERE (expected->>0)::bigint <> fluxai.version('*')
                OR (expected->>1)::bigint + 1 <> fluxai.version(s)
        ) AND NOT EXISTS (
            SELECT FROM jsonb_array_elements(changes) AS c WHERE nullif(c->'body', 'null')
                IS DISTINCT FROM (SELECT r.body FROM fluxai.records AS r
                    WHERE r.kind = c->>'kind' AND r.scope = c->>'scope' AND r.id = c->>'id'));
    END IF;
    IF EXISTS (
        SELECT FROM jsonb_array_elements(changes) AS c JOIN fluxai.records AS r
            ON r.kind = c->>'kind' AND r.id = c->>'id' AND r.scope <> c->>'scope'
        WHERE (c->'sole')::boolean)
    THEN
        RETURN false;
    END IF;
    FOR change IN SELECT * FROM jsonb_array_elements(changes) LOOP
        IF jsonb_typeof(change->'body') = 'object' THEN
            INSERT INTO fluxai.records AS r (kind, scope, id, body) VALUES (
                change->>'kind', change->>'scope', change->>'id', change->'body')
            ON CONFLICT (kind, scope, id) DO UPDATE SET body = excluded.body;
        ELSE
            DELETE FROM fluxai.records AS r WHERE r.kind = change->>'kind'
                AND r.scope = change->>'scope' AND r.id = change->>'id';
        END IF;
    END LOOP;
    UPDATE fluxai.versions AS v SET version = v.version + 1 WHERE v.tenant = ANY (scopes);
    IF unfed <> '[]' THEN
        WITH gone AS (
            DELETE FROM fluxai.counters AS c
            WHERE c.tenant = ANY (concerned) AND c.carried = 0 AND EXISTS (
                SELECT FROM jsonb_array_elements(unfed) AS u
                WHERE fluxai.fits(u, c) AND (
                    jsonb_typeof(u->'besides') <> 'object' OR NOT fluxai.fits(u->'besides', c)))
            RETURNING c.id
        )
        DELETE FROM fluxai.buckets AS b USING gone WHERE b.counter = gone.id;
    END IF;
    RETURN true;
END
$$;

-- Let go of the counters of windows that ended and in which nothing is held; say how many.
CREATE FUNCTION fluxai.drop_ended(before_us bigint, most integer) RETURNS integer
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    names text[] := ARRAY(SELECT DISTINCT o.tenant FROM (
        SELECT c.tenant FROM fluxai.counters AS c
        WHERE c.end_us <= before_us AND c.reserved = 0 AND c.carried = 0 LIMIT most) AS o);
    done integer;
BEGIN
    PERFORM fluxai.lock_tenants(names);
    DELETE FROM fluxai.counters AS c
    WHERE c.end_us <= before_us AND c.reserved = 0 AND c.carried = 0 AND c.tenant = ANY (names);
    GET DIAGNOSTICS done = ROW_COUNT;
    RETURN done;
END
$$;

INSERT INTO fluxai.migrations (version) VALUES (3);

-- =================================================================================================
-- Version 4
-- =================================================================================================

-- Looking, without changing anything. Lists are JSON arrays of whole rows.

-- Up to which number every event is there to be read. Numbers are given before their transaction
-- ends, so a larger one may be visible first. The order of these steps matters: what is not numbered
-- yet is past `last`, and whoever has begun to number says so before he does.
CREATE FUNCTION fluxai.readable_seq() RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
    last bigint;
    unfinished bigint;
BEGIN
    SELECT s.last_value INTO last FROM fluxai.event_seq AS s;
    SELECT min((l.classid::bigint - 1089412608) << 32 | l.objid::bigint) INTO unfinished
    FROM pg_catalog.pg_locks AS l
    WHERE l.locktype = 'advisory' AND l.objsubid = 1
        AND l.classid::bigint BETWEEN 1089412608 AND 1089412608 + 65535
        AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
            WHERE d.datname = current_database());
    -- A number below what was announced may also be the one that was given last before it.
    RETURN coalesce(least(last, unfinished), last);
END
$$;

CREATE FUNCTION fluxai.read_rules(of_tenant text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT jsonb_build_object(
        'version', jsonb_build_array(
            fluxai.version('*'), CASE of_tenant WHEN '*' THEN 0 ELSE fluxai.version(of_tenant) END),
        'tenant', (SELECT r.body FROM fluxai.records AS r
            WHERE r.kind = 'tenant' AND r.scope = of_tenant AND r.id = of_tenant),
        'policies', (SELECT coalesce(jsonb_agg(r.body ORDER BY r.scope <> '*', r.place), '[]')
            FROM fluxai.records AS r WHERE r.kind = 'policy' AND r.scope IN ('*', of_tenant)),
        'grants', (SELECT coalesce(jsonb_agg(r.body ORDER BY r.scope <> '*', r.place), '[]')
            FROM fluxai.records AS r WHERE r.kind = 'grant' AND r.scope IN ('*', of_tenant)))
$$;

CREATE FUNCTION fluxai.read_version(of_tenant text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = ''
RETURN jsonb_build_array(
    fluxai.version('*'), CASE of_tenant WHEN '*' THEN 0 ELSE fluxai.version(of_tenant) END);

CREATE FUNCTION fluxai.read_records(of_kind text, of_scope text, of_id text, most integer)
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(f.body ORDER BY f.place), '[]') FROM (
        SELECT r.body, r.place FROM fluxai.records AS r
        WHERE r.kind = of_kind AND (of_scope IS NULL OR r.scope = of_scope)
            AND (of_id IS NULL OR r.id = of_id)
        ORDER BY r.place LIMIT most
    ) AS f
$$;

CREATE FUNCTION fluxai.read_reservation(of_tenant text, of_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT fluxai.reservation_json(r) FROM fluxai.reservations AS r
    WHERE r.id = of_id AND (of_tenant IS NULL OR r.tenant = of_tenant) LIMIT 1
$$;

CREATE FUNCTION fluxai.read_reservations(of_state text, of_tenant text, most integer) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
BEGIN
    IF of_state IN ('pending', 'reserved') THEN
        RETURN (SELECT coalesce(jsonb_agg(fluxai.reservation_json(f) ORDER BY f.id DESC), '[]')
            FROM (
                SELECT * FROM fluxai.reservations AS r
                WHERE r.state IN ('pending', 'reserved') AND r.state = of_state
                    AND (of_tenant IS NULL OR r.tenant = of_tenant)
                ORDER BY r.id DESC LIMIT most) AS f);
    END IF;
    RETURN (SELECT coalesce(jsonb_agg(fluxai.reservation_json(f) ORDER BY f.id DESC), '[]') FROM (
        SELECT * FROM fluxai.reservations AS r
        WHERE (of_state IS NULL OR r.state = of_state)
            AND (of_tenant IS NULL OR r.tenant = of_tenant)
        ORDER BY r.id DESC LIMIT most) AS f);
END
$$;

-- Events of an id, of any tenant if none is given: two at most, which tells that it is not enough.
CREATE FUNCTION fluxai.read_event(of_tenant text, of_id text) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(to_jsonb(f)), '[]') FROM (
        SELECT * FROM fluxai.events AS e
        WHERE e.id = of_id AND (of_tenant IS NULL OR e.tenant = of_tenant) ORDER BY e.seq LIMIT 2
    ) AS f
$$;

CREATE FUNCTION fluxai.read_events(after_seq bigint, of_tenant text, most integer) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
    last bigint := fluxai.readable_seq();
BEGIN
    IF of_tenant IS NULL THEN
        RETURN (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.seq), '[]') FROM (
            SELECT * FROM fluxai.events AS e WHERE e.seq > after_seq AND e.seq <= last
            ORDER BY e.seq LIMIT most) AS f);
    END IF;
    -- A tenant's events are numbered under its lock, so they come in order.
    RETURN (SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.seq), '[]') FROM (
        SELECT * FROM fluxai.events AS e WHERE e.tenant = of_tenant AND e.seq > after_seq
        ORDER BY e.seq LIMIT most) AS f);
END
$$;

-- The latest events counted in a stretch of time, those that were settled last first.
CREATE FUNCTION fluxai.read_recent_events(
    of_tenant text, from_us bigint, to_us bigint, of_user text, most integer
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.seq DESC), '[]') FROM (
        SELECT * FROM fluxai.events AS e
        WHERE e.tenant = of_tenant AND e.counted_us >= from_us AND e.counted_us < to_us
            AND (of_user IS NULL OR e."user" = of_user)
        ORDER BY e.seq DESC LIMIT most
    ) AS f
$$;

-- Approvals, newest first, each as the reservation that it belongs to.
CREATE FUNCTION fluxai.read_approvals(of_tenant text, of_state text, most integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(fluxai.reservation_json(r) ORDER BY f.id DESC), '[]') FROM (
        SELECT a.tenant, a.id FROM fluxai.approvals AS a
        WHERE (of_tenant IS NULL OR a.tenant = of_tenant)
            AND (of_state IS NULL OR a.state = of_state)
        ORDER BY a.id DESC LIMIT most
    ) AS f, LATERAL fluxai.find(f.tenant, f.id) AS r
$$;

-- A counter as it stands at an instant, what has left a rolling window taken off; one that does not
-- exist is what it would open with. A key: tenant, scope, value, measure, kind, start, end.
CREATE FUNCTION fluxai.read_balance(k jsonb, now_us bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    c fluxai.counters;
    width bigint := fluxai.bucket_us(k->>4);
    from_us bigint := k->5;
    to_us bigint := k->6;
    settled bigint;
BEGIN
    SELECT * INTO c FROM fluxai.counters AS f
    WHERE f.tenant = k->>0 AND f.scope = k->>1 AND f.value = k->>2 AND f.measure = k->>3
        AND f.kind = k->>4 AND f.start_us = from_us;
    IF FOUND THEN
        RETURN jsonb_build_array(
            c.settled - fluxai.gone_by(c, now_us), c.reserved, c.carried);
    END IF;
    IF width IS NOT NULL THEN
        settled := (SELECT coalesce(sum(s.amount), 0) FROM fluxai.sums(
            k->>0, k->>1, k->>2, k->>3, (fluxai.floor_div(now_us, width) - 60) * width, to_us,
            width) AS s);
    ELSIF k->>4 = 'concurrent' THEN
        settled := 0;
    ELSE
        settled := fluxai.sum_of_window(k->>0, k->>1, k->>2, k->>3, from_us, to_us);
    END IF;
    RETURN jsonb_build_array(settled, (
        SELECT coalesce(sum(h.amount), 0) FROM fluxai.holds(
            k->>0, k->>1, k->>2, k->>3, k->>4, from_us, to_us) AS h), 0);
END
$$;

-- What of a rolling counter has left its window at an instant.
CREATE FUNCTION fluxai.gone_by(c fluxai.counters, now_us bigint) RETURNS bigint
LANGUAGE sql STABLE SET search_path = ''
RETURN CASE WHEN c.head IS NULL THEN 0 ELSE (
    SELECT coalesce(sum(b.amount), 0) FROM fluxai.buckets AS b
    WHERE b.counter = c.id AND b.bucket < greatest(
        c.head, fluxai.floor_div(now_us, fluxai.bucket_us(c.kind))) - 60) END;

CREATE FUNCTION fluxai.read_balances(keys jsonb, now_us bigint) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(fluxai.read_balance(e.k, now_us) ORDER BY e.n), '[]')
    FROM jsonb_array_elements(keys) WITH ORDINALITY AS e (k, n)
$$;

-- The existing counters of one scope, measure and kind whose window holds an instant.
CREATE FUNCTION fluxai.read_accounts(
    of_tenant text, of_scope text, of_measure text, of_kind text, now_us bigint, most integer
) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_array(
        f.tenant, f.scope, f.value, f.measure, f.kind, f.start_us,
        f.settled - fluxai.gone_by(f, now_us), f.reserved, f.carried) ORDER BY f.id), '[]')
    FROM (
        SELECT * FROM fluxai.counters AS c
        WHERE c.tenant = of_tenant AND c.scope = of_scope AND c.measure = of_measure
            AND c.kind = of_kind AND c.start_us <= now_us AND now_us < c.end_us
        ORDER BY c.id LIMIT most
    ) AS f
$$;

-- Sums of events by user, tool and model: whole UTC days from the daily sums, the edges event by
-- event. Of what was pruned only whole days are left: they count where they begin.
CREATE FUNCTION fluxai.read_usage(of_tenant text, from_us bigint, to_us bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    first_day bigint := -fluxai.floor_div(-from_us, 86400000000);
    end_day bigint := fluxai.end_day(to_us);
    first_us bigint := to_us;
    last_us bigint := to_us;
BEGIN
    IF first_day < end_day THEN
        first_us := first_day * 86400000000;
        last_us := least(end_day * 86400000000, to_us);
    END IF;
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_array(
            g."user", g.tool, g.model, g.cost, g.tokens, g.requests, g.events)), '[]')
        FROM (
            SELECT f."user", f.tool, f.model, sum(f.cost) AS cost, sum(f.tokens) AS tokens,
                sum(f.requests) AS requests, sum(f.events) AS events
            FROM (
                SELECT d."user", d.tool, d.model, d.cost, d.tokens, d.requests, d.events
                FROM fluxai.days AS d
                WHERE d.tenant = of_tenant AND d.day >= first_day AND d.day < end_day
                UNION ALL
                SELECT e."user", e.tool, e.model, e.cost, e.tokens, e.requests, 1
                FROM fluxai.events AS e
                WHERE e.tenant = of_tenant AND e.counted_us >= from_us AND e.counted_us < first_us
                UNION ALL
                SELECT e."user", e.tool, e.model, e.cost, e.tokens, e.requests, 1
                FROM fluxai.events AS e
                WHERE e.tenant = of_tenant AND e.counted_us >= last_us AND e.counted_us < to_us
            ) AS f
            GROUP BY 1, 2, 3
        ) AS g);
END
$$;

CREATE FUNCTION fluxai.read_outbox(after_seq bigint, most integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY f.seq), '[]') FROM (
        SELECT * FROM fluxai.alerts AS a WHERE a.seq > after_seq ORDER BY a.seq LIMIT most
    ) AS f
$$;

CREATE FUNCTION fluxai.read_clock() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = ''
RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- Prove the ledger on one snapshot: every kept sum against the events and open reservations that it
-- stands for. Returns how many counters, events and open reservations were compared, and where they
-- differ.
CREATE FUNCTION fluxai.verify(most integer) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = '' AS $$
    WITH spent AS MATERIALIZED (
        SELECT e.tenant, 'tenant' AS scope, e.tenant AS value, e.counted_us, e.cost, e.tokens,
            e.requests FROM fluxai.events AS e
        UNION ALL
        SELECT e.tenant, 'tool', e.tool, e.counted_us, e.cost, e.tokens, e.requests
        FROM fluxai.events AS e
        UNION ALL
        SELECT e.tenant, 'user', e."user", e.counted_us, e.cost, e.tokens, e.requests
        FROM fluxai.events AS e WHERE e."user" IS NOT NULL
        UNION ALL
        SELECT e.tenant, 'label', l.key || '=' || l.value, e.counted_us, e.cost, e.tokens,
            e.requests
        FROM fluxai.events AS e, LATERAL jsonb_each_text(e.labels) AS l
        WHERE e.labels <> '{}'
    ),
    settled AS (
        SELECT c.id, sum(CASE c.measure WHEN 'cost' THEN s.cost WHEN 'tokens' THEN s.tokens
            ELSE s.requests END) AS amount
        FROM fluxai.counters AS c
        JOIN spent AS s ON s.tenant = c.tenant AND s.scope = c.scope AND s.value = c.value
            AND s.counted_us < c.end_us
            AND s.counted_us >= coalesce((c.head - 60) * fluxai.bucket_us(c.kind), c.start_us)
        WHERE c.kind <> 'concurrent'
        GROUP BY 1
    ),
    open AS MATERIALIZED (
        SELECT r.* FROM fluxai.reservations AS r WHERE r.state IN ('pending', 'reserved')
    ),
    held AS (
        SELECT o.tenant, 'tenant' AS scope, o.tenant AS value, o.counted_us, o.cost, o.tokens,
            o.requests, o.concurrent FROM open AS o
        UNION ALL
        SELECT o.tenant, 'tool', o.tool, o.counted_us, o.cost, o.tokens, o.requests, o.concurrent
        FROM open AS o
        UNION ALL
        SELECT o.tenant, 'user', o."user", o.counted_us, o.cost, o.tokens, o.requests, o.concurrent
        FROM open AS o WHERE o."user" IS NOT NULL
        UNION ALL
        SELECT o.tenant, 'label', l.key || '=' || l.value, o.counted_us, o.cost, o.tokens,
            o.requests, o.concurrent
        FROM open AS o, LATERAL jsonb_each_text(o.labels) AS l
    ),
    reserved AS (
        SELECT c.id, sum((ARRAY[h.cost, h.tokens, h.requests, h.concurrent])[
            fluxai.measure_of(c.measure, c.kind)]) AS amount
        FROM fluxai.counters AS c
        JOIN held AS h ON h.tenant = c.tenant AND h.scope = c.scope AND h.value = c.value
            AND (c.head IS NOT NULL OR h.counted_us >= c.start_us AND h.counted_us < c.end_us)
        GROUP BY 1
    ),
    told AS (
        SELECT e.tenant, fluxai.floor_div(e.counted_us, 86400000000) AS day, e."user", e.tool,
            e.model, sum(e.cost) AS cost, sum(e.tokens) AS tokens, sum(e.requests) AS requests,
            count(*) AS events
        FROM fluxai.events AS e GROUP BY 1, 2, 3, 4, 5
    ),
    days AS (
        SELECT w.tenant, w.day, w."user", w.tool, w.model, w.cost, w.tokens, w.requests, w.events,
            0 AS kept_cost, 0 AS kept_tokens, 0 AS kept_requests, 0 AS kept_events FROM told AS w
        UNION ALL
        SELECT d.tenant, d.day, d."user", d.tool, d.model, 0, 0, 0, 0, d.cost, d.tokens, d.requests,
            d.events
        FROM fluxai.days AS d, fluxai.horizon AS h
        WHERE d.day >= fluxai.floor_div(h.counted_us + 1, 86400000000)
    ),
    labelled AS (
        SELECT count(*) AS found, coalesce(sum(l.cost), 0) AS cost FROM fluxai.labels AS l
    ),
    differences AS (
        SELECT 'settled of ' || concat_ws(
                '/', c.tenant, c.scope, c.value, c.measure, c.kind, c.start_us) AS what,
            c.carried + coalesce(s.amount, 0) AS expected, c.settled AS found
        FROM fluxai.counters AS c LEFT JOIN settled AS s ON s.id = c.id
        WHERE c.settled <> c.carried + coalesce(s.amount, 0)
        UNION ALL
        SELECT 'reserved of ' || concat_ws(
                '/', c.tenant, c.scope, c.value, c.measure, c.kind, c.start_us),
            coalesce(r.amount, 0), c.reserved
        FROM fluxai.counters AS c LEFT JOIN reserved AS r ON r.id = c.id
        WHERE c.reserved <> coalesce(r.amount, 0)
        UNION ALL
        SELECT v.what || ' of day ' || concat_ws('/', x.tenant, x.day, x."user", x.tool, x.model),
            v.expected, v.found
        FROM (
            SELECT d.tenant, d.day, d."user", d.tool, d.model, sum(d.cost) AS cost,
                sum(d.kept_cost) AS kept_cost, sum(d.tokens) AS tokens,
                sum(d.kept_tokens) AS kept_tokens, sum(d.requests) AS requests,
                sum(d.kept_requests) AS kept_requests, sum(d.events) AS events,
                sum(d.kept_events) AS kept_events
            FROM days AS d GROUP BY 1, 2, 3, 4, 5
        ) AS x, LATERAL (VALUES
            ('cost', x.cost, x.kept_cost), ('tokens', x.tokens, x.kept_tokens),
            ('requests', x.requests, x.kept_requests), ('events', x.events, x.kept_events)
        ) AS v (what, expected, found)
        WHERE v.expected <> v.found
        UNION ALL
        SELECT 'cost of labelled events', s.cost, l.cost FROM labelled AS l, (
            SELECT coalesce(sum(f.cost), 0) AS cost FROM spent AS f WHERE f.scope = 'label') AS s
        WHERE s.cost <> l.cost
        UNION ALL
        SELECT 'buckets of ' || concat_ws('/', c.tenant, c.scope, c.value, c.measure, c.kind),
            c.settled, coalesce(b.amount, 0)
        FROM fluxai.counters AS c LEFT JOIN (
            SELECT f.counter, sum(f.amount) AS amount FROM fluxai.buckets AS f GROUP BY 1
        ) AS b ON b.counter = c.id
        WHERE c.head IS NOT NULL AND c.settled <> coalesce(b.amount, 0)
    )
    SELECT jsonb_build_object(
        'counters', (SELECT count(*) FROM fluxai.counters),
        'events', (SELECT count(*) FROM fluxai.events),
        'reservations', (SELECT count(*) FROM open),
        'differences', (SELECT coalesce(jsonb_agg(jsonb_build_array(
            d.what, d.expected, d.found)), '[]') FROM (SELECT * FROM differences LIMIT most) AS d))
$$;

INSERT INTO fluxai.migrations (version) VALUES (4);

-- =================================================================================================
-- Version 5
-- =================================================================================================

-- Months: partitions are made ahead, and old ones pruned whole. Each call does one step in a
-- transaction of its own, and gives way where it would have to wait for long.
--
-- They take the owner's rights (see 0006). What runs with these names `pg_temp` last: where a path does
-- not name it, it comes first, and a caller's temporary type called `timestamptz` would be taken for the
-- real one, together with whatever code its check runs.

CREATE FUNCTION fluxai.micros(instant timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT
RETURN (extract(epoch FROM instant) * 1000000)::bigint;

-- The first UUIDv7 of an instant.
CREATE FUNCTION fluxai.first_id(instant timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT
RETURN (lpad(to_hex((extract(epoch FROM instant) * 1000)::bigint), 12, '0')
    || '00000000000000000000')::uuid;

-- When the UTC month began that is so many months after that of an instant.
CREATE FUNCTION fluxai.month_of(instant_us bigint, months integer) RETURNS timestamptz
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp
RETURN (date_trunc('month', to_timestamp(fluxai.floor_div(instant_us, 1000000)) AT TIME ZONE 'UTC')
    + make_interval(months => months)) AT TIME ZONE 'UTC';

-- The partitions of one month: parent, partition, what goes by default, field, bounds.
CREATE FUNCTION fluxai.parts_of(month timestamptz)
RETURNS TABLE (parent text, part text, other text, field text, low text, high text)
LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.parent, p.parent || to_char(month AT TIME ZONE 'UTC', '_YYYY_MM'), p.parent || '_other',
        p.field,
        CASE p.field WHEN 'id' THEN quote_literal(fluxai.first_id(month))
            ELSE fluxai.micros(month)::text END,
        CASE p.field WHEN 'id' THEN quote_literal(fluxai.first_id(n.next))
            ELSE fluxai.micros(n.next)::text END
    FROM (VALUES ('reservations', 'id'), ('labels', 'counted_us'), ('events', 'counted_us'))
            AS p (parent, field),
        (SELECT fluxai.month_of(fluxai.micros(month), 1) AS next) AS n
$$;

-- Make one partition; what is in the default partition already moves there. Attaching locks the
-- default partition against everybody. That is the only such lock of the transaction, so none can
-- wait for it in a circle; and it is short, since the check says that there is nothing to look for.
-- The tenants whose rows move are locked before, as they are by the verbs: a verb that waited in the
-- middle would look for its row where it was.
CREATE FUNCTION fluxai.make_part(p record) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moving text := format('FROM fluxai.%I WHERE %I >= %s AND %2$I < %4$s',
        p.other, p.field, p.low, p.high);
    before text[];
    now text[];
BEGIN
    EXECUTE 'SELECT array_agg(DISTINCT tenant ORDER BY tenant) ' || moving INTO before;
    IF before IS NOT NULL THEN
        PERFORM fluxai.lock_tenants(before);
    END IF;
    EXECUTE format('LOCK TABLE ONLY fluxai.%I IN SHARE UPDATE EXCLUSIVE MODE', p.parent);
    EXECUTE format('LOCK TABLE fluxai.%I IN ACCESS EXCLUSIVE MODE', p.other);
    EXECUTE 'SELECT array_agg(DISTINCT tenant) ' || moving INTO now;
    IF NOT coalesce(now, '{}') <@ coalesce(before, '{}') THEN
        RAISE lock_not_available USING MESSAGE = 'another tenant came in between';
    END IF;
    EXECUTE format(
        'CREATE TABLE fluxai.%1$I (LIKE fluxai.%2$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS, '
        'CONSTRAINT in_month CHECK (%3$I IS NOT NULL AND %3$I >= %4$s AND %3$I < %5$s))',
        p.part, p.parent, p.field, p.low, p.high);
    EXECUTE format('ALTER TABLE fluxai.%I ENABLE ROW LEVEL SECURITY', p.part);
    IF now IS NOT NULL THEN
        EXECUTE format('WITH moved AS (DELETE %s RETURNING *) INSERT INTO fluxai.%I SELECT * FROM moved',
            moving, p.part);
    END IF;
    EXECUTE format('ALTER TABLE fluxai.%I ATTACH PARTITION fluxai.%I FOR VALUES FROM (%s) TO (%s)',
        p.parent, p.part, p.low, p.high);
    EXECUTE format('ALTER TABLE fluxai.%I DROP CONSTRAINT in_month', p.part);
END
$$;

-- Make the next missing partition: of the month of an instant (of now, where none is given), of the
-- two that follow, or of a past one of which a little was entered. Returns 1 when it was made and
-- there may be more, 0 when none is missing, -1 when somebody was in the way, to be tried later:
-- until then rows go to the default partition.
CREATE FUNCTION fluxai.make_months(now_us bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '250ms' AS $$
DECLARE
    p record;
    this_us bigint := coalesce(now_us, fluxai.read_clock());
    past_us bigint;
BEGIN
    FOR p IN
        SELECT f.* FROM generate_series(0, 2) AS ahead,
            fluxai.parts_of(fluxai.month_of(this_us, ahead)) AS f
        WHERE to_regclass('fluxai.' || f.part) IS NULL
    LOOP
        -- One at a time; the others need not wait.
        IF NOT pg_try_advisory_xact_lock(1089478144::bigint << 32) THEN
            RETURN -1;
        ELSIF to_regclass('fluxai.' || p.part) IS NULL THEN
            PERFORM fluxai.make_part(p);
        END IF;
        RETURN 1;
    END LOOP;
    SELECT e.counted_us INTO past_us FROM fluxai.events_other AS e
    WHERE e.counted_us >= fluxai.micros(fluxai.month_of(this_us, -36))
        AND e.counted_us < fluxai.micros(fluxai.month_of(this_us, 0)) LIMIT 1;
    IF FOUND AND (
        SELECT count(*) FROM (
            SELECT FROM fluxai.events_other AS e
            WHERE e.counted_us >= fluxai.micros(fluxai.month_of(past_us, 0))
                AND e.counted_us < fluxai.micros(fluxai.month_of(past_us, 1)) LIMIT 20001) AS f
        ) <= 20000 AND pg_try_advisory_xact_lock(1089478144::bigint << 32)
    THEN
        FOR p IN
            SELECT f.* FROM fluxai.parts_of(fluxai.month_of(past_us, 0)) AS f
            WHERE to_regclass('fluxai.' || f.part) IS NULL AND f.parent <> 'reservations'
        LOOP
            PERFORM fluxai.make_part(p);
            RETURN 1;
        END LOOP;
    END IF;
    RETURN 0;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN -1;
END
$$;

-- Drop the oldest month if it ended before an instant, which must not be in the future. What its
-- events add up to is carried on in the counters that count them, and stays in the daily sums; ids
-- and times up to its end are refused from now on. Returns {"pruned": month}; {"stays": month,
-- "because": reason} where it is still needed; {"busy": true} when somebody was in the way; and {}
-- where no month is that old.
CREATE FUNCTION fluxai.prune(before_us bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    oldest_us bigint;
    next timestamptz;
    next_us bigint;
    first_us bigint;
    month text;
    p record;
    c record;
    turned record;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1089478144::bigint << 32) THEN
        RETURN '{"busy": true}';
    END IF;
    SELECT h.counted_us + 1 INTO first_us FROM fluxai.horizon AS h;
    SELECT least(
        (SELECT min(fluxai.micros(
            make_timestamptz(left(f.name, 4)::integer, right(f.name, 2)::integer, 1, 0, 0, 0, 'UTC')))
        FROM (
            SELECT right(t.relname, 7) AS name FROM pg_catalog.pg_inherits AS i
            JOIN pg_catalog.pg_class AS t ON t.oid = i.inhrelid
            WHERE t.relname ~ '^(events|labels|reservations)_\d{4}_\d\d$' AND i.inhparent IN (
                'fluxai.events'::regclass, 'fluxai.labels'::regclass,
                'fluxai.reservations'::regclass)
        ) AS f),
        (SELECT min(e.counted_us) FROM fluxai.events_other AS e)
    ) INTO oldest_us;
    next := fluxai.month_of(oldest_us, 1);
    next_us := fluxai.micros(next);
    IF oldest_us IS NULL OR next_us > before_us THEN
        RETURN '{}';
    END IF;
    month := to_char(fluxai.month_of(oldest_us, 0) AT TIME ZONE 'UTC', 'YYYY-MM');

    IF EXISTS (
        SELECT FROM fluxai.reservations AS r WHERE r.state IN ('pending', 'reserved')
            AND (r.id < fluxai.first_id(next) OR r.counted_us < next_us))
    THEN
        RETURN jsonb_build_object('stays', month, 'because', 'a reservation of it is open');
        -- Windows that roll are still to count what is younger than they are long.
    ELSIF EXISTS (
        SELECT FROM fluxai.counters AS k WHERE k.head IS NOT NULL AND next_us > fluxai.bucket_us(k.kind)
            * (greatest(k.head, fluxai.floor_div(before_us, fluxai.bucket_us(k.kind))) - 60))
    THEN
        RETURN jsonb_build_object('stays', month, 'because', 'a rolling window counts it');
    ELSIF EXISTS (
        SELECT FROM (
            SELECT e.tenant, fluxai.floor_div(e.counted_us, 86400000000) AS day, e."user", e.tool,
                e.model, e.cost, e.tokens, e.requests, 1 AS events
            FROM fluxai.events AS e WHERE e.counted_us < next_us
            UNION ALL
            SELECT d.tenant, d.day, d."user", d.tool, d.model, -d.cost, -d.tokens, -d.requests,
                -d.events
            FROM fluxai.days AS d WHERE d.day >= fluxai.floor_div(first_us, 86400000000)
                AND d.day < next_us / 86400000000
        ) AS f
        GROUP BY f.tenant, f.day, f."user", f.tool, f.model
        HAVING sum(f.cost) <> 0 OR sum(f.tokens) <> 0 OR sum(f.requests) <> 0 OR sum(f.events) <> 0)
    THEN
        RETURN jsonb_build_object('stays', month, 'because',
            'its daily sums differ from its events, which would be lost: rebuild them first');
    END IF;

    -- From here nothing else moves: no verb of a tenant, and nobody who looks.
    PERFORM fluxai.lock_tenants(ARRAY(SELECT v.tenant FROM fluxai.versions AS v));
    LOCK TABLE fluxai.reservations, fluxai.events, fluxai.labels IN ACCESS EXCLUSIVE MODE;
    IF EXISTS (
        SELECT FROM fluxai.reservations AS r WHERE r.state IN ('pending', 'reserved')
            AND (r.id < fluxai.first_id(next) OR r.counted_us < next_us))
    THEN
        RETURN '{"busy": true}';
    END IF;
    DELETE FROM fluxai.counters AS k
    WHERE k.head IS NULL AND k.end_us <= next_us AND k.reserved = 0;
    FOR c IN
        SELECT k.* FROM fluxai.counters AS k WHERE k.head IS NOT NULL
            AND k.head < fluxai.floor_div(before_us, fluxai.bucket_us(k.kind))
    LOOP
        turned := fluxai.turn(c.id, c.head, fluxai.bucket_us(c.kind), before_us);
        UPDATE fluxai.counters AS k SET settled = k.settled - turned.gone, head = turned.head
        WHERE k.id = c.id;
    END LOOP;
    WITH days AS MATERIALIZED (
        SELECT d.tenant, d."user", d.tool, sum(d.cost) AS cost, sum(d.tokens) AS tokens,
            sum(d.requests) AS requests
        FROM fluxai.days AS d WHERE d.day >= fluxai.floor_div(first_us, 86400000000)
            AND d.day < next_us / 86400000000
        GROUP BY 1, 2, 3
    ),
    spent AS (
        SELECT d.tenant, 'tenant' AS scope, d.tenant AS value, sum(d.cost) AS cost,
            sum(d.tokens) AS tokens, sum(d.requests) AS requests FROM days AS d GROUP BY 1
        UNION ALL
        SELECT d.tenant, 'tool', d.tool, sum(d.cost), sum(d.tokens), sum(d.requests)
        FROM days AS d GROUP BY 1, 3
        UNION ALL
        SELECT d.tenant, 'user', d."user", sum(d.cost), sum(d.tokens), sum(d.requests)
        FROM days AS d WHERE d."user" IS NOT NULL GROUP BY 1, 3
        UNION ALL
        SELECT l.tenant, 'label', l.label, sum(l.cost), sum(l.tokens), sum(l.requests)
        FROM fluxai.labels AS l WHERE l.counted_us < next_us GROUP BY 1, 3
    )
    UPDATE fluxai.counters AS k SET carried = k.carried + CASE k.measure
        WHEN 'cost' THEN s.cost WHEN 'tokens' THEN s.tokens ELSE s.requests END
    FROM spent AS s
    WHERE k.tenant = s.tenant AND k.scope = s.scope AND k.value = s.value AND k.head IS NULL
        AND k.kind <> 'concurrent' AND k.start_us < first_us AND k.end_us >= next_us;
    UPDATE fluxai.counters AS k SET carried = k.carried + fluxai.sum_of_window(
        k.tenant, k.scope, k.value, k.measure, greatest(k.start_us, first_us),
        least(k.end_us, next_us))
    WHERE k.head IS NULL AND k.kind <> 'concurrent' AND k.start_us < next_us
        AND (k.start_us >= first_us OR k.end_us < next_us);

    UPDATE fluxai.horizon SET counted_us = next_us - 1;
    FOR p IN SELECT f.* FROM fluxai.parts_of(fluxai.month_of(oldest_us, 0)) AS f LOOP
        EXECUTE format('DROP TABLE IF EXISTS fluxai.%I', p.part);
        EXECUTE format('DELETE FROM fluxai.%I WHERE %I < %s', p.other, p.field, p.high);
    END LOOP;
    DELETE FROM fluxai.approvals AS a WHERE a.requested_us < next_us
        AND NOT EXISTS (SELECT FROM fluxai.reservations AS r
            WHERE r.id = a.id AND r.tenant = a.tenant);
    RETURN jsonb_build_object('pruned', month);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN '{"busy": true}';
END
$$;

-- Make every sum again from the events and open reservations that are there: daily sums, labels and
-- counters, with what is carried in them.
CREATE FUNCTION fluxai.rebuild() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first_day bigint;
    c fluxai.counters;
    width bigint;
    held bigint;
    spent bigint;
BEGIN
    PERFORM fluxai.lock_tenants(ARRAY(SELECT v.tenant FROM fluxai.versions AS v));
    SELECT fluxai.floor_div(h.counted_us + 1, 86400000000) INTO first_day FROM fluxai.horizon AS h;
    DELETE FROM fluxai.days AS d WHERE d.day >= first_day;
    INSERT INTO fluxai.days
        SELECT e.tenant, fluxai.floor_div(e.counted_us, 86400000000), e."user", e.tool, e.model,
            sum(e.cost), sum(e.tokens), sum(e.requests), count(*)
        FROM fluxai.events AS e GROUP BY 1, 2, 3, 4, 5;
    DELETE FROM fluxai.labels;
    INSERT INTO fluxai.labels
        SELECT e.tenant, l.key || '=' || l.value, e.counted_us, e.seq, e.cost, e.tokens, e.requests
        FROM fluxai.events AS e, LATERAL jsonb_each_text(e.labels) AS l;
    DELETE FROM fluxai.buckets;
    FOR c IN SELECT * FROM fluxai.counters LOOP
        WITH open AS (
            SELECT * FROM fluxai.holds(
                c.tenant, c.scope, c.value, c.measure, c.kind, c.start_us, c.end_us)
        ), joined AS (
            UPDATE fluxai.reservations AS r SET counters = r.counters || c.id FROM open AS o
            WHERE r.id = o.id AND r.tenant = c.tenant AND NOT c.id = ANY (r.counters)
        )
        SELECT coalesce(sum(o.amount), 0) INTO held FROM open AS o;
        spent := 0;
        width := fluxai.bucket_us(c.kind);
        IF width IS NOT NULL THEN
            INSERT INTO fluxai.buckets
                SELECT c.id, f.bucket, f.amount FROM fluxai.sums(
                    c.tenant, c.scope, c.value, c.measure, (c.head - 60) * width, c.end_us, width
                ) AS f;
            SELECT coalesce(sum(b.amount), 0) INTO spent FROM fluxai.buckets AS b
            WHERE b.counter = c.id;
        ELSIF c.kind <> 'concurrent' THEN
            SELECT coalesce(sum(f.amount), 0) INTO spent FROM fluxai.sums(
                c.tenant, c.scope, c.value, c.measure, c.start_us, c.end_us, 1000000000000000000
            ) AS f;
        END IF;
        UPDATE fluxai.counters AS k SET reserved = held, settled = k.carried + spent
        WHERE k.id = c.id;
    END LOOP;
END
$$;

INSERT INTO fluxai.migrations (version) VALUES (5);

-- =================================================================================================
-- Version 6
-- =================================================================================================

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

INSERT INTO fluxai.migrations (version) VALUES (6);

-- A REST server that runs already reads the schema anew.
NOTIFY pgrst, 'reload schema';

COMMIT;
