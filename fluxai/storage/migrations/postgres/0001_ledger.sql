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
