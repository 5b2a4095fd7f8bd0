-- Months: partitions are made ahead, and old ones pruned whole.
--
-- Both take the owner's rights (see 0006). What runs with these names `pg_temp` last: where a path does
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

-- Make one month's partitions; what is in the default partitions already moves there.
CREATE FUNCTION fluxai.make_month(month timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := to_char(month AT TIME ZONE 'UTC', 'YYYY_MM');
    next timestamptz := (month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
    part record;
BEGIN
    IF to_regclass('fluxai.events_' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Whoever is looking for what moves finds it where it was, or, afterwards, where it is.
    LOCK TABLE fluxai.events, fluxai.labels, fluxai.reservations IN ACCESS EXCLUSIVE MODE;
    FOR part IN SELECT * FROM (VALUES
        ('reservations', 'id', quote_literal(fluxai.first_id(month)),
            quote_literal(fluxai.first_id(next))),
        ('labels', 'counted_us', fluxai.micros(month)::text, fluxai.micros(next)::text),
        ('events', 'counted_us', fluxai.micros(month)::text, fluxai.micros(next)::text)
    ) AS p (parent, field, low, high) LOOP
        EXECUTE format('CREATE TABLE fluxai.%1$I (LIKE fluxai.%2$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
            part.parent || '_' || name, part.parent);
        EXECUTE format(
            'WITH moved AS (DELETE FROM fluxai.%2$I WHERE %3$I >= %4$s AND %3$I < %5$s RETURNING *) '
            'INSERT INTO fluxai.%1$I SELECT * FROM moved',
            part.parent || '_' || name, part.parent || '_other', part.field, part.low, part.high);
        EXECUTE format('ALTER TABLE fluxai.%2$I ATTACH PARTITION fluxai.%1$I FOR VALUES FROM (%3$s) TO (%4$s)',
            part.parent || '_' || name, part.parent, part.low, part.high);
        EXECUTE format('ALTER TABLE fluxai.%1$I ENABLE ROW LEVEL SECURITY', part.parent || '_' || name);
    END LOOP;
    RETURN true;
END
$$;

-- Make the partitions of a month and the two that follow, of this month where no instant is given;
-- say how many months are new.
CREATE FUNCTION fluxai.make_months(now_us bigint) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
-- Whoever comes behind this waits as well, and the default partitions will do for a while.
SET lock_timeout = '2s' AS $$
DECLARE
    month timestamptz;
    made integer := 0;
BEGIN
    FOR ahead IN 0 .. 2 LOOP
        month := (date_trunc('month', to_timestamp(
            coalesce(now_us, fluxai.read_clock()) / 1000000) AT TIME ZONE 'UTC')
            + make_interval(months => ahead)) AT TIME ZONE 'UTC';
        IF to_regclass('fluxai.events_' || to_char(month AT TIME ZONE 'UTC', 'YYYY_MM')) IS NULL THEN
            -- One at a time; whoever comes second finds it made.
            PERFORM pg_advisory_xact_lock(1089478144::bigint << 32);
            made := made + fluxai.make_month(month)::integer;
        END IF;
    END LOOP;
    RETURN made;
END
$$;

-- Drop the months that ended before an instant and in which nothing is open. What their events add
-- up to is carried on in the counters that count them, and stays in the daily sums; ids and times up
-- to there are refused from now on. Returns the names of the months.
CREATE FUNCTION fluxai.prune(before_us bigint) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pruned jsonb := '[]';
    name text;
    month timestamptz;
    first_us bigint;
    next_us bigint;
    open boolean;
BEGIN
    -- Nothing else moves meanwhile.
    PERFORM fluxai.lock_tenants(ARRAY(SELECT v.tenant FROM fluxai.versions AS v ORDER BY 1));
    PERFORM pg_advisory_xact_lock(1089478144::bigint << 32);
    FOR name IN
        SELECT right(c.relname, 7) FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'fluxai.events'::regclass AND c.relname ~ '^events_\d{4}_\d\d$' ORDER BY 1
    LOOP
        month := to_timestamp(name || ' 00', 'YYYY_MM HH24')::timestamp AT TIME ZONE 'UTC';
        first_us := fluxai.micros(month);
        next_us := fluxai.micros((month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC');
        EXIT WHEN next_us > before_us;
        -- Windows that roll or last are still to count what is younger than they are long.
        EXIT WHEN EXISTS (
            SELECT FROM fluxai.counters AS c
            WHERE c.head IS NOT NULL AND (c.head - 60) * fluxai.bucket_us(c.kind) < next_us);
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM fluxai.%I WHERE state IN (''pending'', ''reserved''))',
            'reservations_' || name) INTO open;
        EXIT WHEN open;
        UPDATE fluxai.counters AS c SET carried = c.carried + s.amount FROM (
            SELECT k.id, (SELECT coalesce(sum(f.amount), 0) FROM fluxai.sums(
                k.tenant, k.scope, k.value, k.measure, greatest(k.start_us, first_us),
                least(k.end_us, next_us), 1000000000000000000) AS f) AS amount
            FROM fluxai.counters AS k
            WHERE k.head IS NULL AND k.kind <> 'concurrent' AND k.start_us < next_us
                AND k.end_us > first_us
        ) AS s
        WHERE s.id = c.id AND s.amount <> 0;
        UPDATE fluxai.horizon SET counted_us = next_us - 1;
        EXECUTE format('DROP TABLE fluxai.%I', 'events_' || name);
        EXECUTE format('DROP TABLE fluxai.%I', 'labels_' || name);
        EXECUTE format('DROP TABLE fluxai.%I', 'reservations_' || name);
        DELETE FROM fluxai.approvals AS a WHERE a.requested_us < next_us
            AND NOT EXISTS (SELECT FROM fluxai.reservations AS r
                WHERE r.id = a.id AND r.tenant = a.tenant);
        pruned := pruned || to_jsonb(name);
    END LOOP;
    RETURN pruned;
END
$$;

-- Make the daily sums again from the events that are there.
CREATE FUNCTION fluxai.rebuild_days() RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    first_day bigint;
BEGIN
    PERFORM fluxai.lock_tenants(ARRAY(SELECT v.tenant FROM fluxai.versions AS v ORDER BY 1));
    SELECT fluxai.floor_div(h.counted_us + 1, 86400000000) INTO first_day FROM fluxai.horizon AS h;
    DELETE FROM fluxai.days AS d WHERE d.day >= first_day;
    INSERT INTO fluxai.days
        SELECT e.tenant, fluxai.floor_div(e.counted_us, 86400000000), e."user", e.tool, e.model,
            sum(e.cost), sum(e.tokens), sum(e.requests), count(*)
        FROM fluxai.events AS e GROUP BY 1, 2, 3, 4, 5;
END
$$;
