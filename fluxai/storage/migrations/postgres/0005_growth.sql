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
