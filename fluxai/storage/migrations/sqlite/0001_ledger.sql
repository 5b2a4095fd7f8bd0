-- The ledger of one file.
--
-- Amounts are integers: nano-USD in `cost`, counts elsewhere. Times are integer microseconds since
-- the epoch, UTC (`_us`). Ids of reservations, and of the events that settle them, are UUIDs in
-- text form. Lists and mappings are JSON text.

-- How often the rules of a tenant changed; '*' stands for those that concern every tenant.
CREATE TABLE versions (
    tenant TEXT PRIMARY KEY,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tenants, users, tools, models, policies and grants, as the governor wrote them.
CREATE TABLE records (
    kind TEXT NOT NULL,
    scope TEXT NOT NULL,
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, scope, id)
) STRICT;

-- Running accounts. An open reservation refers to its counters by id, so ids are never used again.
CREATE TABLE counters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    measure TEXT NOT NULL,
    kind TEXT NOT NULL,
    start_us INTEGER NOT NULL,
    end_us INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    reserved INTEGER NOT NULL,
    carried INTEGER NOT NULL,
    ring TEXT, -- of a rolling window: {"head": bucket, "buckets": {bucket: amount}}
    UNIQUE (tenant, scope, value, measure, kind, start_us)
) STRICT;
CREATE INDEX counters_by_end ON counters (end_us);

-- What reservations were judged by: limits and prices of a tool for one subject, each plan once.
CREATE TABLE plans (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    candidates TEXT NOT NULL
) STRICT;

CREATE TABLE reservations (
    seq INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    user TEXT,
    labels TEXT NOT NULL,
    requested_tool TEXT NOT NULL,
    tool TEXT NOT NULL,
    model TEXT,
    decision TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'reserved', 'settled', 'released', 'expired')),
    counted_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    resolved_us INTEGER,
    cost INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    concurrent INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    need TEXT NOT NULL,
    method TEXT NOT NULL,
    key TEXT,    -- idempotency key
    digest TEXT, -- of the arguments that came with the key
    asked INTEGER NOT NULL, -- 1 where a row of `approvals` belongs to it
    exact TEXT,  -- the event that corrected an estimated settlement
    counters TEXT NOT NULL,
    plan INTEGER, -- what it was judged by
    judged TEXT NOT NULL, -- and the numbers of that moment
    UNIQUE (tenant, id)
) STRICT;
CREATE INDEX reservations_by_id ON reservations (id);
CREATE INDEX reservations_by_key ON reservations (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX reservations_open ON reservations (tenant, expires_us)
    WHERE state IN ('pending', 'reserved');

CREATE TABLE approvals (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    user TEXT,
    tool TEXT NOT NULL,
    cost INTEGER NOT NULL,
    labels TEXT NOT NULL,
    message TEXT NOT NULL,
    requested_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    decided_us INTEGER,
    decided_by TEXT,
    reason TEXT,
    claim TEXT,
    PRIMARY KEY (tenant, id)
) STRICT, WITHOUT ROWID;

-- What was spent: append-only, the truth from which every sum can be made again.
CREATE TABLE events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    reservation_id TEXT,
    at_us INTEGER NOT NULL,
    counted_us INTEGER NOT NULL,
    user TEXT,
    tool TEXT NOT NULL,
    model TEXT,
    cost INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    usage TEXT,
    labels TEXT NOT NULL,
    decision TEXT NOT NULL,
    flags TEXT NOT NULL,
    price_version TEXT,
    outcome TEXT NOT NULL,
    corrects TEXT,
    note TEXT,
    UNIQUE (id, tenant)
) STRICT;
CREATE INDEX events_by_tenant ON events (tenant); -- and so by seq, which every index ends with
CREATE INDEX events_by_time ON events (tenant, counted_us);
CREATE INDEX events_by_user ON events (tenant, user, counted_us) WHERE user IS NOT NULL;

-- Which events carry a label, as 'key=value'.
CREATE TABLE labels (
    tenant TEXT NOT NULL,
    label TEXT NOT NULL,
    counted_us INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (tenant, label, counted_us, seq)
) STRICT, WITHOUT ROWID;

-- Sums of events per UTC day, as days since the epoch. No user, or no model, is the integer 0: a
-- key can't hold NULL, and no text equals a number.
CREATE TABLE days (
    tenant TEXT NOT NULL,
    day INTEGER NOT NULL,
    user ANY NOT NULL,
    tool TEXT NOT NULL,
    model ANY NOT NULL,
    cost INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, user, tool, model)
) STRICT, WITHOUT ROWID;
CREATE INDEX days_by_user ON days (tenant, user, day);

-- Alerts that were raised: once per window, policy and share.
CREATE TABLE alerts (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    measure TEXT NOT NULL,
    kind TEXT NOT NULL,
    start_us INTEGER NOT NULL,
    policy_id TEXT NOT NULL,
    share TEXT NOT NULL,
    "limit" INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    UNIQUE (tenant, scope, value, measure, kind, start_us, policy_id, share)
) STRICT;
