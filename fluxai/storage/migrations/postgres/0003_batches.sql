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
