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
