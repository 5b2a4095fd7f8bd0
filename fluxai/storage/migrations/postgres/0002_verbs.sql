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
