-- Times are Unix milliseconds, 0 where there is none. An empty text of an event or a delivery is null: it costs less. States: 1 pending, 2 delivered, 3 failed; of an event without
-- deliveries 3 failed, 4 ignored, 5 unrouted (ignored too, but kept longer), of one with deliveries 0.

CREATE TABLE events (
	seq         INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice
	source      TEXT NOT NULL,
	id          TEXT NOT NULL,
	dedupe_key  TEXT,                              -- null where the event cannot be a duplicate
	type        TEXT NOT NULL,
	account     TEXT,
	livemode    INTEGER NOT NULL,
	api_version TEXT,
	object      TEXT,
	customer    TEXT,
	created     INTEGER NOT NULL,
	received    INTEGER NOT NULL,
	state       INTEGER NOT NULL,
	reason      TEXT,
	answered    INTEGER NOT NULL,
	query       TEXT,
	headers     BLOB,
	forwarded   BLOB,
	sha256      BLOB NOT NULL,
	UNIQUE (source, dedupe_key)
);
CREATE INDEX events_kept ON events (state, seq) WHERE state <> 0;

-- Apart, so that lists of events stay narrow.
CREATE TABLE bodies (
	event INTEGER PRIMARY KEY,
	body  BLOB NOT NULL
);

-- started, ms and trigger are the last attempt's: a success at the first try has no row in attempts.
-- Leases are not here: the file belongs to one process, so they live in its memory and end with it. What was leased
-- when a process died is due as before.
CREATE TABLE deliveries (
	event        INTEGER NOT NULL,
	backend      TEXT NOT NULL,
	state        INTEGER NOT NULL,
	turn         INTEGER NOT NULL,
	attempts     INTEGER NOT NULL,
	due          INTEGER NOT NULL,
	turn_started INTEGER NOT NULL,
	status       INTEGER NOT NULL,
	class        TEXT,
	started      INTEGER NOT NULL,
	ms           INTEGER NOT NULL,
	trigger      TEXT,
	PRIMARY KEY (event, backend)
) WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (backend, due, event) WHERE state = 1;
CREATE INDEX deliveries_failed ON deliveries (event) WHERE state = 3;

CREATE TABLE attempts (
	event   INTEGER NOT NULL,
	backend TEXT NOT NULL,
	turn    INTEGER NOT NULL,
	n       INTEGER NOT NULL,
	started INTEGER NOT NULL,
	ms      INTEGER NOT NULL,
	status  INTEGER NOT NULL,
	class   TEXT NOT NULL,
	error   TEXT NOT NULL,
	trigger TEXT NOT NULL,
	excerpt TEXT NOT NULL,
	PRIMARY KEY (event, backend, turn, n)
) WITHOUT ROWID;

-- What events of a range of numbers there can be, so that a search may pass it: when they were received, and a Bloom
-- filter of the objects, customers and accounts that they name. Such a row costs a hundredth of what an index entry for
-- each would, and it is written later, by nobody who waits.
CREATE TABLE segments (
	first  INTEGER PRIMARY KEY,
	last   INTEGER NOT NULL,
	oldest INTEGER NOT NULL,
	newest INTEGER NOT NULL,
	filter BLOB NOT NULL
);

-- How many deliveries of a backend are in a state; written with each batch.
CREATE TABLE totals (
	backend TEXT NOT NULL,
	state   INTEGER NOT NULL,
	count   INTEGER NOT NULL,
	PRIMARY KEY (backend, state)
) WITHOUT ROWID;

-- Events that retention took: their ids only, for 31 days.
CREATE TABLE seen (
	source   TEXT NOT NULL,
	id       TEXT NOT NULL,
	state    INTEGER NOT NULL,
	received INTEGER NOT NULL,
	answered INTEGER NOT NULL,
	pruned   INTEGER NOT NULL,
	PRIMARY KEY (source, id)
) WITHOUT ROWID;

CREATE TABLE quarantine (
	seq         INTEGER PRIMARY KEY AUTOINCREMENT,
	source      TEXT NOT NULL,
	received    INTEGER NOT NULL,
	client      TEXT NOT NULL,
	reason      TEXT NOT NULL,
	query       TEXT NOT NULL,
	headers     BLOB,
	forwarded   BLOB,
	sha256      BLOB NOT NULL,
	body        BLOB NOT NULL
);

-- What works through many events in the background. doc is the worker's own, in JSON.
CREATE TABLE jobs (
	id      INTEGER PRIMARY KEY AUTOINCREMENT,
	doc     BLOB NOT NULL,
	updated INTEGER NOT NULL
);

CREATE TABLE notes (
	key     TEXT PRIMARY KEY,
	value   TEXT NOT NULL,
	version INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE audit (
	seq    INTEGER PRIMARY KEY AUTOINCREMENT,
	at     INTEGER NOT NULL,
	actor  TEXT NOT NULL,
	action TEXT NOT NULL,
	detail TEXT NOT NULL
);
