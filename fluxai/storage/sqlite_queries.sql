-- The statements of the SQLite store. Each has a name, by which the code asks for it.


-- name: version
-- How often the rules for every tenant, and those of one, changed.
SELECT
    coalesce((SELECT version FROM versions WHERE tenant = '*'), 0),
    coalesce((SELECT version FROM versions WHERE tenant = ?1 AND tenant <> '*'), 0);

-- name: raise_version
INSERT INTO versions (tenant, version) VALUES (?, 1)
ON CONFLICT DO UPDATE SET version = version + 1;

-- name: put_record
-- A record that is replaced keeps its place in the order.
INSERT INTO records (kind, scope, id, body) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET body = excluded.body;

-- name: delete_record
DELETE FROM records WHERE kind = ? AND scope = ? AND id = ?;

-- name: elsewhere
-- Whether another scope has a record of that kind and id.
SELECT 1 FROM records WHERE kind = ? AND id = ? AND scope <> ? LIMIT 1;

-- name: records
SELECT body FROM records
WHERE kind = ?1 AND (?2 IS NULL OR scope = ?2) AND (?3 IS NULL OR id = ?3)
ORDER BY rowid LIMIT ?4;


-- name: counter
SELECT * FROM counters
WHERE tenant = ? AND scope = ? AND value = ? AND measure = ? AND kind = ? AND start_us = ?;

-- name: counters_by_id
SELECT * FROM counters WHERE id IN (SELECT value FROM json_each(?));

-- name: counters_of
-- Every counter of a tenant, or of all.
SELECT * FROM counters WHERE ?1 IS NULL OR tenant = ?1;

-- name: counters_at
-- The counters of one scope, measure and kind whose window holds an instant.
SELECT * FROM counters
WHERE tenant = ?1 AND scope = ?2 AND measure = ?3 AND kind = ?4
    AND start_us <= ?5 AND ?5 < end_us
ORDER BY id LIMIT ?6;

-- name: add_counter
INSERT INTO counters
    (tenant, scope, value, measure, kind, start_us, end_us, settled, reserved, carried, ring)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: change_counter
UPDATE counters SET settled = ?, reserved = ?, carried = ?, ring = ? WHERE id = ?;

-- name: delete_counter
DELETE FROM counters WHERE id = ?;

-- name: delete_ended_counters
-- Windows that ended and hold nothing; their events still tell what was spent in them.
DELETE FROM counters WHERE id IN (
    SELECT id FROM counters WHERE end_us <= ? AND reserved = 0 AND carried = 0 LIMIT ?
)
RETURNING id;


-- name: reservations_by_id
-- Ids are unique per tenant; so this may find one per tenant.
SELECT r.* FROM json_each(?) AS wanted JOIN reservations AS r ON r.id = wanted.value;

-- name: reservation_by_key
SELECT * FROM reservations WHERE tenant = ? AND key = ? ORDER BY seq DESC LIMIT 1;

-- name: open_tenant_reservations
-- The open reservations that count in one window of one scope.
SELECT * FROM reservations
WHERE state IN ('pending', 'reserved') AND tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3;

-- name: open_user_reservations
SELECT * FROM reservations
WHERE state IN ('pending', 'reserved') AND tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3
    AND user = ?4;

-- name: open_tool_reservations
SELECT * FROM reservations
WHERE state IN ('pending', 'reserved') AND tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3
    AND tool = ?4;

-- name: open_label_reservations
SELECT * FROM reservations
WHERE state IN ('pending', 'reserved') AND tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3
    AND EXISTS (SELECT 1 FROM json_each(labels) AS l WHERE l.key || '=' || l.value = ?4);

-- name: overdue_of_tenant
SELECT * FROM reservations INDEXED BY reservations_open
WHERE state IN ('pending', 'reserved') AND tenant = ? AND expires_us <= ?
ORDER BY expires_us LIMIT ?;

-- name: overdue
SELECT * FROM reservations INDEXED BY reservations_open
WHERE state IN ('pending', 'reserved') AND expires_us <= ?
ORDER BY expires_us LIMIT ?;

-- name: pending_count
SELECT count(*) FROM reservations INDEXED BY reservations_open
WHERE state IN ('pending', 'reserved') AND state = 'pending' AND tenant = ?;

-- name: list_open_reservations
SELECT * FROM reservations INDEXED BY reservations_open
WHERE state IN ('pending', 'reserved') AND (?1 IS NULL OR state = ?1)
    AND (?2 IS NULL OR tenant = ?2)
ORDER BY id DESC LIMIT ?3;

-- name: list_tenant_reservations
SELECT * FROM reservations WHERE (?1 IS NULL OR state = ?1) AND tenant = ?2
ORDER BY id DESC LIMIT ?3;

-- name: list_reservations
SELECT * FROM reservations WHERE (?1 IS NULL OR state = ?1) AND ?2 IS NULL
ORDER BY id DESC LIMIT ?3;

-- name: add_reservation
INSERT INTO reservations (
    tenant, id, user, labels, requested_tool, tool, model, decision, state, counted_us,
    expires_us, resolved_us, cost, tokens, requests, concurrent, output_tokens, need, method, key,
    digest, asked, exact, counters, plan, judged
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: change_reservation
UPDATE reservations SET
    decision = ?, state = ?, counted_us = ?, expires_us = ?, resolved_us = ?, cost = ?, tokens = ?,
    requests = ?, concurrent = ?, asked = ?, exact = ?, counters = ?
WHERE tenant = ? AND id = ?;

-- name: plan_id
SELECT id FROM plans WHERE digest = ?;

-- name: add_plan
INSERT INTO plans (digest, candidates) VALUES (?, ?);

-- name: plan
SELECT candidates FROM plans WHERE id = ?;


-- name: put_approval
INSERT INTO approvals (
    tenant, id, state, user, tool, cost, labels, message, requested_us, expires_us, decided_us,
    decided_by, reason, claim
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    state = excluded.state, expires_us = excluded.expires_us, decided_us = excluded.decided_us,
    decided_by = excluded.decided_by, reason = excluded.reason, claim = excluded.claim;

-- name: approvals_by_id
SELECT a.* FROM json_each(?) AS wanted
JOIN approvals AS a
    ON a.tenant = json_extract(wanted.value, '$[0]') AND a.id = json_extract(wanted.value, '$[1]');

-- name: list_approvals
SELECT * FROM approvals WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR state = ?2)
ORDER BY id DESC LIMIT ?3;


-- name: last_event
SELECT coalesce(max(seq), 0) FROM events;

-- name: add_event
INSERT INTO events (
    seq, tenant, id, reservation_id, at_us, counted_us, user, tool, model, cost, tokens, requests,
    usage, labels, decision, flags, price_version, outcome, corrects, note
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_label
INSERT INTO labels (tenant, label, counted_us, seq) VALUES (?, ?, ?, ?);

-- name: add_to_day
INSERT INTO days (tenant, day, user, tool, model, cost, tokens, requests, events)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    cost = cost + excluded.cost, tokens = tokens + excluded.tokens,
    requests = requests + excluded.requests, events = events + excluded.events;

-- name: events_by_id
SELECT e.* FROM json_each(?) AS wanted
JOIN events AS e
    ON e.tenant = json_extract(wanted.value, '$[0]') AND e.id = json_extract(wanted.value, '$[1]');

-- name: event
SELECT * FROM events WHERE tenant = ? AND id = ?;

-- name: event_of_any_tenant
SELECT * FROM events WHERE id = ? ORDER BY seq LIMIT 2;

-- name: events_after
SELECT * FROM events WHERE seq > ?1 AND ?2 IS NULL ORDER BY seq LIMIT ?3;

-- name: tenant_events_after
SELECT * FROM events INDEXED BY events_by_tenant WHERE seq > ?1 AND tenant = ?2
ORDER BY seq LIMIT ?3;

-- name: recent_events
-- In a stretch of time, those that were settled last come first.
SELECT * FROM events INDEXED BY events_by_tenant
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3
ORDER BY seq DESC LIMIT ?4;

-- name: recent_user_events
SELECT * FROM events
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3 AND user = ?4
ORDER BY seq DESC LIMIT ?5;


-- name: tenant_days
-- Cost, tokens and requests of whole UTC days.
SELECT sum(cost), sum(tokens), sum(requests) FROM days
WHERE tenant = ?1 AND day >= ?2 AND day < ?3;

-- name: user_days
SELECT sum(cost), sum(tokens), sum(requests) FROM days
WHERE tenant = ?1 AND day >= ?2 AND day < ?3 AND user = ?4;

-- name: tool_days
SELECT sum(cost), sum(tokens), sum(requests) FROM days
WHERE tenant = ?1 AND day >= ?2 AND day < ?3 AND tool = ?4;

-- name: tenant_sums
-- Cost, tokens and requests of events, in buckets of a width; first the latest time in each.
SELECT max(counted_us), sum(cost), sum(tokens), sum(requests) FROM events
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3 GROUP BY counted_us / ?4;

-- name: user_sums
SELECT max(counted_us), sum(cost), sum(tokens), sum(requests) FROM events
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3 AND user = ?5
GROUP BY counted_us / ?4;

-- name: tool_sums
SELECT max(counted_us), sum(cost), sum(tokens), sum(requests) FROM events
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3 AND tool = ?5
GROUP BY counted_us / ?4;

-- name: label_sums
SELECT max(e.counted_us), sum(e.cost), sum(e.tokens), sum(e.requests)
FROM labels AS l JOIN events AS e ON e.seq = l.seq
WHERE l.tenant = ?1 AND l.label = ?5 AND l.counted_us >= ?2 AND l.counted_us < ?3
GROUP BY e.counted_us / ?4;

-- name: usage_of_days
SELECT user, tool, model, sum(cost), sum(tokens), sum(requests), sum(events) FROM days
WHERE tenant = ?1 AND day >= ?2 AND day < ?3 GROUP BY user, tool, model;

-- name: usage_of_events
SELECT user, tool, model, sum(cost), sum(tokens), sum(requests), count(*) FROM events
WHERE tenant = ?1 AND counted_us >= ?2 AND counted_us < ?3 GROUP BY user, tool, model;


-- name: fired
SELECT 1 FROM alerts
WHERE tenant = ? AND scope = ? AND value = ? AND measure = ? AND kind = ? AND start_us = ?
    AND policy_id = ? AND share = ?;

-- name: add_alert
INSERT INTO alerts (
    tenant, scope, value, measure, kind, start_us, policy_id, share, "limit", committed, at_us
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: alerts_after
SELECT * FROM alerts WHERE seq > ? ORDER BY seq LIMIT ?;


-- name: verify_events
SELECT tenant, counted_us, user, tool, labels, cost, tokens, requests FROM events;

-- name: verify_reservations
SELECT tenant, counted_us, user, tool, labels, cost, tokens, requests, concurrent
FROM reservations WHERE state IN ('pending', 'reserved');

-- name: verify_days
-- Days whose sums differ from those of their events: for each sum what the events say, and what is
-- kept.
WITH told AS (
    SELECT
        tenant, (counted_us - (counted_us % ?1 + ?1) % ?1) / ?1 AS day,
        ifnull(user, 0) AS user, tool, ifnull(model, 0) AS model,
        sum(cost) AS cost, sum(tokens) AS tokens, sum(requests) AS requests, count(*) AS events
    FROM events GROUP BY 1, 2, 3, 4, 5
),
both AS (
    SELECT *, 0 AS kept_cost, 0 AS kept_tokens, 0 AS kept_requests, 0 AS kept_events FROM told
    UNION ALL
    SELECT tenant, day, user, tool, model, 0, 0, 0, 0, cost, tokens, requests, events FROM days
)
SELECT
    tenant, day, user, tool, model, sum(cost), sum(kept_cost), sum(tokens), sum(kept_tokens),
    sum(requests), sum(kept_requests), sum(events), sum(kept_events)
FROM both GROUP BY 1, 2, 3, 4, 5
HAVING sum(cost) <> sum(kept_cost) OR sum(tokens) <> sum(kept_tokens)
    OR sum(requests) <> sum(kept_requests) OR sum(events) <> sum(kept_events)
LIMIT ?2;
